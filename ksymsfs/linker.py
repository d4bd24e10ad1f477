"""A kernel or module as the linker knows it: FreeBSD's ``linker_file``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np

from ksymsfs.elf import SHN, STB, STT, ElfFormat, SymArray, st_info
from ksymsfs.errors import SourceError

SectionArray: TypeAlias = np.ndarray[Any, np.dtype[np.uint16]]
"""A section number a symbol."""


class ImageSection(IntEnum):
    """The sections that a symbol of an image can be in, as its st_shndx counts them.

    They are really there in the debug layout; FreeBSD's has the numbers alone.
    """

    TEXT = 1
    RODATA = 2
    DATA = 3
    BSS = 4


@dataclass(frozen=True, slots=True, eq=False)
class LinkerFile:
    """One linker file: its name, where it lies, and its symbol and string tables.

    *symtab* is ElfN_Sym records in the byte order of the image to be built; st_name
    counts from the start of *strtab*, st_value is absolute. The tables are emitted as
    they are: the null symbol, the order and the sizes are the source's business.
    """

    name: str
    address: int
    """Load address (kldstat's, or the second last column of /proc/modules)."""
    size: int
    """Bytes in memory."""
    symtab: SymArray
    strtab: bytes
    sections: SectionArray | None = None
    """The ImageSection of each symbol (or SHN_UNDEF, SHN_ABS), where *symtab* keeps the
    st_shndx of another file; None where its st_shndx is that already."""

    def name_at(self, offset: int) -> bytes:
        """The string at *offset* of the string table."""
        return self.strtab[offset : self.strtab.index(b"\0", offset)]


def linker_file_symbol(
    fmt: ElfFormat, st_name: int, address: int, size: int
) -> SymArray:
    """The record that carries a linker file's name and range through the image.

    STT_FILE, STB_LOCAL, SHN_ABS, as for a source file, but with st_value = load
    address and st_size = size in memory. The size is never 0, which is what tells it
    from an ordinary STT_FILE symbol; readers such as lockstat skip the type.
    Raises SourceError for a range that no address space has.
    """
    if not 0 <= address <= address + size <= 1 << fmt.bits:
        raise SourceError(
            "linker file", f"{size:#x} bytes at {address:#x} do not fit {fmt.bits} bits"
        )
    sym = np.zeros(1, fmt.sym_dtype)
    sym["st_name"] = st_name
    sym["st_info"] = st_info(STB.LOCAL, STT.FILE)
    sym["st_shndx"] = SHN.ABS
    sym["st_value"] = address
    sym["st_size"] = min(max(size, 1), (1 << fmt.bits) - 1)
    return sym


def with_linker_file_symbol(file: LinkerFile, fmt: ElfFormat) -> LinkerFile:
    """*file* as a block that says whose it is: null symbol, linker-file symbol, rest.

    Those that came from text are so already. Tables copied from an ELF file get the
    symbol, ImageSections for st_shndx, and address order; nameless symbols go, which
    are the null symbol and those of sections.
    """
    if file.sections is None:
        return file
    body = file.symtab.copy()
    body["st_shndx"] = file.sections
    names = np.frombuffer(file.strtab, np.uint8)
    body = body[names[body["st_name"]] != 0]
    body = body[np.argsort(body["st_value"], kind="stable")]
    head = np.zeros(2, fmt.sym_dtype)
    head[1:2] = linker_file_symbol(fmt, len(file.strtab), file.address, file.size)
    name = file.name.encode(errors="surrogateescape")
    return replace(
        file,
        symtab=np.concatenate((head, body), dtype=fmt.sym_dtype),
        strtab=file.strtab + name + b"\0",
        sections=None,
    )


def is_linker_file_symbol(symtab: SymArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which records carry a linker file's name and range, and are no symbols."""
    found: np.ndarray[Any, np.dtype[np.bool_]] = symtab["st_info"] & 15 == STT.FILE
    found &= symtab["st_size"] != 0
    return found


def symbol_sections(file: LinkerFile) -> SectionArray:
    """The ImageSection of each symbol of *file*; SHN_UNDEF and SHN_ABS: none."""
    if file.sections is not None:
        return file.sections
    sections: SectionArray = file.symtab["st_shndx"].astype(np.uint16)
    return sections


def name_lengths(
    strtab: bytes, st_name: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The length of the name at each offset into *strtab*, without its NUL."""
    nuls = np.flatnonzero(np.frombuffer(strtab, np.uint8) == 0)
    starts = st_name.astype(np.int64)
    lengths: np.ndarray[Any, np.dtype[np.int64]] = (
        nuls[np.searchsorted(nuls, starts)] - starts
    )
    return lengths


def name_offsets(strtab: bytes, name: bytes) -> list[int]:
    """Where *name* stands in *strtab*, as a string or as the tail of one."""
    offsets = []
    at = strtab.find(name + b"\0")
    while at >= 0:
        offsets.append(at)
        at = strtab.find(name + b"\0", at + 1)
    return offsets
