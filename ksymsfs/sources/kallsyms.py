"""Linker files from kallsyms text: /proc/kallsyms, a saved copy, or a System.map.

All symbols of all linker files are worked on at once, as numpy columns: a module more
costs next to nothing. Letters: nm(1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ksymsfs.elf import SHN, STB, STT, ElfFormat, SymArray, st_info
from ksymsfs.errors import RestrictedError, SourceFormatError
from ksymsfs.linker import ImageSection, LinkerFile, linker_file_symbol
from ksymsfs.sources.kallsyms_text import Columns, Run, parse_kallsyms
from ksymsfs.sources.module_parts import are_apart
from ksymsfs.sources.modules import Module
from ksymsfs.sources.symbol_sizes import Extent, page_end, symbol_sizes

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

STV_HIDDEN = 2

TEXT, RODATA, DATA, BSS = map(int, ImageSection)

_MARKS = (b"_text", b"_stext", b"_etext", b"_sinittext", b"_einittext", b"_end")
"""The linker script's symbols that kallsyms itself goes by."""


def _letter_records() -> _Array:
    # letter -> (st_info, st_other, st_shndx). Case is the binding, except for weak
    # symbols, where lower case (a module's unexported one) is hidden visibility.
    # A letter that ELF has no words for travels in the upper bits of st_other.
    records = np.zeros(256, [("st_info", "u1"), ("st_other", "u1"), ("st_shndx", "u2")])
    places = {
        "t": (STT.FUNC, TEXT),
        "r": (STT.OBJECT, RODATA),
        "d": (STT.OBJECT, DATA),
        "b": (STT.OBJECT, BSS),
        "a": (STT.NOTYPE, SHN.ABS),
    }
    for code in b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?":
        letter = chr(code)
        bind = STB.GLOBAL if letter.isupper() else STB.LOCAL
        if letter in "wWvV":
            type_, shndx = (STT.FUNC, TEXT) if letter in "wW" else (STT.OBJECT, DATA)
            other = STV_HIDDEN if letter.islower() else 0
            record = (st_info(STB.WEAK, type_), other, shndx)
        elif letter == "u":
            record = (st_info(STB.GNU_UNIQUE, STT.OBJECT), 0, DATA)
        elif letter == "i":
            record = (st_info(STB.LOCAL, STT.GNU_IFUNC), 0, TEXT)
        elif letter.lower() in places:
            type_, shndx = places[letter.lower()]
            record = (st_info(bind, type_), 0, shndx)
        else:
            record = (st_info(bind, STT.NOTYPE), (code & 0x1F) << 3, SHN.ABS)
        records[code] = record
    return records


_LETTERS = _letter_records()


@dataclass(eq=False, slots=True)
class _Block:
    # One linker file: its lines in the text, its symbols among those of all, and where
    # it lies in memory if /proc/modules says so.
    name: str
    runs: list[tuple[int, int]] = field(default_factory=list)
    symbols: slice = field(default_factory=lambda: slice(0, 0))
    where: tuple[int, int] | None = None

    @property
    def is_pseudo(self) -> bool:
        # kernel/kallsyms.c: [bpf], [__builtin__ftrace], [__builtin__kprobes].
        return self.name == "bpf" or self.name.startswith("__builtin__")


def kallsyms_linker_files(
    text: bytes,
    modules: Sequence[Module] | None,
    fmt: ElfFormat,
    *,
    name: str = "/proc/kallsyms",
) -> list[LinkerFile]:
    """The linker files of kallsyms *text*: kernel, modules in load order, pseudo ones.

    *modules* are those of /proc/modules, newest first as the kernel lists them; with
    None the order of the text (also newest first) decides, and ranges are guessed from
    the symbols. *name* is what errors call the text.

    Raises SourceFormatError for a malformed line, RestrictedError when every address
    is 0.
    """
    columns, runs = parse_kallsyms(text, name)
    if not columns.address.any():
        raise RestrictedError(
            name,
            "every address is 0: the kernel hides them from this process; "
            "run it with CAP_SYSLOG, or set the sysctl kernel.kptr_restrict to 0 or 1",
        )
    if fmt.bits == 32 and (columns.address >> np.uint64(32)).any():
        raise SourceFormatError(name, "", "64-bit addresses in a 32-bit table")
    blocks = _blocks(len(columns), runs, modules)
    # In the order of the text, where all lines of a linker file are together but rarely
    # not, nothing has to be moved.
    filled = sorted((b for b in blocks if b.runs), key=lambda b: b.runs)
    columns = columns.lines([run for block in filled for run in block.runs])
    _number(filled)
    marks = _marks(columns, blocks[0])
    # Names stay in the order of the text, symbols are in address order.
    address, letter, start, names = columns
    cuts = [(start[b.symbols.start], start[b.symbols.stop]) for b in blocks]
    _sort(filled, address, letter, start)
    record = _LETTERS[letter]
    _place(blocks, marks, address, letter)
    apart = modules is None or _are_apart(blocks, modules, address)
    size = symbol_sizes(address, record["st_shndx"], _extents(filled), apart=apart)
    if b"_text" in marks or b"_stext" in marks:
        own = blocks[0].symbols
        size[own][~_is_known(address[own], letter[own], marks)] = 0

    files, first = [], 0
    records: SymArray = np.empty(2 * len(blocks) + len(letter), fmt.sym_dtype)
    for block, (cut, end) in zip(blocks, cuts, strict=True):
        assert block.where
        own = block.symbols
        prefix = b"\0" + block.name.encode(errors="surrogateescape") + b"\0"
        strtab = b"".join((prefix, names[cut:end].data))
        symtab = records[first : first + 2 + own.stop - own.start]
        symtab[0] = 0
        symtab[1:2] = linker_file_symbol(fmt, 1, *block.where)
        body = symtab[2:]
        body["st_name"] = start[own] - cut + len(prefix)
        for column in ("st_info", "st_other", "st_shndx"):
            body[column] = record[column][own]
        body["st_value"] = address[own]
        body["st_size"] = size[own]
        files.append(LinkerFile(block.name, *block.where, symtab, strtab))
        first += len(symtab)
    return files


def _blocks(
    lines: int, runs: Sequence[Run], modules: Sequence[Module] | None
) -> list[_Block]:
    # The linker files in the image's order.
    kernel = _Block("kernel")
    listed: dict[str, _Block] = {}
    end = 0
    for run in runs:
        name = run.module.decode(errors="surrogateescape")
        if end < run.first:
            kernel.runs.append((end, run.first))
        listed.setdefault(name, _Block(name)).runs.append((run.first, run.last))
        end = run.last
    if end < lines:
        kernel.runs.append((end, lines))
    if modules is None:
        real = {name: None for name in listed if not listed[name].is_pseudo}
    else:
        real = dict.fromkeys(m.name for m in modules)
        for m in modules:
            listed.setdefault(m.name, _Block(m.name)).where = (m.address, m.size)
    others = [name for name in listed if name not in real]
    return [kernel, *(listed[name] for name in [*reversed(real), *others])]


def _number(blocks: list[_Block]) -> None:
    start = 0
    for block in blocks:
        stop = start + sum(last - first for first, last in block.runs)
        block.symbols = slice(start, stop)
        start = stop


def _sort(blocks: list[_Block], *columns: _Array) -> None:
    # Each linker file's symbols by address, the first of *columns*. Mostly the kernel's
    # are so already.
    address = columns[0]
    falls = np.flatnonzero(address[1:] < address[:-1]) + 1
    # A fall from one linker file to the next is none.
    first = np.searchsorted(falls, [b.symbols.start for b in blocks], "right")
    last = np.searchsorted(falls, [b.symbols.stop for b in blocks])
    for number in np.flatnonzero(first < last).tolist():
        own = blocks[number].symbols
        order = _order(address[own])
        for column in columns:
            column[own] = column[own][order]


def _order(address: _Array) -> _Array:
    # As np.argsort(address, kind="stable"), which takes ten times as long as to sort
    # numbers. Addresses of one module leave enough bits for where they stood.
    low, bits = address.min(), np.uint64(len(address).bit_length())
    key = address - low
    if int(key.max()) >> (64 - int(bits)):
        return np.argsort(address, kind="stable")
    key <<= bits
    key |= np.arange(len(key), dtype=np.uint64)
    key.sort()
    key &= (np.uint64(1) << bits) - np.uint64(1)
    order: _Array = key.view(np.int64)
    return order


def _marks(columns: Columns, kernel: _Block) -> dict[bytes, int]:
    # The address of each of _MARKS that is among the kernel's lines.
    first, last = kernel.symbols.start, kernel.symbols.stop
    start = columns.start[first : last + 1]
    short = np.flatnonzero(np.diff(start) <= 1 + max(map(len, _MARKS)))
    short = short[columns.names[start[short]] == ord("_")]
    marks: dict[bytes, int] = {}
    for row in short.tolist():
        name = columns.names[start[row] : start[row + 1] - 1].tobytes()
        if name in _MARKS:
            marks.setdefault(name, int(columns.address[first + row]))
    return marks


def _place(
    blocks: list[_Block], marks: dict[bytes, int], address: _Array, letter: _Array
) -> None:
    # What /proc/modules does not list: the kernel lies between _text and _end, where
    # the table has them; else a linker file goes from its first to its last symbol.
    start = marks.get(b"_text", marks.get(b"_stext"))
    if start is not None:
        end = marks.get(b"_end", page_end(int(address[blocks[0].symbols][-1])))
        blocks[0].where = (start, end - start)
    is_placed = letter | 0x20 != ord("a")
    for block in blocks:
        if block.where is None:
            low, high, own = 0, 0, is_placed[block.symbols]
            if own.any():
                low = int(address[block.symbols][own.argmax()])
                high = int(address[block.symbols][-1 - own[::-1].argmax()])
            block.where = (low, page_end(high) - low)


def _extents(blocks: list[_Block]) -> list[Extent]:
    return [
        Extent(b.symbols, *b.where, has_parts=b.name != "kernel" and not b.is_pseudo)
        for b in blocks
        if b.where
    ]


def _are_apart(
    blocks: list[_Block], modules: Sequence[Module], address: _Array
) -> bool:
    symbols = {b.name: address[b.symbols] for b in blocks}
    return are_apart(
        (m, int(symbols[m.name][-1])) for m in modules if len(symbols[m.name])
    )


def _is_known(address: _Array, letter: _Array, marks: dict[bytes, int]) -> _Array:
    # kernel/kallsyms.c is_ksym_addr: with CONFIG_KALLSYMS_ALL the whole kernel, without
    # it only text. Elsewhere the table has marks (__start_rodata, per-CPU offsets) that
    # cover nothing: the kernel answers for no address there, so their size is 0.
    start = marks.get(b"_stext", marks.get(b"_text", 0))
    has_data = b"_end" in marks or bool(
        ((letter == ord("d")) | (letter == ord("b"))).any()
    )
    if has_data or b"_etext" not in marks:
        end = marks.get(b"_end", page_end(int(address[-1])))
        return (address >= start) & (address < end)
    known = (address >= start) & (address < marks[b"_etext"])
    if b"_sinittext" in marks and b"_einittext" in marks:
        known |= (address >= marks[b"_sinittext"]) & (address < marks[b"_einittext"])
    return known
