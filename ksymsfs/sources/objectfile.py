"""Reads what the symbol sources need of an ELF file: headers and symbol tables.

Nothing is believed: every offset and size is held against the file's own before
anything is read, so that a corrupt file costs an error and no memory. Names are those
of the System V gABI, chapters 4 and 5.
"""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from ksymsfs.elf import PT_LOAD, SHF, SHN, SHT, ElfFormat, SymArray
from ksymsfs.errors import SourceFormatError
from ksymsfs.linker import ImageSection, SectionArray

# Far above any kernel's (a Linux vmlinux with debug information: 15 MB of symbols and
# 60 sections), far below what would hurt.
MAX_TABLE = 256 << 20
MAX_SECTIONS = 1 << 17
MAX_UNPACKED = 256 << 20


class Section(NamedTuple):
    """One section header, with its name in place of sh_name."""

    name: str
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    addralign: int
    entsize: int

    @property
    def image_section(self) -> int:
        """The ImageSection that symbols of this section go to; SHN_ABS: none."""
        if not self.flags & SHF.ALLOC:
            return SHN.ABS
        if self.flags & SHF.EXECINSTR:
            return ImageSection.TEXT
        if not self.flags & SHF.WRITE:
            return ImageSection.RODATA
        if self.type == SHT.NOBITS:
            return ImageSection.BSS
        return ImageSection.DATA


class Segment(NamedTuple):
    """What is needed of one PT_LOAD program header."""

    vaddr: int
    memsz: int


@dataclass(frozen=True, slots=True, eq=False)
class ObjectFile:
    """A kernel or a module as its ELF file describes it, not yet loaded anywhere."""

    path: Path
    format: ElfFormat
    type: int
    """e_type."""
    osabi: int
    """e_ident[EI_OSABI]."""
    sections: tuple[Section, ...]
    segments: tuple[Segment, ...]
    """The PT_LOAD segments."""
    symtab: SymArray
    """.symtab whole, else .dynsym, else no symbols; in the file's byte order."""
    strtab: bytes
    """The string table that it links to."""
    shstrndx: int
    """The section that holds the names of sections, 0 if none."""

    def section(self, name: str) -> Section | None:
        """The first section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def image_sections(self) -> SectionArray:
        """The ImageSection of each symbol; SHN_UNDEF and SHN_ABS stay what they are."""
        table = np.full(len(self.sections) + 1, SHN.ABS, np.uint16)
        table[: len(self.sections)] = [s.image_section for s in self.sections]
        table[0] = SHN.UNDEF
        numbers = np.minimum(self.symtab["st_shndx"], len(self.sections))
        sections: SectionArray = table[numbers]
        return sections

    def name_at(self, offset: int) -> bytes:
        """The string at *offset* of the string table."""
        return self.strtab[offset : self.strtab.index(b"\0", offset)]

    def check_fit(self, address: int, size: int) -> None:
        """Raise the error that says that no address space has room for that."""
        if address < 0 or address + size > 1 << self.format.bits:
            raise self.error(f"does not fit at {address:#x}, with its {size:#x} bytes")

    def error(self, reason: str) -> SourceFormatError:
        """The error that says that this file, sound as it is, cannot be used."""
        return SourceFormatError(str(self.path), "", reason)


def read_object(path: Path) -> ObjectFile:
    """Read the ELF file at *path*, which gzip or xz may have compressed.

    Raises SourceFormatError that names the place for anything that is not a sound ELF
    file, and OSError from opening and reading it.
    """
    with path.open("rb") as file:
        return parse_object(path, _unpacked(path, file))


def parse_object(path: Path, file: BinaryIO) -> ObjectFile:
    """Like `read_object`, from an open *file*, which errors call *path*."""
    return _Reader(path, file).object()


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO:
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        raise SourceFormatError(str(path), "", "compressed by zstd: unpack it first")
    try:
        if magic.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as gz:
                data = gz.read(MAX_UNPACKED + 1)
        elif magic == b"\xfd7zXZ\0":
            with lzma.LZMAFile(file) as xz:
                data = xz.read(MAX_UNPACKED + 1)
        else:
            return file
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise SourceFormatError(str(path), "", f"cannot be unpacked: {error}") from None
    if len(data) > MAX_UNPACKED:
        raise SourceFormatError(str(path), "", f"unpacks to over {MAX_UNPACKED} bytes")
    return BytesIO(data)


class _Reader:
    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self._size = file.seek(0, os.SEEK_END)

    def object(self) -> ObjectFile:
        ident = self._read(0, 16, "ELF identification")
        if ident[:4] != b"\x7fELF":
            raise self._error(0, "not an ELF file (a vmlinuz has to be unpacked first)")
        bits: Literal[32, 64]
        byteorder: Literal["little", "big"]
        if ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise self._error(4, f"unknown class {ident[4]} or byte order {ident[5]}")
        bits = 64 if ident[4] == 2 else 32
        byteorder = "big" if ident[5] == 2 else "little"
        order = ">" if byteorder == "big" else "<"
        word = "Q" if bits == 64 else "I"
        ehdr = struct.Struct(f"{order}HHI3{word}I6H")
        fields = ehdr.unpack(self._read(16, ehdr.size, "ELF header"))
        (type_, machine, version, _entry, phoff, shoff, _flags) = fields[:7]
        (_ehsize, phentsize, phnum, shentsize, shnum, shstrndx) = fields[7:]
        fmt = ElfFormat(bits, byteorder, machine)
        if version != 1:
            raise self._error(20, f"ELF version {version}")
        sections = self._sections(fmt, shoff, shentsize, shnum, shstrndx)
        symtab, strtab = self._symbols(fmt, sections)
        return ObjectFile(
            self._path,
            fmt,
            type_,
            ident[7],
            sections,
            self._segments(fmt, phoff, phentsize, phnum),
            symtab,
            strtab,
            min(shstrndx, len(sections) - 1),
        )

    def _error(self, offset: int, reason: str) -> SourceFormatError:
        return SourceFormatError(str(self._path), f"offset {offset:#x}", reason)

    def _read(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > self._size:
            raise self._error(
                offset,
                f"{what} of {size:#x} bytes ends beyond the file's {self._size:#x}",
            )
        self._file.seek(offset)
        data = self._file.read(size)
        if len(data) != size:
            raise self._error(offset, f"{what}: the file became shorter")
        return data

    def _sections(
        self, fmt: ElfFormat, shoff: int, shentsize: int, shnum: int, shstrndx: int
    ) -> tuple[Section, ...]:
        if not shoff:
            return ()
        if shentsize != fmt.shentsize:
            raise self._error(
                shoff, f"section headers of {shentsize} bytes, not {fmt.shentsize}"
            )
        order = ">" if fmt.byteorder == "big" else "<"
        word = "Q" if fmt.bits == 64 else "I"
        shdr = struct.Struct(f"{order}II4{word}II2{word}")
        # Numbers too large for the ELF header stand in section header 0.
        first = shdr.unpack(self._read(shoff, shdr.size, "section header 0"))
        shnum = shnum or first[5]
        if shstrndx == 0xFFFF:
            shstrndx = first[6]
        if shnum > MAX_SECTIONS:
            raise self._error(shoff, f"{shnum} section headers")
        table = self._read(shoff, shnum * shdr.size, f"{shnum} section headers")
        headers = list(shdr.iter_unpack(table))
        names = b"\0"
        if shstrndx:
            if shstrndx >= shnum:
                raise self._error(
                    shoff, f"section names in section {shstrndx} of {shnum}"
                )
            names = self._strings(headers[shstrndx], f"section {shstrndx}")
        sections = []
        for i, (name, *rest) in enumerate(headers):
            if name >= len(names):
                raise self._error(
                    shoff + i * shdr.size, f"section {i}: name beyond the name table"
                )
            end = names.index(b"\0", name)
            text = names[name:end].decode(errors="backslashreplace")
            sections.append(Section(text, *rest))
        return tuple(sections)

    def _strings(self, header: tuple[int, ...], what: str) -> bytes:
        _name, type_, _flags, _addr, offset, size, *_ = header
        if type_ != SHT.STRTAB:
            raise self._error(offset, f"{what} is no string table (type {type_:#x})")
        if size > MAX_TABLE:
            raise self._error(offset, f"{what}: string table of {size:#x} bytes")
        strings = self._read(offset, size, f"{what}: string table")
        if not strings.endswith(b"\0"):
            raise self._error(offset + size, f"{what}: string table without NUL at end")
        return strings

    def _segments(
        self, fmt: ElfFormat, phoff: int, phentsize: int, phnum: int
    ) -> tuple[Segment, ...]:
        if not phoff or not phnum:
            return ()
        if phentsize != fmt.phentsize:
            raise self._error(
                phoff, f"program headers of {phentsize} bytes, not {fmt.phentsize}"
            )
        order = ">" if fmt.byteorder == "big" else "<"
        phdr = struct.Struct(f"{order}II6Q" if fmt.bits == 64 else f"{order}8I")
        table = self._read(phoff, phnum * phdr.size, f"{phnum} program headers")
        vaddr, memsz = (3, 6) if fmt.bits == 64 else (2, 5)
        return tuple(
            Segment(p[vaddr], p[memsz])
            for p in phdr.iter_unpack(table)
            if p[0] == PT_LOAD
        )

    def _symbols(
        self, fmt: ElfFormat, sections: tuple[Section, ...]
    ) -> tuple[SymArray, bytes]:
        tables = [(i, s) for i, s in enumerate(sections) if s.type == SHT.SYMTAB]
        if len(tables) > 1:
            raise self._error(
                tables[1][1].offset, "a second symbol table: files have at most one"
            )
        tables += [(i, s) for i, s in enumerate(sections) if s.type == SHT.DYNSYM]
        if not tables:
            return np.zeros(0, fmt.sym_dtype), b""
        index, table = tables[0]
        what = f"section {index}, {table.name or 'symbol table'}"
        if table.entsize != fmt.symentsize or table.size % fmt.symentsize:
            raise self._error(
                table.offset,
                f"{what}: {table.size:#x} bytes in entries of {table.entsize}, "
                f"not of {fmt.symentsize}",
            )
        if table.size > MAX_TABLE:
            raise self._error(table.offset, f"{what}: {table.size:#x} bytes")
        if not 0 < table.link < len(sections):
            raise self._error(
                table.offset, f"{what}: strings in section {table.link}, which is none"
            )
        strings = sections[table.link]
        strtab = self._strings((0, *strings[1:]), f"section {table.link}")
        data = self._read(table.offset, table.size, what)
        symtab = np.frombuffer(data, fmt.sym_dtype)
        beyond = np.flatnonzero(symtab["st_name"] >= len(strtab))
        if len(beyond):
            raise self._error(
                table.offset + int(beyond[0]) * fmt.symentsize,
                f"{what}: symbol {beyond[0]} has its name beyond the string table",
            )
        return symtab, strtab
