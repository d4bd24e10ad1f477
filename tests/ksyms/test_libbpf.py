"""Objects built here and now, and the recorded ones, against the system's libbpf.

Debian 12 has libbpf 1.1; where 1.8 speaks or decides otherwise, SINCE says so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from ksyms.bpf.object import BpfObject
from ksyms.kernel import Kernel
from ksyms.resolution import resolve
from tests.ksyms import bpf_cases, libbpf_said
from tests.ksyms.clang import build
from tests.ksyms.libbpf_said import Said
from tests.ksyms.test_libbpf_recorded import archive

pytestmark = pytest.mark.bpf

PROGRAM = Path(__file__).with_name("libbpf_load.c")
INCLUDES = '#include "mini.h"\nchar LICENSE[] SEC("license") = "GPL";\n__u64 out[16];\n'
WRAPPER = 'SEC("raw_tp/sys_enter") int prog(void *ctx) {{ {} return 0; }}\n'

# Shapes that the recorded cases do not have: declarations, then uses.
EXTRA = {
    "weak_typed_only_in_kallsyms": (
        "extern const int schedule __ksym __weak; extern const void _stext __ksym;",
        "out[0] = (__u64)&schedule; out[1] = (__u64)&_stext;",
    ),
    "typed_pointer_to_another_struct": (
        "struct other { int x; }; extern struct other *current_task __ksym;",
        "out[0] = (__u64)&current_task;",
    ),
    "func_with_enum_for_int": (
        "enum e { A }; extern void *bpf_task_from_pid(enum e x) __ksym;",
        "out[0] = (__u64)bpf_task_from_pid(A);",
    ),
    "typed_and_func_both_missing": (
        "extern int nowhere_b __ksym; extern void nowhere_a(void) __ksym;",
        "out[0] = (__u64)&nowhere_b; nowhere_a();",
    ),
    "weak_and_strong_in_one": (
        "extern const void nowhere __ksym __weak; extern const void jiffies64 __ksym;",
        "out[0] = (__u64)&nowhere; out[1] = (__u64)&jiffies64;",
    ),
    "elsewhere": (
        'extern int there __attribute__((section(".there")));',
        "out[0] = there;",
    ),
    "kconfig_struct": (
        "struct s { int a; }; extern struct s CONFIG_X __kconfig;",
        "out[0] = CONFIG_X.a;",
    ),
    "kconfig_void": (
        "extern const void CONFIG_X __kconfig;",
        "out[0] = (__u64)&CONFIG_X;",
    ),
    "kconfig_enum": (
        "enum e { A }; extern enum e CONFIG_X __kconfig;"
        "enum libbpf_tristate { N, Y, M };"
        "extern enum libbpf_tristate CONFIG_BPF __kconfig;",
        "out[0] = CONFIG_X + CONFIG_BPF;",
    ),
    "kconfig_int128": (
        "extern unsigned __int128 CONFIG_X __kconfig;",
        "out[0] = CONFIG_X;",
    ),
    "kconfig_ints": (
        "extern int CONFIG_X[3] __kconfig; extern char CONFIG_Y[4] __kconfig;",
        "out[0] = CONFIG_X[1] + CONFIG_Y[1];",
    ),
    "kconfig_all_good": (
        "extern _Bool CONFIG_BPF __kconfig; extern char CONFIG_NET __kconfig;"
        "extern long CONFIG_HZ __kconfig; extern char CONFIG_LOCALVERSION[9] __kconfig;"
        "enum libbpf_tristate { N, Y, M };"
        "extern enum libbpf_tristate CONFIG_INET __kconfig __weak;",
        "out[0] = CONFIG_BPF + CONFIG_NET + CONFIG_HZ + CONFIG_LOCALVERSION[2]"
        " + CONFIG_INET;",
    ),
    "kconfig_function": (
        "extern int there(void) __kconfig;",
        "out[0] = there();",
    ),
}

# The versions of libbpf that first agree with 1.8: since 1.3 functions lose their
# ___flavour, and a weak function of another prototype is one that is not there.
_1_3 = """
f_flav17 f_flavour f_flavour_strong_bad f_flavs17 f_fnptr_arg f_fnptr_arg2
f_ret_int_for_ptr_weak f_static_fn f_variadic_weak s12f_func_incompat_argc_weak
x_L_f_flavour_f_not_kfunc
"""
SINCE = dict.fromkeys(_1_3.split(), (1, 3))
# Poisoned calls came with 1.2.
POISONS = (1, 2)


@pytest.fixture(scope="session")
def libbpf_load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Said]:
    """Runs libbpf's own loader on an object; needs libbpf-dev."""
    program = tmp_path_factory.mktemp("libbpf") / "libbpf_load"
    done = subprocess.run(
        ["cc", "-O", "-o", program, PROGRAM, "-lbpf"], capture_output=True, text=True
    )
    if "bpf/btf.h" in done.stderr or "-lbpf" in done.stderr:
        pytest.skip("libbpf-dev is not installed")
    assert done.returncode == 0, done.stderr

    @cache
    def load(path: Path, *options: str) -> Said:
        done = subprocess.run(
            [program, path, *options],
            capture_output=True,
            check=True,
            errors="surrogateescape",
        )
        return Said.parse(done.stdout)

    return load


def sources() -> dict[str, str]:
    """The recorded __ksym cases for real tables, and the extra ones."""
    found = {
        path.removeprefix("src/").removesuffix(".bpf.c"): content.decode()
        for path, content in bpf_cases.archive().items()
        if path.startswith("src/s") and path.endswith(".c")
    }
    for name, (declarations, uses) in EXTRA.items():
        found[name] = INCLUDES + declarations + "\n" + WRAPPER.format(uses)
    return found


def recorded() -> list[str]:
    """Objects that libbpf 1.7 was asked about, but for those on special fields.

    A fourth of them: what it said of all is in test_libbpf_recorded.
    """
    objects = [name.removesuffix(".o") for name in archive() if name.endswith(".o")]
    objects = [name for name in objects if not name.startswith("q_")]
    return objects if "KSYMSFS_STRESS" in os.environ else objects[::4]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sources, compiled, and the recorded objects."""
    folder = tmp_path_factory.mktemp("built")
    for name, text in sources().items():
        build(folder, name, text)
    for name in recorded():
        (folder / f"{name}.o").write_bytes(archive()[f"{name}.o"])
    return folder


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    return Kernel.running()


@pytest.mark.parametrize("name", sorted((*sources(), *recorded())))
def test_libbpf_agrees_about_it(
    name: str, built: Path, libbpf_load: Callable[..., Said], kernel: Kernel
) -> None:
    path = built / f"{name}.o"
    said = libbpf_load(path)
    obj = BpfObject.load(path)
    answer = resolve(obj, kernel)
    if said.version < SINCE.get(name, (1, 0)):
        assert list(libbpf_said.about_externs(answer, said)) != []
        return

    assert list(libbpf_said.about_opening(obj, said)) == []
    if not obj.failures:
        assert list(libbpf_said.about_maps(obj, said)) == []
        assert list(libbpf_said.about_externs(answer, said)) == []
        poisons = said.version >= POISONS
        found = libbpf_said.about_instructions(answer, said, poisons=poisons)
        assert list(found) == []


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(bpf_cases.archive())
        if path.endswith(".o") and path.startswith(("objects/", "extra/"))
    ],
)
def test_libbpf_opens_it_with_the_same_types_and_maps(
    path: str, tmp_path: Path, libbpf_load: Callable[..., Said]
) -> None:
    file = tmp_path / "case.o"
    file.write_bytes(bpf_cases.archive()[path])
    said = libbpf_load(file, "open")
    obj = BpfObject.load(file)

    assert list(libbpf_said.about_opening(obj, said)) == []
    if not obj.failures:
        assert list(libbpf_said.about_maps(obj, said)) == []
