"""BPF objects that need a module: `ksyms bpf check` says what libbpf does there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.guest.kernel_modules import kallsyms, loading, unload
from tests.integration.server import environment

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

OBJECTS = Path(__file__).resolve().parent.parent / "data" / "module_ksym"
PIN = Path("/sys/fs/bpf/ksymsfs_test")


def check(name: str) -> dict[str, Any]:
    """The report on an object, from the tables and BTFs of the running kernel."""
    argv = [sys.executable, "-m", "ksyms", "--json", "bpf", "check"]
    done = subprocess.run(
        [*argv, OBJECTS / name], capture_output=True, text=True, env=environment()
    )
    assert done.returncode in (0, 1), done.stderr
    (report,) = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def libbpf(name: str) -> tuple[bool, str]:
    """Whether bpftool's libbpf loads the object, and what it says."""
    done = subprocess.run(
        ["bpftool", "-d", "prog", "load", OBJECTS / name, PIN],
        capture_output=True,
        text=True,
        errors="replace",
    )
    PIN.unlink(missing_ok=True)
    return done.returncode == 0, done.stderr


def externs(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {extern["name"]: extern for extern in report["externs"]}


NEEDED = {
    "module_ksym.bpf.o": ("nf_conntrack", "dummy"),
    "module_var.bpf.o": ("x_tables",),
}


def require_btf(module: str) -> None:
    if not Path("/sys/kernel/btf", module).exists():
        pytest.skip("this kernel gives its modules no BTF: that came with Linux 5.11")


@pytest.mark.parametrize("is_there", [True, False], ids=["loaded", "unloaded"])
@pytest.mark.parametrize("name", NEEDED)
def test_the_verdict_and_its_words_are_libbpfs(name: str, is_there: bool) -> None:
    unload(*NEEDED[name])
    with loading(*NEEDED[name]) if is_there else nullcontext():
        report = check(name)
        loaded, said = libbpf(name)

    assert (report["result"] == "ok") == loaded
    assert loaded or report["error"] in said


def test_a_kfunc_resolves_in_its_modules_btf_as_libbpf_finds_it() -> None:
    with loading("nf_conntrack"), loading("dummy"):
        require_btf("nf_conntrack")
        report = check("module_ksym.bpf.o")
        loaded, said = libbpf("module_ksym.bpf.o")

    # libbpf before 1.3 says "kernel" for every BTF.
    kernels = {
        name: (where, int(number))
        for name, where, number in re.findall(
            r"extern \(func ksym\) '(\w+)': resolved to (\w+) \[(\d+)\]", said
        )
    }
    ours = externs(report)
    assert loaded
    assert report["result"] == "ok"
    assert set(kernels) == {"bpf_ct_release", "bpf_xdp_ct_lookup"}
    for name, (where, number) in kernels.items():
        assert ours[name]["btf"] == "nf_conntrack"
        assert where in ("kernel", "nf_conntrack")
        assert ours[name]["btf_id"] == number


def test_a_typeless_variable_resolves_to_its_address_in_the_module() -> None:
    with loading("nf_conntrack"), loading("dummy"):
        require_btf("nf_conntrack")
        report = check("module_ksym.bpf.o")
        _, said = libbpf("module_ksym.bpf.o")
        (line,) = [line for line in kallsyms() if line.name == "dummy_link_ops"]

    ours = externs(report)
    assert ours["dummy_link_ops"]["addr"] == f"{line.address:#x}"
    assert f"'dummy_link_ops': set to {line.address:#x}" in said
    assert ours["no_such_symbol"]["status"] == "unresolved"
    assert "'no_such_symbol' (weak): not resolved" in said


def test_a_per_cpu_variable_resolves_in_its_modules_btf() -> None:
    with loading("x_tables"):
        require_btf("x_tables")
        report = check("module_var.bpf.o")
        loaded, said = libbpf("module_var.bpf.o")

    found = re.search(r"extern \(var ksym\) 'xt_recseq': resolved to \[(\d+)\]", said)
    ours = externs(report)["xt_recseq"]
    assert loaded, said[-2000:]
    assert found is not None
    assert (ours["kind"], ours["btf"]) == ("var", "x_tables")
    assert ours["btf_id"] == int(found[1])
