"""A kernel's symbols from saved text: kallsyms or System.map, and /proc/modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ksymsfs.elf import ElfFormat
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.fingerprint import files_fingerprint
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import parse_modules, require_settled


class SavedTables:
    """The source that saved copies of /proc/kallsyms and /proc/modules make.

    Without *modules* the load order and the ranges are guessed from the symbols.
    """

    is_live = False

    def __init__(self, kallsyms: Path, modules: Path | None = None) -> None:
        self._kallsyms = kallsyms
        self._modules = modules
        self.format = ElfFormat.native()

    @property
    def name(self) -> str:
        return str(self._kallsyms)

    def fingerprint(self) -> object:
        paths = [self._kallsyms]
        return files_fingerprint(paths + ([self._modules] if self._modules else []))

    def linker_files(self) -> Sequence[LinkerFile]:
        modules = None
        if self._modules:
            path = str(self._modules)
            modules = parse_modules(self._modules.read_bytes(), path)
            require_settled(modules, path)
        text = self._kallsyms.read_bytes()
        return kallsyms_linker_files(text, modules, self.format, name=self.name)

    def close(self) -> None:
        """Nothing is held."""
