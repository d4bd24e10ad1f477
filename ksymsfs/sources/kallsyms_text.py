"""kallsyms text as columns: a numpy array a field, never a Python object a symbol.

The format is that of kernel/kallsyms.c s_show, ``%px %c %s\\t[%s]\\n``.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksymsfs.errors import SourceFormatError

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_LINE = re.compile(
    rb"(?P<address>[0-9a-fA-F]{1,16}) (?P<letter>[A-Za-z?]) (?P<name>[^\0- ]+)"
    rb"(?:[\t ]+\[(?P<module>[^\0- \]]+)\])?"
)
_SUFFIX = re.compile(rb"\t\[[^\0- \]]+\]\n")
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
    """The name's bytes, with the one that ends it."""

    def __len__(self) -> int:
        return len(self.address)

    def lines(self, runs: Sequence[tuple[int, int]]) -> Columns:
        """The columns of these stretches of lines, put together."""
        if all(a[1] == b[0] for a, b in pairwise(runs)):
            return self  # as they are
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
    chars = np.frombuffer(text, np.uint8)
    joined = np.empty(offset[-1] + _BLOCK, np.uint8)
    source, target = (_unaligned(a, f"V{_BLOCK}") for a in (chars, joined))
    most = len(source) - 1  # where the last block starts that does not pass the end
    for at in reversed(range(_BLOCK, int(columns.length.max(initial=0)), _BLOCK)):
        rows = np.flatnonzero(columns.length > at)
        target[offset[rows] + at] = source[np.minimum(columns.name[rows] + at, most)]
    near_end: list[int] = []
    for at in range(0, len(columns), _LINES):
        name = columns.name[at : at + _LINES]
        ends = name + columns.length[at : at + _LINES]
        if most >= 0:
            target[offset[at : at + len(name)]] = source[np.minimum(name, most)]
        near_end += (at + np.flatnonzero(ends > most)).tolist()
    for row in near_end:
        start, end = columns.name[row], columns.name[row] + columns.length[row]
        joined[offset[row] : offset[row + 1]] = chars[start:end]
    joined[offset[1:] - 1] = 0
    return joined[: offset[-1]], offset


def _parse(text: bytes) -> tuple[Columns, list[Run]] | None:
    # None unless every line is exactly what the kernel writes, with addresses of one
    # width (8 or 16 digits): the line's parts then lie at fixed distances.
    width = text.find(b" ")
    if width not in (8, 16) or not text.endswith(b"\n"):
        return None
    room = len(text) // (width + len(" t x\n"))
    columns = Columns(*(np.empty(room, code) for code in ("u8", "u1", "i8", "i8")))
    runs: list[Run] = []
    lines = start = 0
    # A piece at a time: the kernel has to find and clear every page of new memory,
    # which costs more than the work on it, but what one piece needed serves the next.
    scratch = np.empty(_PIECE, bool)
    while start < len(text):
        stop = text.rfind(b"\n", start, start + _PIECE) + 1
        piece = _piece(text, start, stop, width, scratch) if stop else None
        if piece is None:
            return None
        fields, found = piece
        last = lines + len(fields)
        for column, field in zip(columns, fields, strict=True):
            column[lines:last] = field
        for run in found:
            if (
                runs
                and runs[-1].module == run.module
                and runs[-1].last == lines + run.first
            ):
                runs[-1] = runs[-1]._replace(last=lines + run.last)
            else:
                runs.append(Run(run.module, lines + run.first, lines + run.last))
        lines, start = last, stop
    return Columns(*(column[:lines] for column in columns)), runs


def _piece(
    text: bytes, first: int, last: int, width: int, scratch: _Array
) -> tuple[Columns, list[Run]] | None:
    # The columns and the modules of whole lines, from first to before last.
    chars = np.frombuffer(text, np.uint8, last - first, first)
    newline = _newlines(chars, scratch)
    if newline is None:
        return None
    start = np.empty_like(newline)
    start[0] = 0
    np.add(newline[:-1], 1, out=start[1:])
    name = start + (width + 3)
    if (name >= newline).any():
        return None
    head = _unaligned(chars, f"V{width + 3}")[start].view(np.uint8)
    head = head.reshape(len(start), width + 3)
    letter = head[:, width + 1].copy()
    if not (
        (head[:, width] == ord(" ")).all()
        and (head[:, width + 2] == ord(" ")).all()
        and _LETTERS[letter].all()
    ):
        return None
    try:
        digits = binascii.unhexlify(np.ascontiguousarray(head[:, :width]).data)
    except binascii.Error:
        return None
    runs, tabs, length = [], 0, newline - name + 1
    for suffix, at, end in _suffixes(text, first, chars, newline):
        if not _SUFFIX.fullmatch(suffix):
            return None
        runs.append(Run(suffix[2:-2], at, end))
        length[at:end] -= len(suffix) - 1
        tabs += end - at
    # No other space, NUL or control character: readers would cut names there.
    blank = np.count_nonzero(np.less_equal(chars, ord(" "), out=scratch[: len(chars)]))
    if blank != 3 * len(newline) + tabs or (length <= 1).any():
        return None
    address = np.frombuffer(digits, f">u{width // 2}")
    name += first
    return Columns(address, letter, name, length), runs


def _newlines(chars: _Array, scratch: _Array) -> _Array | None:
    # Where the newlines are; None where a line is too short to be one of kallsyms.
    # np.flatnonzero of the bytes themselves takes twice as long. In a word of eight
    # there is one newline at most: a one, moved up by eight bits for each byte before
    # it. Times the constant, that becomes the number of these bytes, in the top byte.
    is_newline = scratch[: -(-len(chars) // 8) * 8]
    is_newline[len(chars) :] = False
    np.equal(chars, ord("\n"), out=is_newline[: len(chars)])
    word = is_newline.view("<u8")
    rows = np.flatnonzero(word != 0)
    if np.count_nonzero(is_newline) != len(rows):
        return None
    byte = word[rows] * np.uint64(0x0001020304050607) >> np.uint64(56)
    rows *= 8
    rows += byte.astype(np.int64)
    return rows


def _suffixes(
    text: bytes, first: int, chars: _Array, newline: _Array
) -> Iterator[tuple[bytes, int, int]]:
    # The stretches of lines that have the same from their tab on. *chars* is *text*
    # from *first*.
    tab = text.find(b"\t", first, first + len(chars))
    while tab >= 0:
        line = int(np.searchsorted(newline, tab - first))
        suffix = text[tab : first + int(newline[line]) + 1]
        count = _count_same(chars, newline[line:], suffix)
        yield suffix, line, line + count
        end = first + int(newline[line + count - 1])
        tab = text.find(b"\t", end, first + len(chars))


def _count_same(chars: _Array, newline: _Array, suffix: bytes) -> int:
    # How many lines from the first of *newline* on end in suffix. So many are compared
    # at a time as have been alike so far.
    ends = _unaligned(chars, f"S{len(suffix)}")
    count, most = 0, 256
    while count < len(newline):
        some = newline[count : count + most]
        same = ends[some - (len(suffix) - 1)] == suffix
        if not same.all():
            return count + int(same.argmin())
        count, most = count + len(some), 2 * most
    return count


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
