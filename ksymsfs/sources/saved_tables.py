"""A kernel's symbols from saved text: kallsyms or System.map, and /proc/modules."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ksymsfs.elf import SHN, ElfFormat
from ksymsfs.errors import SourceError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import Source
from ksymsfs.sources.files import (
    MAX_KALLSYMS,
    MAX_MODULES,
    files_fingerprint,
    read_file,
)
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import Module, parse_modules, require_settled


class SavedTables(Source):
    """The source that saved copies of /proc/kallsyms and /proc/modules make.

    Without *modules* the load order and the ranges are guessed from the symbols. A
    System.map tells where the kernel was linked; *relocation* is how far it was moved.
    """

    def __init__(
        self, kallsyms: Path, modules: Path | None = None, relocation: int = 0
    ) -> None:
        self._kallsyms = kallsyms
        self._modules = modules
        self._relocation = relocation
        self._format = ElfFormat.native()

    @property
    def name(self) -> str:
        return str(self._kallsyms)

    def fingerprint(self) -> Hashable:
        paths = [self._kallsyms]
        return files_fingerprint(paths + ([self._modules] if self._modules else []))

    def linker_files(self) -> Sequence[LinkerFile]:
        modules = self._read_modules()
        text = read_file(self._kallsyms, MAX_KALLSYMS)
        files = kallsyms_linker_files(text, modules, self.format, name=self.name)
        if self._relocation:
            files[0] = self._moved(files[0])
        return files

    def _read_modules(self) -> list[Module] | None:
        if self._modules is None:
            return None
        text = read_file(self._modules, MAX_MODULES)
        modules = parse_modules(text, str(self._modules))
        require_settled(modules, str(self._modules))
        return modules

    def _moved(self, kernel: LinkerFile) -> LinkerFile:
        # What lies below the kernel is absolute: per-CPU offsets, sizes.
        address = kernel.address + self._relocation
        if address < 0 or address + kernel.size > 1 << self.format.bits:
            raise SourceError(self.name, f"cannot be moved to {address:#x}")
        symtab = kernel.symtab.copy()
        placed = symtab["st_value"] >= kernel.address
        placed &= (symtab["st_shndx"] != SHN.ABS) | (np.arange(len(symtab)) == 1)
        symtab["st_value"][placed] += np.uint64(self._relocation % 2**64)
        return replace(kernel, address=address, symtab=symtab)
