"""The running FreeBSD kernel: its linker's files, read from disk and placed as it did.

No system call gives a whole symbol table. kldstat(2) tells which files are loaded and
where; kldsym(2) what only the kernel knows: resolved STT_GNU_IFUNC symbols of modules,
and where a module's per-CPU and per-vnet data was put.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ksymsfs.elf import ET, SHN, STT
from ksymsfs.errors import SourceChangingError, SourceError
from ksymsfs.linker import LinkerFile, name_offsets
from ksymsfs.sources import Source
from ksymsfs.sources.files import files_fingerprint, source_errors
from ksymsfs.sources.freebsd_linker import (
    has_vimage,
    kernel_linker_file,
    module_linker_file,
)
from ksymsfs.sources.kld import Kld, KldStat, SystemCalls
from ksymsfs.sources.objectfile import ObjectFile, read_object

KERNEL_ID = 1
CHECKED = 16
"""How many of a file's functions are asked for, to see whether it was replaced."""


class RunningFreeBSD(Source):
    """The symbols of the FreeBSD kernel below this process, or of *kld*'s answers.

    *root* is where the paths that the kernel tells are looked up.
    """

    is_live = True

    def __init__(self, kld: Kld | None = None, *, root: Path = Path("/")) -> None:
        self._kld = kld or SystemCalls()
        self._root = root

    @property
    def name(self) -> str:
        return "running kernel"

    def fingerprint(self) -> Hashable:
        """The linker files, their order, ids and addresses, and the files on disk.

        The id of the last file that was unloaded is given again: a module that comes
        back is the same if it comes back to the same place.
        """
        files = self._walk()
        return tuple(files), files_fingerprint(map(self._path, files))

    def linker_files(self) -> Sequence[LinkerFile]:
        """The kernel, then its modules in the order of kldstat(8).

        Raises SourceError where a file cannot be read or is not the one that was
        loaded, SourceChangingError when a module goes away meanwhile.
        """
        first, *others = self._walk()
        kernel = self._read(first)
        file = kernel_linker_file(kernel, self._relocation(kernel))
        self._check(first, file)
        files = [replace(file, address=first.address, size=first.size)]
        vimage = has_vimage(kernel)
        for stat in others:
            module = self._read(stat)
            if module.format != kernel.format:
                raise module.error("is not for the machine of the kernel")
            placed = module_linker_file(
                module,
                stat.address,
                stat.size,
                vimage=vimage,
                elsewhere=self._elsewhere(stat, module),
            )
            self._check(stat, placed)
            self._resolve(stat, placed)
            files.append(replace(placed, name=stat.name))
        self._format = kernel.format
        return files

    def _walk(self) -> list[KldStat]:
        files = []
        id_ = 0
        try:
            while id_ := self._kld.next(id_):
                files.append(self._kld.stat(id_))
        except FileNotFoundError:
            raise SourceChangingError(
                self.name, f"linker file {id_} was unloaded meanwhile"
            ) from None
        except OSError as error:
            raise SourceError(self.name, f"kldstat: {error.strerror}") from error
        if not files:
            raise SourceError(self.name, "the kernel lists no linker files")
        return files

    def _path(self, stat: KldStat) -> Path:
        path = self._uncompressed_path(stat)
        # The loader unpacks what it finds as FILE.gz, and says FILE (gzipfs.c).
        packed = path.with_name(path.name + ".gz")
        return packed if not path.exists() and packed.exists() else path

    def _uncompressed_path(self, stat: KldStat) -> Path:
        if stat.pathname.startswith("/"):
            return self._below_root(stat.pathname)
        if "/" in stat.pathname:
            raise SourceError(
                stat.pathname,
                "was loaded by a path that is relative to a directory that nobody "
                "knows: load it by its name or its whole path",
            )
        # Without a loader that says more, the kernel is "kernel".
        if stat.id == KERNEL_ID:
            return self._below_root(self._text("kern.bootfile"))
        folders = [
            self._below_root(f) for f in self._text("kern.module_path").split(";")
        ]
        found = (f / stat.pathname for f in folders if (f / stat.pathname).exists())
        return next(found, folders[0] / stat.pathname)

    def _below_root(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _text(self, sysctl: str) -> str:
        return self._kld.sysctl(sysctl).rstrip(b"\0").decode(errors="surrogateescape")

    def _read(self, stat: KldStat) -> ObjectFile:
        path = self._path(stat)
        with source_errors(path):
            return read_object(path)

    def _relocation(self, kernel: ObjectFile) -> int:
        # A kernel built RELOCATABLE_KERNEL is linked as a shared object.
        if kernel.type != ET.DYN:
            return 0
        bases = [
            int.from_bytes(self._kld.sysctl(name), sys.byteorder)
            for name in ("kern.base_address", "kern.relbase_address")
        ]
        return bases[1] - bases[0]

    def _elsewhere(self, stat: KldStat, module: ObjectFile) -> dict[str, int]:
        # Where sections are that the module's own memory does not hold: any of their
        # symbols tells. Most are local, which debug.link_elf_obj_leak_locals hides
        # when it is 0; it is 1 by default.
        found: dict[str, int] = {}
        if module.type != ET.REL:
            return found
        for number, section in enumerate(module.sections):
            if section.name not in ("set_pcpu", "set_vnet"):
                continue
            for symbol in module.symtab[module.symtab["st_shndx"] == number]:
                name = module.name_at(symbol["st_name"])
                # That of the section itself has no name.
                value = self._kld.symbol(stat.id, name) if name else None
                if value is not None:
                    found[section.name] = value - int(symbol["st_value"])
                    break
        return found

    def _check(self, stat: KldStat, placed: LinkerFile) -> None:
        # The file may have been replaced since it was loaded, by one of equal size.
        symtab = placed.symtab
        is_function = symtab["st_info"] & 15 == STT.FUNC
        functions = np.flatnonzero(is_function & (symtab["st_shndx"] != SHN.UNDEF))
        for number in functions[:: -(-len(functions) // CHECKED) or 1]:
            name = placed.name_at(symtab["st_name"][number])
            expected = int(symtab["st_value"][number])
            value = self._kld.symbol(stat.id, name)
            if value in (None, expected):
                continue
            # Of several static functions of one name kldsym knows but one.
            same = np.isin(symtab["st_name"], name_offsets(placed.strtab, name))
            if value not in symtab["st_value"][same].tolist():
                raise SourceError(
                    str(self._path(stat)),
                    f"{name.decode(errors='backslashreplace')} would be at "
                    f"{expected:#x} and is at {value:#x}: it is not the file that was "
                    "loaded",
                )

    def _resolve(self, stat: KldStat, placed: LinkerFile) -> None:
        # The kernel calls the resolver; its own ifuncs it leaves as they are.
        ifuncs = placed.symtab["st_info"] & 15 == STT.GNU_IFUNC
        for number in np.flatnonzero(ifuncs):
            symbol = placed.symtab[number]
            value = self._kld.symbol(stat.id, placed.name_at(symbol["st_name"]))
            if value is not None:
                placed.symtab["st_value"][number] = value
