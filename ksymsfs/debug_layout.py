"""Lays linker files out so that nm, addr2line, gdb and llvm-symbolizer understand it.

What FreeBSD's layout lacks for them is here: sections that cover the addresses of the
symbols in them; one null symbol; local symbols first, and sh_info counting them, as the
gABI has it (chapter 4, "Symbol Table"). The linker-file symbols stay: each file has one
among the locals, and one of STB_GLOBAL among the others, from which its symbols run to
the next one.

Section n is a part of the ImageSection (n - 1) % 4 + 1. .text and .bss hold nothing
(NOBITS). .rodata and .data must seem to hold something, or else nm(1) takes them for
.bss: they show the file's own tables, and are no larger than these, so that a kernel
needs several. Their contents mean nothing; only their addresses do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, TypeAlias

import numpy as np

from ksymsfs.elf import (
    ELFOSABI_NONE,
    ET,
    SHF,
    SHT,
    STB,
    STT,
    ElfFormat,
    SymArray,
    st_info,
)
from ksymsfs.image import string_size
from ksymsfs.linker import ImageSection, LinkerFile, with_linker_file_symbol

_PLACES = {
    ImageSection.TEXT: (".text", SHT.NOBITS, SHF.ALLOC | SHF.EXECINSTR),
    ImageSection.RODATA: (".rodata", SHT.PROGBITS, SHF.ALLOC),
    ImageSection.DATA: (".data", SHT.PROGBITS, SHF.ALLOC | SHF.WRITE),
    ImageSection.BSS: (".bss", SHT.NOBITS, SHF.ALLOC | SHF.WRITE),
}
_TABLES = [".symtab", ".strtab", ".shstrtab"]
_NAMES = [*(name for name, _, _ in _PLACES.values()), *_TABLES]
_SHSTRTAB = b"\0" + b"".join(name.encode() + b"\0" for name in _NAMES)

# Where symbols are farther apart, something else lies between them.
_GAP = np.uint64(1 << 16)

# Four sections each; far more than a kernel with all its modules needs.
_MAX_GROUPS = 8192


_Indexes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.intp]]


class _Range(NamedTuple):
    address: int = 0
    size: int = 0


def build_debug_image(files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
    """The image of *files*, for tools that want a whole ELF file.

    Raises ImageTooLargeError where st_name cannot address the string tables.
    """
    described = [with_linker_file_symbol(file, fmt) for file in files]
    offsets = [0, *accumulate(len(file.strtab) for file in described)]
    string_size(described)
    strtab = b"".join(file.strtab for file in described)
    # Without the null symbols; the linker-file symbols are the first now.
    tables = [file.symtab[1:].copy() for file in described]
    for table, offset in zip(tables, offsets, strict=False):
        table["st_name"] += offset
    room = sum(table.nbytes for table in tables) + len(strtab)
    groups = _place(tables, room, fmt)
    symtab, first_global = _ordered(tables, fmt)

    shnum = 1 + len(groups) * len(_PLACES) + len(_TABLES)
    symoff = fmt.ehsize + shnum * fmt.shentsize
    stroff = symoff + symtab.nbytes
    headers = [fmt.shdr()]
    for group in groups:
        for (name, type_, flags), place in zip(_PLACES.values(), group, strict=True):
            headers.append(
                fmt.shdr(
                    name=_name(name),
                    type_=type_,
                    flags=flags,
                    addr=place.address,
                    offset=symoff,
                    size=place.size,
                    align=1,
                )
            )
    headers += [
        fmt.shdr(
            name=_name(".symtab"),
            type_=SHT.SYMTAB,
            offset=symoff,
            size=symtab.nbytes,
            link=shnum - 2,
            info=first_global,
            align=fmt.wordsize,
            entsize=fmt.symentsize,
        ),
        fmt.shdr(
            name=_name(".strtab"),
            type_=SHT.STRTAB,
            offset=stroff,
            size=len(strtab),
            align=1,
        ),
        fmt.shdr(
            name=_name(".shstrtab"),
            type_=SHT.STRTAB,
            offset=stroff + len(strtab),
            size=len(_SHSTRTAB),
            align=1,
        ),
    ]
    ehdr = fmt.ehdr(
        osabi=ELFOSABI_NONE,
        type_=ET.EXEC,
        phoff=0,
        phnum=0,
        shoff=fmt.ehsize,
        shnum=shnum,
        shstrndx=shnum - 1,
    )
    return b"".join([ehdr, *headers, symtab.tobytes(), strtab, _SHSTRTAB])


def _place(tables: Sequence[SymArray], room: int, fmt: ElfFormat) -> list[list[_Range]]:
    # The sections, in groups of four, and each symbol's number among them.
    groups: list[list[_Range]] = []
    for section, (_, type_, _) in _PLACES.items():
        used = 0
        for table in tables:
            inside = np.flatnonzero(table["st_shndx"] == section)
            longest = room if type_ == SHT.PROGBITS else 1 << fmt.bits
            for indexes, place in _ranges(table, inside, longest, fmt):
                if used < _MAX_GROUPS:
                    used += 1
                    if used > len(groups):
                        groups.append([_Range()] * len(_PLACES))
                    groups[used - 1][section - 1] = place
                table["st_shndx"][indexes] = (used - 1) * len(_PLACES) + section
    return groups


def _ranges(
    table: SymArray, inside: _Indexes, longest: int, fmt: ElfFormat
) -> Iterator[tuple[_Indexes, _Range]]:
    # Stretches from symbol to symbol, of at most *longest* bytes and without gaps.
    inside = inside[np.argsort(table["st_value"][inside], kind="stable")]
    values = table["st_value"][inside].astype(np.uint64)
    if not len(values):
        return
    top = np.uint64((1 << fmt.bits) - 1)
    # The last byte of each symbol; a size may reach beyond the address space.
    sizes = np.maximum(table["st_size"][inside], 1).astype(np.uint64)
    lasts = np.maximum.accumulate(
        values + np.minimum(sizes - np.uint64(1), top - values)
    )
    gaps = np.flatnonzero(values[1:] > np.minimum(lasts[:-1], top - _GAP) + _GAP) + 1
    for stretch, stop in pairwise([0, *gaps.tolist(), len(values)]):
        first = stretch
        while first < stop:
            start = int(values[first])
            limit = np.uint64(min(start + longest - 1, int(top)))
            last = min(int(np.searchsorted(values, limit, "right")), stop)
            end = min(int(lasts[last - 1]), int(limit))
            yield inside[first:last], _Range(start, min(end - start + 1, int(top)))
            first = last


def _ordered(tables: Sequence[SymArray], fmt: ElfFormat) -> tuple[SymArray, int]:
    # All symbols, and the index of the first one that is not local.
    locals_: list[SymArray] = [np.zeros(1, fmt.sym_dtype)]
    others: list[SymArray] = []
    for table in tables:
        is_local = table["st_info"] >> 4 == STB.LOCAL
        head = table[:1].copy()
        head["st_info"] = st_info(STB.GLOBAL, STT.FILE)
        locals_.append(table[is_local])
        others += [head, table[~is_local]]
    return np.concatenate(locals_ + others, dtype=fmt.sym_dtype), sum(map(len, locals_))


def _name(name: str) -> int:
    return _SHSTRTAB.index(name.encode() + b"\0")
