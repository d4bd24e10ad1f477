"""The image of illumos's ksyms(4D): usr/src/uts/common/os/ksyms_snapshot.c.

The header is the one that FreeBSD took over. The tables differ: one null symbol, then
the local symbols of all files, then the others; each absolute; and the strings written
anew, one a symbol, in the order of the files' own tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np

from ksymsfs.elf import ELFOSABI_NONE, SHN, STB, ElfFormat, SymArray
from ksymsfs.errors import ImageTooLargeError
from ksymsfs.image import image_header
from ksymsfs.linker import (
    ImageSection,
    LinkerFile,
    is_linker_file_symbol,
    name_lengths,
    symbol_sections,
)

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# Names that share their tails in a file do not share them here.
MAX_NAMES = 512 << 20
_CHUNK = 1 << 16


def build_illumos_image(files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
    """The image of *files* as illumos lays it out.

    The linker-file symbols stay out: nothing would tell which of the non-local symbols
    are theirs. Raises ImageTooLargeError where the names exceed `MAX_NAMES`.
    """
    tables: list[SymArray] = []
    strings = [b"\0"]
    for file in files:
        symtab = file.symtab[1:]
        symtab = symtab[~is_linker_file_symbol(symtab)]
        tables.append(symtab.copy())
        strings += _strings(file, symtab)
    offsets = list(accumulate(map(len, strings)))
    if offsets[-1] > MAX_NAMES:
        raise ImageTooLargeError(offsets[-1], MAX_NAMES, "the names of all symbols")
    _rename(tables, strings)
    locals_: list[SymArray] = [np.zeros(1, fmt.sym_dtype)]
    others: list[SymArray] = []
    for table in tables:
        table["st_shndx"] = SHN.ABS
        is_local = table["st_info"] >> 4 == STB.LOCAL
        locals_.append(table[is_local])
        others.append(table[~is_local])
    symtab = np.concatenate(locals_ + others, dtype=fmt.sym_dtype)
    header = image_header(
        fmt,
        symtab.nbytes,
        offsets[-1],
        osabi=ELFOSABI_NONE,
        text=_extent(files[0], ImageSection.TEXT, ImageSection.TEXT),
        data=_extent(files[0], ImageSection.DATA, ImageSection.BSS),
        info=sum(map(len, locals_)),
        shstralign=1,
    )
    return b"".join([header, symtab.tobytes(), *strings])


def _strings(file: LinkerFile, symtab: SymArray) -> list[bytes]:
    # The names of the symbols, each with its NUL, in pieces.
    text = np.frombuffer(file.strtab, np.uint8)
    lengths = name_lengths(file.strtab, symtab["st_name"]) + 1
    if (total := int(lengths.sum())) > MAX_NAMES:
        raise ImageTooLargeError(total, MAX_NAMES, f"the names of {file.name}")
    pieces = []
    first = 0
    ends = np.cumsum(lengths)
    while first < len(symtab):
        # As many symbols as have a chunk's worth of names, and at least one.
        done = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, done + _CHUNK)), first + 1)
        size = lengths[first:last]
        starts = np.cumsum(size) - size
        at = np.repeat(symtab["st_name"][first:last].astype(np.int64) - starts, size)
        pieces.append(text[at + np.arange(len(at))].tobytes())
        first = last
    return pieces


def _rename(tables: Sequence[SymArray], strings: Sequence[bytes]) -> None:
    # Each name follows the one before it.
    ends = np.flatnonzero(np.frombuffer(b"".join(strings), np.uint8) == 0) + 1
    first = 0
    for table in tables:
        table["st_name"] = ends[first : first + len(table)]
        first += len(table)


def _extent(kernel: LinkerFile, first: int, last: int) -> tuple[int, int]:
    # s_text and e_text - s_text, or s_data and e_data - s_data; cut to 32 bits.
    sections = symbol_sections(kernel)
    inside = kernel.symtab[(sections >= first) & (sections <= last)]
    if not len(inside):
        return 0, 0
    start = int(inside["st_value"].min())
    ends = inside["st_value"] + inside["st_size"]
    return start, max(int(ends.max()) - start, 0) & 0xFFFFFFFF
