"""The ELF side of a BPF object: sections, symbols, and whose relocations they use."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any, NamedTuple

from elftools.common.exceptions import ELFError
from elftools.common.utils import struct_parse
from elftools.elf.elffile import ELFFile

from ksyms.errors import BpfObjectError

EM_BPF = 247
SHF_EXECINSTR = 4
NAME_MAX = 4096  # bytes of a name; the kernel's own limit is 512
_WITHOUT_DATA = ("SHT_NOBITS", "SHT_NULL")


class Section(NamedTuple):
    """A section header with its bytes."""

    shndx: int
    name: str
    type: str
    """SHT_* as pyelftools names it."""
    flags: int
    link: int
    info: int
    size: int
    """Bytes; a SHT_NOBITS section has a size but no data."""
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
    visibility: int
    """STV_*."""


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
        order, sections = _sections(data, path)
    except BpfObjectError:
        raise
    # pyelftools lets some of what it trips over through as it is.
    except (
        *(ELFError, ArithmeticError, AttributeError),
        *(LookupError, TypeError, ValueError),
    ) as error:
        reason = str(error) or type(error).__name__
        raise BpfObjectError(path, f"not a whole ELF file: {reason}") from error
    tables = [s for s in sections if s.type == "SHT_SYMTAB"]
    if not tables:
        raise BpfObjectError(path, "no symbol table")
    symbols = _symbols(tables[0], sections, order, path)
    relocations = tuple(
        Relocation(s.info, offset, info >> 32)
        for s in sections
        if s.type == "SHT_REL"
        for offset, info in struct.iter_unpack(
            order + "QQ", s.data[: len(s.data) // 16 * 16]
        )
    )
    byteorder = "little" if order == "<" else "big"
    return BpfElf(byteorder, sections, symbols, relocations)


def _sections(data: bytes, path: str) -> tuple[str, tuple[Section, ...]]:
    stream = BytesIO(data)
    elf = ELFFile(stream)
    header = elf.header
    if elf.elfclass != 64:
        raise BpfObjectError(path, "a BPF object is a 64-bit ELF file")
    if header["e_type"] != "ET_REL" or header["e_machine"] not in ("EM_BPF", "EM_NONE"):
        raise BpfObjectError(
            path,
            f"not a BPF object: {header['e_type']} for {header['e_machine']}, "
            "not ET_REL for EM_BPF",
        )
    headers = [
        struct_parse(
            elf.structs.Elf_Shdr,
            stream,
            header["e_shoff"] + index * header["e_shentsize"],
        )
        for index in range(min(elf.num_sections(), len(data) // 64))
    ]
    total = sum(h["sh_size"] for h in headers if h["sh_type"] not in _WITHOUT_DATA)
    if total > len(data):
        raise BpfObjectError(
            path, f"sections of {total} bytes in a file of {len(data)} overlap"
        )
    names = b""
    if (index := elf.get_shstrndx()) < len(headers):
        names = _bytes(data, headers[index], path)
    sections = tuple(
        Section(
            index,
            _name(names, header["sh_name"], path),
            str(header["sh_type"]),
            header["sh_flags"],
            header["sh_link"],
            header["sh_info"],
            header["sh_size"],
            _bytes(data, header, path),
        )
        for index, header in enumerate(headers)
    )
    return "<" if elf.little_endian else ">", sections


def _bytes(data: bytes, header: Any, path: str) -> bytes:
    kind, start, size = (header[k] for k in ("sh_type", "sh_offset", "sh_size"))
    if kind in _WITHOUT_DATA:
        return b""
    if start + size > len(data):
        raise BpfObjectError(
            path, f"a section of {size} bytes at {start:#x} runs past the end"
        )
    return data[start : start + size]


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
            index,
            _name(strings, name, path),
            value,
            size,
            info & 15,
            info >> 4,
            shndx,
            other & 3,
        )
        for index, (name, info, other, shndx, value, size) in enumerate(
            struct.iter_unpack(order + "IBBHQQ", whole)
        )
    )
