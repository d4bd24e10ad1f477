"""Objects built here and now, against the libbpf that the system has.

Debian 12 has libbpf 1.1; where 1.8 speaks or decides otherwise, AGED says so.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from ksyms.bpf.instruction import CALL, POISON
from ksyms.bpf.object import BpfObject
from ksyms.kernel import Kernel
from ksyms.resolution import resolve
from tests.ksyms import bpf_cases
from tests.ksyms.clang import build

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

# What libbpf 1.1 does otherwise (reference/libbpf history): functions keep their
# ___flavour (until 1.3), a weak function of another prototype is an error (until 1.3),
# and .llvm. symbols are not known (until 1.5).
AGED = {"s12f_func_incompat_argc_weak"}


class Said(NamedTuple):
    """What libbpf_load printed."""

    warnings: list[str]
    debug: list[str]
    maps: list[str]
    insns: dict[str, bytes]
    """Of each section; those with several programs have none."""
    result: str


@pytest.fixture(scope="session")
def libbpf_load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Said]:
    """Runs libbpf's own loader on an object; needs libbpf-dev."""
    program = tmp_path_factory.mktemp("libbpf") / "libbpf_load"
    done = subprocess.run(
        ["cc", "-O", "-o", program, PROGRAM, "-lbpf"], capture_output=True, text=True
    )
    if "bpf/libbpf.h" in done.stderr or "-lbpf" in done.stderr:
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
        kinds: dict[str, list[str]] = {"warn": [], "debug": [], "map": [], "insns": []}
        for line in done.stdout.splitlines():
            kind, _, text = line.partition(" ")
            if kind in kinds:
                kinds[kind].append(text.removeprefix("libbpf: "))
        result = done.stdout.splitlines()[-1]
        programs = [text.rpartition(" ")[::2] for text in kinds["insns"]]
        sections = [section for section, _ in programs]
        insns = {
            section: bytes.fromhex(code)
            for section, code in programs
            if sections.count(section) == 1
        }
        return Said(kinds["warn"], kinds["debug"], kinds["map"], insns, result)

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


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sources, compiled."""
    folder = tmp_path_factory.mktemp("built")
    for name, text in sources().items():
        build(folder, name, text)
    return folder


@pytest.fixture(scope="session")
def kernel() -> Kernel:
    return Kernel.running()


# libbpf's lines about externs: all it says of them once they are resolved.
SET = re.compile(r"extern \(ksym\) '(.*)': set to (0x[0-9a-f]+)$")
VAR = re.compile(r"extern \(var ksym\) '(.*)': resolved to \[(\d+)\]")
FUNC = re.compile(r"extern \(func ksym\) '(.*)': resolved to kernel \[(\d+)\]")
WEAK = re.compile(r"extern '(.*)' \(weak\): not resolved")
USED = re.compile(r"prog '.*': found extern #\d+ '(.*)' \(sym \d+\) for insn #\d+$")
LISTED = re.compile(r"extern \(ksym\) #\d+: symbol (\d+), name (.*)$")
ABOUT_EXTERNS = re.compile(r"extern|unrecognized extern section|kallsyms entry")


def of_1_8(text: str) -> str:
    """A message of libbpf 1.1 as 1.8 words it."""
    return re.sub(r"(func_proto .* incompatible with) kernel", r"\1 vmlinux", text)


@pytest.mark.parametrize("name", sorted(sources()))
def test_libbpf_agrees_about_what_was_just_built(
    name: str, built: Path, libbpf_load: Callable[..., Said], kernel: Kernel
) -> None:
    path = built / f"{name}.o"
    said = libbpf_load(path)
    obj = BpfObject.load(path)
    answer = resolve(obj, kernel)
    found = {e.extern.name: e for e in answer.externs}
    told = [of_1_8(text) for text in said.warnings if ABOUT_EXTERNS.search(text)]

    if not obj.failures:
        listed = [m.groups() for text in said.debug if (m := LISTED.match(text))]
        ksyms = [e for e in obj.externs if e.kind != "kconfig"]
        assert listed == [(str(e.symbol), e.name) for e in ksyms]
        used = [m[1] for text in said.debug if (m := USED.match(text))]
        assert sorted(used) == sorted(use.extern for use in obj.uses)
    if name in AGED:
        assert (told != []) != (answer.error is not None)
        return
    assert told[:1] == ([answer.error] if answer.error else [])
    for text in said.debug:
        if (m := SET.match(text)) and found[m[1]].btf is None:
            assert found[m[1]].address == int(m[2], 16)
        elif m := VAR.match(text) or FUNC.match(text):
            assert found[m[1]].btf_id == int(m[2])
        elif (m := WEAK.match(text)) and found[m[1]].extern.kind != "kconfig":
            assert found[m[1]].status == "unresolved"
    if answer.is_ok:
        resolved = {e.extern.name for e in answer.externs if e.status == "resolved"}
        set_names = {
            m[1]
            for text in said.debug
            for pattern in (SET, VAR, FUNC)
            if (m := pattern.match(text))
        }
        assert resolved <= set_names


@pytest.mark.parametrize("name", sorted(sources()))
def test_libbpf_writes_the_same_instructions(
    name: str, built: Path, libbpf_load: Callable[..., Said], kernel: Kernel
) -> None:
    path = built / f"{name}.o"
    said = libbpf_load(path)
    answer = resolve(BpfObject.load(path), kernel)

    if not answer.is_ok or name in AGED:
        assert not said.result.endswith(" 0")
        return
    for section, offset, _, insn, _ in answer.instructions:
        # Calls of absent functions are poisoned since libbpf 1.2.
        is_poisoned = insn.code == CALL and insn.imm >= POISON
        if section in said.insns and not is_poisoned:
            ours = insn.to_bytes("little")
            assert said.insns[section][offset : offset + len(ours)] == ours
    assert said.insns


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(bpf_cases.archive())
        if path.endswith(".o")
        and path.startswith(("objects/", "extra/"))
        # libbpf 1.0 gave up legacy maps; the bad externs cannot be opened.
        and not path.endswith(
            ("legacy_map.o", "bad_externs.o", "kconfig.o", "section_func.o")
        )
    ],
)
def test_libbpf_makes_the_same_maps_of_an_object(
    path: str, tmp_path: Path, libbpf_load: Callable[..., Said]
) -> None:
    file = tmp_path / "case.o"
    file.write_bytes(bpf_cases.archive()[path])
    said = libbpf_load(file, "open")
    theirs = [line.removeprefix("case") for line in said.maps if ".kconfig" not in line]

    assert theirs == [
        f"{m.name} {m.type} {m.key_size} {m.value_size} {m.max_entries} "
        f"{m.map_flags:#x} {m.key_type_id} {m.value_type_id}".replace("0x0 ", "0 ")
        for m in BpfObject.load(file).maps
    ]
