"""Linker files from kallsyms text: /proc/kallsyms, a saved copy, or a System.map.

The text is parsed as numpy columns, never as a Python object a symbol. Format:
kernel/kallsyms.c s_show, ``%px %c %s\\t[%s]\\n``; letters: nm(1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksymsfs.elf import SHN, STB, STT, ElfFormat, SymArray, st_info
from ksymsfs.errors import RestrictedError, SourceFormatError
from ksymsfs.linker import ImageSection, LinkerFile, linker_file_symbol
from ksymsfs.sources.module_parts import are_apart, part_ends
from ksymsfs.sources.modules import Module

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PAGE = 4096

STV_HIDDEN = 2

TEXT, RODATA, DATA, BSS = map(int, ImageSection)

_LINE = re.compile(
    rb"(?P<address>[0-9a-fA-F]{1,16}) (?P<letter>[A-Za-z?]) (?P<name>[^\s\0]+)"
    rb"(?:[\t ]+\[(?P<module>[^\s\]\0]+)\])?"
)


def _letter_records() -> _Array:
    # letter -> (st_info, st_other, st_shndx). Case is the binding, except for weak
    # symbols, where lower case (a module's unexported one) is hidden visibility.
    # A letter that ELF has no words for travels in the upper bits of st_other.
    records = np.zeros(256, [("info", "u1"), ("other", "u1"), ("shndx", "u2")])
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


class _Columns(NamedTuple):
    text: _Array
    address: _Array
    letter: _Array
    name: _Array  # where each name starts in text
    end: _Array  # one past its last byte
    newline: _Array


class _Run(NamedTuple):
    module: str
    first: int
    last: int


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
    columns = _columns(text)
    if columns is None:
        columns = _columns(_canonical(text, name))
        assert columns is not None
    if not columns.address.any():
        raise RestrictedError(
            name,
            "every address is 0: the kernel hides them from this process; "
            "run it with CAP_SYSLOG, or set the sysctl kernel.kptr_restrict to 0 or 1",
        )
    if fmt.bits == 32 and (columns.address >> np.uint64(32)).any():
        raise SourceFormatError(name, "", "64-bit addresses in a 32-bit table")
    runs = _runs(columns)
    blocks: dict[str, _Array] = {}
    for run in runs:
        indexes = np.arange(run.first, run.last)
        known = blocks.get(run.module)
        blocks[run.module] = (
            indexes if known is None else np.concatenate((known, indexes))
        )
    ranges = {m.name: m for m in modules or ()}
    if modules is None:
        real = [m for m in blocks if not _is_pseudo(m)]
    else:
        real = [m.name for m in modules]
    files = [_kernel_file(columns, np.flatnonzero(columns.end == columns.newline), fmt)]
    apart = modules is None or are_apart(
        (m, int(columns.address[blocks[m.name]].max()))
        for m in modules
        if m.name in blocks
    )
    for module in [*reversed(real), *(m for m in blocks if m not in set(real))]:
        where = ranges.get(module)
        files.append(
            _linker_file(
                columns,
                blocks.get(module, np.arange(0)),
                fmt,
                module,
                (where.address, where.size) if where else None,
                apart=None if _is_pseudo(module) else apart,
            )
        )
    return files


def _is_pseudo(module: str) -> bool:
    # kernel/kallsyms.c: [bpf], [__builtin__ftrace], [__builtin__kprobes].
    return module == "bpf" or module.startswith("__builtin__")


def _columns(text: bytes) -> _Columns | None:
    # None unless every line is exactly what the kernel writes, with addresses of one
    # width (8 or 16 digits): the line's parts then lie at fixed distances.
    width = text.find(b" ")
    if width not in (8, 16) or not text.endswith(b"\n"):
        return None
    chars = np.frombuffer(text, np.uint8)
    newline = np.flatnonzero(chars == ord("\n"))
    start = np.empty_like(newline)
    start[0] = 0
    start[1:] = newline[:-1] + 1
    name = start + (width + 3)
    if (name >= newline).any():
        return None
    if (chars[start + width] != ord(" ")).any():
        return None
    if (chars[start + (width + 2)] != ord(" ")).any():
        return None
    letter = chars[start + (width + 1)]
    if not (_LETTERS["info"][letter] | _LETTERS["shndx"][letter]).all():
        return None
    address = _parse_hex(chars, start, width)
    if address is None:
        return None
    end = newline.copy()
    tab = text.find(b"\t")
    if tab >= 0:
        tabs = np.flatnonzero(chars[tab:] == ord("\t")) + tab
        line = np.searchsorted(newline, tabs)
        if len(line) > 1 and not np.diff(line).all():
            return None
        well_formed = (
            (tabs > name[line])
            & (newline[line] - tabs >= 4)
            & (chars[np.minimum(tabs + 1, len(chars) - 1)] == ord("["))
            & (chars[newline[line] - 1] == ord("]"))
        )
        if not well_formed.all():
            return None
        end[line] = tabs
    # A name with a space or NUL in it would be cut or split by every reader.
    if text.count(b" ") != 2 * len(newline) or b"\0" in text or b"\r" in text:
        return None
    return _Columns(chars, address, letter, name, end, newline)


def _parse_hex(chars: _Array, start: _Array, width: int) -> _Array | None:
    # Eight digits at a time, as one 64-bit word each ("SIMD within a register"):
    # every line of the table costs the same dozen vector operations.
    words = np.ndarray((len(chars) - 7,), ">u8", chars, strides=(1,))
    value = np.zeros(len(start), np.uint64)
    for i in range(0, width, 8):
        word = words[start + i].astype(np.uint64)
        if not _all_hex(word):
            return None
        digit = (word & _bytes(0x0F)) + (
            (word >> np.uint64(6)) & _bytes(1)
        ) * np.uint64(9)
        for shift, mask in (
            (4, 0x00FF00FF00FF00FF),
            (8, 0x0000FFFF0000FFFF),
            (16, 0x00000000FFFFFFFF),
        ):
            digit = (digit | digit >> np.uint64(shift)) & np.uint64(mask)
        value = (value << np.uint64(32)) | digit
    return value


def _bytes(value: int) -> np.uint64:
    return np.uint64(0x0101010101010101 * value)


def _all_hex(word: _Array) -> bool:
    # Adding 0x80 - low to a 7-bit byte sets its top bit iff it is >= low.
    lower = word | _bytes(0x20)
    digits = (word + _bytes(0x80 - 0x30)) & ~(word + _bytes(0x80 - 0x3A))
    letters = (lower + _bytes(0x80 - 0x61)) & ~(lower + _bytes(0x80 - 0x67))
    top = _bytes(0x80)
    return bool((((digits | letters) & ~word & top) == top).all())


def _canonical(text: bytes, name: str) -> bytes:
    # The slow way, for tables written by hand: pad addresses, or say what is wrong.
    lines = []
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.rstrip())
        if match is None:
            raise SourceFormatError(
                name,
                f"line {number}",
                f"not an address, a letter and a name: {repr(line[:120])[1:]}",
            )
        address, letter, symbol, module = match.groups()
        suffix = b"\t[%s]" % module if module else b""
        lines.append(b"%s %s %s%s\n" % (address.zfill(16), letter, symbol, suffix))
    if not lines:
        raise SourceFormatError(name, "", "holds no symbols")
    return b"".join(lines)


def _runs(columns: _Columns) -> list[_Run]:
    # Stretches of lines that name the same module. Candidates are told apart by the
    # name's length and its first and last eight bytes, then each is checked whole.
    text, end, newline = columns.text, columns.end, columns.newline
    lines = np.flatnonzero(end != newline)
    if not len(lines):
        return []
    tab, stop = end[lines], newline[lines]
    words = np.ndarray((len(text) - 7,), "<u8", text, strides=(1,))
    length = stop - tab
    head = words[np.minimum(tab, len(words) - 1)]
    tail = words[stop - 7]
    same = (
        (np.diff(lines) == 1)
        & (np.diff(length) == 0)
        & (tail[1:] == tail[:-1])
        # A short name's first eight bytes reach into the next line.
        & ((head[1:] == head[:-1]) | (length[1:] < 8))
    )
    firsts = np.concatenate(([0], np.flatnonzero(~same) + 1, [len(lines)]))
    raw = _raw(columns)
    runs: list[_Run] = []
    for a, b in zip(firsts[:-1].tolist(), firsts[1:].tolist(), strict=True):
        suffix = raw[int(tab[a]) : int(stop[a]) + 1]
        if raw.count(suffix, int(tab[a]), int(stop[b - 1]) + 1) == b - a:
            pieces = [(a, b)]
        else:
            pieces = [(i, i + 1) for i in range(a, b)]
        for first, last in pieces:
            module = raw[int(tab[first]) + 2 : int(stop[first]) - 1].decode(
                errors="surrogateescape"
            )
            runs.append(_Run(module, int(lines[first]), int(lines[last - 1]) + 1))
    return runs


def _raw(columns: _Columns) -> bytes:
    # The bytes below the array: bytes.find and bytes.count are the fastest there are.
    raw = columns.text.base
    assert isinstance(raw, bytes)
    return raw


def _kernel_file(columns: _Columns, indexes: _Array, fmt: ElfFormat) -> LinkerFile:
    # _text .. _end where the table has them; else from its first to its last symbol.
    marks = _marks(columns)
    start = marks.get("_text", marks.get("_stext"))
    if start is None:
        return _linker_file(columns, indexes, fmt, "kernel", None)
    end = marks.get("_end")
    if end is None:
        end = _page_end(int(columns.address[indexes].max()))
    file = _linker_file(columns, indexes, fmt, "kernel", (start, end - start))
    syms = file.symtab[2:]
    known = np.zeros(len(syms), bool)
    for low, high in _known_ranges(marks, columns.letter[indexes], end):
        known |= (syms["st_value"] >= low) & (syms["st_value"] < high)
    syms["st_size"][~known] = 0
    return file


def _marks(columns: _Columns) -> dict[str, int]:
    # The linker script's symbols that kallsyms itself goes by.
    text = _raw(columns)
    marks = {}
    for name in ("_text", "_stext", "_etext", "_sinittext", "_einittext", "_end"):
        at = text.find(b" %s\n" % name.encode())
        if at >= 0:
            marks[name] = int(columns.address[np.searchsorted(columns.newline, at)])
    return marks


def _known_ranges(
    marks: dict[str, int], letters: _Array, end: int
) -> list[tuple[int, int]]:
    # kernel/kallsyms.c is_ksym_addr: with CONFIG_KALLSYMS_ALL the whole kernel, without
    # it only text. Elsewhere the table has marks (__start_rodata, per-CPU offsets) that
    # cover nothing: the kernel answers for no address there, so their size is 0.
    start = marks.get("_stext", marks.get("_text", 0))
    has_data = "_end" in marks or bool(np.isin(letters, list(b"db")).any())
    if has_data or "_etext" not in marks:
        return [(start, end)]
    ranges = [(start, marks["_etext"])]
    if "_sinittext" in marks and "_einittext" in marks:
        ranges.append((marks["_sinittext"], marks["_einittext"]))
    return ranges


def _page_end(address: int) -> int:
    return (address // PAGE + 1) * PAGE


def _linker_file(
    columns: _Columns,
    indexes: _Array,
    fmt: ElfFormat,
    name: str,
    where: tuple[int, int] | None,
    *,
    apart: bool | None = None,  # whether a module's parts are; None: it has none
) -> LinkerFile:
    address = columns.address[indexes]
    order = np.argsort(address, kind="stable")
    indexes, address = indexes[order], address[order]
    if where is None:
        placed = address[columns.letter[indexes] | 0x20 != ord("a")]
        first = int(placed[0]) if len(placed) else 0
        last = int(placed[-1]) if len(placed) else 0
        where = (first, _page_end(last) - first)
    strtab, st_name = _strtab(columns, indexes, order, name)
    syms: SymArray = np.zeros(len(indexes) + 2, fmt.sym_dtype)
    syms[1:2] = linker_file_symbol(fmt, 1, *where)
    records = _LETTERS[columns.letter[indexes]]
    body = syms[2:]
    body["st_name"] = st_name
    body["st_info"] = records["info"]
    body["st_other"] = records["other"]
    body["st_shndx"] = records["shndx"]
    body["st_value"] = address
    body["st_size"] = _sizes(address, where, records["shndx"], apart)
    return LinkerFile(name, where[0], where[1], syms, strtab)


def _strtab(
    columns: _Columns, indexes: _Array, order: _Array, name: str
) -> tuple[bytes, _Array]:
    # The names in the order of the text (each followed by NUL, in place of its tab or
    # newline), and where each symbol's name starts. A running sum of +1 at a name's
    # start and -1 behind its end is the mask of the bytes to keep.
    prefix = b"\0" + name.encode(errors="surrogateescape") + b"\0"
    lines = np.empty_like(indexes)
    lines[order] = indexes
    if not len(lines):
        return prefix, lines
    first, last = columns.name[lines], columns.end[lines]
    lengths = last - first + 1
    offset = np.cumsum(lengths)
    offset -= lengths
    pieces = []
    # Runs of a module that the table lists twice are not adjacent.
    cuts = np.flatnonzero(np.diff(lines) != 1) + 1
    for a, b in zip([0, *cuts.tolist()], [*cuts.tolist(), len(lines)], strict=True):
        base, stop = int(first[a]), int(last[b - 1]) + 1
        edge = np.zeros(stop - base + 1, np.int8)
        edge[first[a:b] - base] = 1
        edge[last[a:b] - base + 1] -= 1
        keep = np.cumsum(edge[:-1], dtype=np.int8, out=edge[:-1]).view(bool)
        kept = columns.text[base:stop][keep]
        kept[offset[a:b] - offset[a] + lengths[a:b] - 1] = 0
        pieces.append(kept.tobytes())
    return prefix + b"".join(pieces), (offset + len(prefix))[order]


def _sizes(
    address: _Array, where: tuple[int, int], section: _Array, apart: bool | None
) -> _Array:
    # kernel/kallsyms.c get_symbol_pos: up to the next different address; the last one
    # ends where the linker file does. find_kallsyms_symbol: or where its part does.
    if not len(address):
        return address
    last = int(address[-1])
    end = where[0] + where[1]
    if apart or not where[0] <= last < end:
        end = _page_end(last)
    ends = np.append(np.flatnonzero(np.diff(address)) + 1, len(address))
    nexts = np.append(address[ends[:-1]], np.uint64(min(end, 2**64 - 1)))
    if apart is not None:
        nexts[:-1] = part_ends(
            address[ends[:-1] - 1],
            nexts[:-1],
            section[ends - 1],
            apart=apart,
            most=where[1],
        )
    counts = np.diff(ends, prepend=0)
    return np.repeat(nexts, counts) - address
