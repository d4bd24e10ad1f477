"""Kernel: the symbols, types and facts that BPF objects are resolved against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from ksyms.btf import Btf
from ksyms.capture_files import BTF, IMAGE, TEXT, VMLINUX, read_facts
from ksyms.errors import CaptureError
from ksyms.facts import Facts
from ksyms.kallsyms import Kallsyms, KallsymsImage, KallsymsText, load_symbols
from ksyms.running import RunningLinux
from ksyms.vmlinux import load_btf

RUNNING = "running"


class Kernel:
    """A kernel as a BPF loader meets it: running, captured, or described by files."""

    def __init__(
        self,
        *,
        name: str,
        symbols: Kallsyms | None,
        btf: Btf | None,
        modules: Sequence[tuple[str, str | Path]] = (),
        facts: Facts | None = None,
        is_running: bool = False,
    ) -> None:
        """A kernel called *name*; without kallsyms or BTF where those are None.

        *modules* are in the order of their BTF ids: name, and file of the split BTF,
        which is read when it is needed. *is_running* says that bpf(2) asks this kernel.
        """
        self.name = name
        self.symbols = symbols
        self.btf = btf
        self.facts = facts or Facts()
        self.is_running = is_running
        self._files = tuple(modules)
        self._modules: dict[str, Btf] = {}

    @classmethod
    def running(
        cls, *, ksyms: str | Path | None = None, linux: RunningLinux | None = None
    ) -> Self:
        """The kernel that runs: /proc/kallsyms (or the image *ksyms*) and its BTF.

        What the caller may not see is missing or 0, as it would be for libbpf.
        Raises OSError, ImageError, BtfError.
        """
        linux = linux or RunningLinux()
        symbols: Kallsyms | None = None
        if ksyms is not None:
            symbols = KallsymsImage.load(ksyms)
        elif (text := linux.kallsyms()) is not None:
            symbols = KallsymsText(text)
        path = linux.vmlinux_btf()
        return cls(
            name=RUNNING,
            symbols=symbols,
            btf=None if path is None else load_btf(path, name=VMLINUX),
            modules=linux.module_btfs(),
            facts=linux.facts(),
            is_running=linux.is_this,
        )

    @classmethod
    def load(cls, capture: str | Path) -> Self:
        """The kernel in the folder *capture*, as `ksyms capture` wrote it.

        Raises OSError, CaptureError, ImageError, BtfError.
        """
        directory = Path(capture)
        facts = read_facts(directory)
        tables = [directory / name for name in (IMAGE, TEXT)]
        symbols = [load_symbols(path) for path in tables if path.exists()][:1]
        if not symbols:
            raise CaptureError(str(directory), f"has neither {IMAGE} nor {TEXT}")
        folder = directory / BTF
        vmlinux = folder / VMLINUX
        return cls(
            name=str(capture),
            symbols=symbols[0],
            btf=load_btf(vmlinux, name=VMLINUX) if vmlinux.exists() else None,
            modules=[(name, folder / name) for name in facts.modules],
            facts=facts,
        )

    def __repr__(self) -> str:
        return f"<Kernel {self.name}: {len(self._files)} modules with BTF>"

    @property
    def modules(self) -> Iterator[Btf]:
        """The modules' BTFs in id order, each read when the ones before did not do.

        Raises BtfError, OSError.
        """
        if self.btf is None:
            return
        for name, path in self._files:
            if name not in self._modules:
                self._modules[name] = load_btf(path, base=self.btf, name=name)
            yield self._modules[name]
