"""kallsyms text as columns: a numpy array a field, never a Python object a symbol.

The format is that of kernel/kallsyms.c s_show, ``%px %c %s\\t[%s]\\n``.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksymsfs.errors import SourceFormatError

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LINE = re.compile(
    rb"(?P<address>[0-9a-fA-F]{1,16}) (?P<letter>[A-Za-z?]) (?P<name>[^\0- ]+)"
    rb"(?:[\t ]+\[(?P<module>[^\0- \]]+)\])?"
)
_LETTERS = np.zeros(256, bool)
_LETTERS[list(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?")] = True

_PIECE = 1 << 18  # so many bytes are parsed at a time
_LINES = 1 << 12  # so many names are copied at a time
_BLOCK = 64  # most names are shorter


class Columns(NamedTuple):
    """The fields of lines, one item a line."""

    address: _Array
    letter: _Array
    name: _Array
    """Where the name starts, from the start of the text."""
    length: _Array
    """The name's bytes."""

    def __len__(self) -> int:
        return len(self.address)

    def lines(self, runs: Sequence[tuple[int, int]]) -> Columns:
        """The columns of these stretches of lines, put together."""
        return Columns(*(np.concatenate([c[a:b] for a, b in runs]) for c in self))


class Run(NamedTuple):
    """Lines *first* to before *last*, which all name *module*."""

    module: bytes
    first: int
    last: int


def parse_kallsyms(text: bytes, name: str) -> tuple[bytes, Columns, list[Run]]:
    """The text that was parsed, its columns, and the stretches of modules in it.

    It is *text* (which errors call *name*), brought into the kernel's own form if need
    be. Raises SourceFormatError for a malformed line, or where there is none.
    """
    parsed = _parse(text)
    if parsed is None:
        text = _canonical(text, name)
        parsed = _parse(text)
        assert parsed is not None
    return text, *parsed


def join_names(text: bytes, columns: Columns) -> tuple[_Array, _Array]:
    """All names, each followed by NUL; where each starts, and where the last ends.

    Every name is copied with what stands behind it, as a block of fixed size: one
    vector operation, which goes from the first to the last, so that each block is
    written over the excess of the one before. Further blocks of longer names come
    first, for their excess falls on first blocks alone. Names so close to the end of
    the text that a block would pass it are copied one by one.
    """
    offset = np.zeros(len(columns) + 1, np.int64)
    np.cumsum(columns.length, out=offset[1:])
    offset += np.arange(len(offset))
    chars = np.frombuffer(text, np.uint8)
    joined = np.empty(offset[-1] + _BLOCK, np.uint8)
    source, target = (_unaligned(a, f"V{_BLOCK}") for a in (chars, joined))
    most = len(source) - 1  # where the last block starts that does not pass the end
    for at in reversed(range(_BLOCK, int(columns.length.max(initial=0)), _BLOCK)):
        rows = np.flatnonzero(columns.length > at)
        target[offset[rows] + at] = source[np.minimum(columns.name[rows] + at, most)]
    for at in range(0, len(columns), _LINES) if most >= 0 else ():
        rows = np.minimum(columns.name[at : at + _LINES], most)
        target[offset[at : at + len(rows)]] = source[rows]
    for row in np.flatnonzero(columns.name + columns.length > most).tolist():
        name, length, start = columns.name[row], columns.length[row], offset[row]
        joined[start : start + length] = chars[name : name + length]
    joined[offset[1:] - 1] = 0
    return joined[: offset[-1]], offset


def _parse(text: bytes) -> tuple[Columns, list[Run]] | None:
    # None unless every line is exactly what the kernel writes, with addresses of one
    # width (8 or 16 digits): the line's parts then lie at fixed distances.
    width = text.find(b" ")
    if width not in (8, 16) or not text.endswith(b"\n"):
        return None
    # A piece at a time: the kernel has to find and clear every page of new memory,
    # which costs more than the work on it, but what one piece needed serves the next.
    scratch = np.empty(_PIECE, bool)
    pieces: list[Columns] = []
    runs: list[Run] = []
    lines = start = 0
    while start < len(text):
        stop = text.rfind(b"\n", start, start + _PIECE) + 1
        if stop == 0:
            return None
        chars = np.frombuffer(text, np.uint8, stop - start, start)
        piece = _piece(chars, width, scratch[: len(chars)])
        if piece is None:
            return None
        columns, newline = piece
        for module, first, last in _module_runs(chars, columns, newline):
            if runs and runs[-1].module == module and runs[-1].last == lines + first:
                runs[-1] = runs[-1]._replace(last=lines + last)
            else:
                runs.append(Run(module, lines + first, lines + last))
        np.add(columns.name, start, out=columns.name)
        pieces.append(columns)
        lines, start = lines + len(newline), stop
    return Columns(*map(np.concatenate, zip(*pieces, strict=True))), runs


def _piece(chars: _Array, width: int, scratch: _Array) -> tuple[Columns, _Array] | None:
    # The columns of whole lines, and where those end.
    newline = np.flatnonzero(np.equal(chars, ord("\n"), out=scratch))
    start = np.empty_like(newline)
    start[0] = 0
    start[1:] = newline[:-1] + 1
    name = start + (width + 3)
    if (name >= newline).any():
        return None
    head = _unaligned(chars, f"V{width + 3}")[start].view(np.uint8)
    head = head.reshape(len(start), width + 3)
    letter = head[:, width + 1].copy()
    if not ((head[:, width::2] == ord(" ")).all() and _LETTERS[letter].all()):
        return None
    try:
        digits = binascii.unhexlify(np.ascontiguousarray(head[:, :width]).data)
    except binascii.Error:
        return None
    address = np.frombuffer(digits, f">u{width // 2}").astype(np.uint64)
    tabs = np.flatnonzero(np.equal(chars, ord("\t"), out=scratch))
    # No other space, NUL or control character: readers would cut names there.
    blank = np.count_nonzero(np.less_equal(chars, ord(" "), out=scratch))
    if blank != 3 * len(newline) + len(tabs):
        return None
    end = newline
    if len(tabs):
        line = np.searchsorted(newline, tabs)
        stop = newline[line]
        if not (
            (line[1:] != line[:-1]).all()
            and (tabs > name[line]).all()
            and (stop - tabs >= 4).all()
            and (chars[tabs + 1] == ord("[")).all()
            and (chars[stop - 1] == ord("]")).all()
        ):
            return None
        end = newline.copy()
        end[line] = tabs
    return Columns(address, letter, name, end - name), newline


def _module_runs(chars: _Array, columns: Columns, newline: _Array) -> list[Run]:
    tab = columns.name + columns.length
    lines = np.flatnonzero(tab != newline)
    if not len(lines):
        return []
    tab, stop = tab[lines], newline[lines]
    firsts = np.flatnonzero(~_same_as_before(chars, lines, tab, stop))
    lasts = np.append(firsts[1:], len(lines)) - 1
    names = zip(tab[firsts].tolist(), stop[firsts].tolist(), strict=True)
    bounds = zip(lines[firsts].tolist(), lines[lasts].tolist(), strict=True)
    return [
        Run(chars[start + 2 : end - 1].tobytes(), first, last + 1)
        for (start, end), (first, last) in zip(names, bounds, strict=True)
    ]


def _same_as_before(chars: _Array, lines: _Array, tab: _Array, stop: _Array) -> _Array:
    # Which of lines follow one with the same module. What stands between tab and stop
    # is compared eight bytes at a time, at last the last eight.
    words = _unaligned(chars, "<u8")
    length = stop - tab
    # The first eight bytes of a shorter one reach beyond it: they are shifted out.
    head = words[np.minimum(tab, len(words) - 1)]
    head <<= (8 * np.maximum(8 - length, 0)).astype(np.uint64)
    same = np.zeros(len(lines), bool)
    same[1:] = (
        (lines[1:] == lines[:-1] + 1)
        & (length[1:] == length[:-1])
        & (head[1:] == head[:-1])
    )
    for at in range(8, int(length.max()), 8):
        rows = np.flatnonzero(same & (length > at))
        further = np.minimum(at, length[rows] - 8)
        ours, theirs = words[tab[rows] + further], words[tab[rows - 1] + further]
        same[rows] = ours == theirs
    return same


def _unaligned(chars: _Array, dtype: str) -> _Array:
    # Item i is what starts at byte i: a value of dtype at any position at all.
    size = np.dtype(dtype).itemsize
    return np.ndarray((max(len(chars) - size + 1, 0),), dtype, chars, strides=(1,))


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
