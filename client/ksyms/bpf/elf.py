"""The ELF side of a BPF object: sections, symbols, and whose relocations they use."""

from __future__ import annotations

import struct
from typing import NamedTuple

from ksyms.elf import (
    EM_BPF,
    EM_NONE,
    ET_REL,
    SHT_NOBITS,
    SHT_NULL,
    SHT_REL,
    SHT_SYMTAB,
    ElfFile,
)
from ksyms.elf import Section as Header
from ksyms.errors import BpfObjectError, ImageError

SHF_EXECINSTR = 4
NAME_MAX = 4096  # bytes of a name; the kernel's own limit is 512

# What people hand over instead.
_TYPES = {0: "ET_NONE", 1: "ET_REL", 2: "ET_EXEC", 3: "ET_DYN", 4: "ET_CORE"}
_MACHINES = {3: "EM_386", 62: "EM_X86_64", 183: "EM_AARCH64", 247: "EM_BPF"}


class Section(NamedTuple):
    """A section header with its bytes."""

    shndx: int
    name: str
    type: int
    """SHT_* of ksyms.elf."""
    flags: int
    link: int
    info: int
    size: int
    """Bytes; an SHT_NOBITS section has a size but no data."""
    data: bytes


class ElfSymbol(NamedTuple):
    """An Elf64_Sym."""

    number: int
    name: str
    value: int
    size: int
    type: int
    binding: int
    shndx: int


class Relocation(NamedTuple):
    """An Elf64_Rel: a place in the section *target* that waits for *symbol*."""

    target: int
    offset: int
    symbol: int


class BpfElf(NamedTuple):
    """A relocatable ELF file for the BPF machine, in records."""

    byteorder: str
    """"little" or "big"."""
    sections: tuple[Section, ...]
    symbols: tuple[ElfSymbol, ...]
    relocations: tuple[Relocation, ...]

    def section(self, name: str) -> Section | None:
        """The first section called *name*."""
        return next((s for s in self.sections if s.name == name), None)


def read_elf(data: bytes, path: str) -> BpfElf:
    """Read a BPF object's sections, symbols and relocations; *path* is for messages.

    Raises BpfObjectError for anything but a whole 64-bit relocatable BPF file.
    """
    try:
        file = ElfFile(data, path)
    except ImageError as error:
        raise BpfObjectError(path, error.reason) from None
    if file.bits != 64:
        raise BpfObjectError(path, "a BPF object is a 64-bit ELF file")
    if file.e_type != ET_REL or file.e_machine not in (EM_BPF, EM_NONE):
        raise BpfObjectError(
            path,
            f"not a BPF object: {_TYPES.get(file.e_type, file.e_type)} for"
            f" {_MACHINES.get(file.e_machine, f'machine {file.e_machine}')},"
            " not ET_REL for EM_BPF",
        )
    order = "<" if file.byteorder == "little" else ">"
    sections = _sections(file)
    tables = [s for s in sections if s.type == SHT_SYMTAB]
    if not tables:
        raise BpfObjectError(path, "no symbol table")
    symbols = _symbols(tables[0], sections, order, path)
    relocations = tuple(
        Relocation(s.info, offset, info >> 32)
        for s in sections
        if s.type == SHT_REL
        for offset, info in struct.iter_unpack(
            order + "QQ", s.data[: len(s.data) // 16 * 16]
        )
    )
    return BpfElf(file.byteorder, sections, symbols, relocations)


def _sections(file: ElfFile) -> tuple[Section, ...]:
    headers = file.sections
    total = sum(h.sh_size for h in headers if h.sh_type not in (SHT_NOBITS, SHT_NULL))
    if total > len(file.data):
        raise BpfObjectError(
            file.path,
            f"sections of {total} bytes in a file of {len(file.data)} overlap",
        )
    names = b""
    if file.e_shstrndx < len(headers):
        names = _bytes(file, headers[file.e_shstrndx])
    return tuple(
        Section(
            index,
            _name(names, header.sh_name, file.path),
            header.sh_type,
            header.sh_flags,
            header.sh_link,
            header.sh_info,
            header.sh_size,
            _bytes(file, header),
        )
        for index, header in enumerate(headers)
    )


def _bytes(file: ElfFile, header: Header) -> bytes:
    start, size = header.sh_offset, header.sh_size
    if header.sh_type in (SHT_NOBITS, SHT_NULL):
        return b""
    if start + size > len(file.data):
        raise BpfObjectError(
            file.path, f"a section of {size} bytes at {start:#x} runs past the end"
        )
    return file.data[start : start + size]


def _name(strings: bytes, offset: int, path: str) -> str:
    end = strings.find(b"\0", offset, offset + NAME_MAX)
    if end < 0:
        raise BpfObjectError(
            path, f"no name of at most {NAME_MAX} bytes at {offset:#x} of the strings"
        )
    return strings[offset:end].decode("utf-8", "surrogateescape")


def _symbols(
    table: Section, sections: tuple[Section, ...], order: str, path: str
) -> tuple[ElfSymbol, ...]:
    if table.link >= len(sections):
        raise BpfObjectError(path, "the symbol table has no string table")
    strings = sections[table.link].data
    whole = table.data[: len(table.data) // 24 * 24]
    return tuple(
        ElfSymbol(
            index, _name(strings, name, path), value, size, info & 15, info >> 4, shndx
        )
        for index, (name, info, _, shndx, value, size) in enumerate(
            struct.iter_unpack(order + "IBBHQQ", whole)
        )
    )
