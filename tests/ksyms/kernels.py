"""Kernels for the tests: those of the recorded cases, and made-up ones."""

from __future__ import annotations

from functools import cache

from ksyms.btf import Btf
from ksyms.facts import Facts
from ksyms.kallsyms import KallsymsText
from ksyms.kernel import Kernel
from tests.ksyms import bpf_cases


@cache
def recorded_kernel(tables: str) -> Kernel:
    """The kernel that *tables* stands for in expected_ksym.json."""
    symbols = None
    if tables != "missing":
        name = "real" if tables == "kernel" else tables
        symbols = KallsymsText(bpf_cases.table(f"kallsyms_{name}.txt"))
    modules = ["moda", "modb"] if tables == "a" else []
    return Kernel(
        name=tables,
        symbols=symbols,
        btf=bpf_cases.vmlinux(),
        modules=[(m, bpf_cases.CASES / "tables" / f"{m}.btf") for m in modules],
        facts=Facts(release="6.18.44", machine="x86_64", kallsyms_all=False),
    )


def made_up_kernel(kallsyms: bytes | None, btf: bytes | None) -> Kernel:
    """A kernel of just these symbols and types."""
    return Kernel(
        name="made up",
        symbols=None if kallsyms is None else KallsymsText(kallsyms),
        btf=None if btf is None else Btf.from_bytes(btf, name="vmlinux"),
    )
