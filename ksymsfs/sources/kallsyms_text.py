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
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz?"

_PIECE = 1 << 18  # so many bytes are parsed at a time
_BLOCK = 64  # most names are shorter


class Columns(NamedTuple):
    """The fields of lines, one item a line."""

    address: _Array
    letter: _Array
    start: _Array
    """Where in `names` the name starts, and, one item more, where the last one ends."""
    names: _Array
    """The bytes of all names, each followed by NUL."""

    def __len__(self) -> int:
        return len(self.address)

    def lines(self, runs: Sequence[tuple[int, int]]) -> Columns:
        """The columns of these stretches of lines, put together."""
        if all(a[1] == b[0] for a, b in pairwise(runs)):
            return self  # as they are
        length = np.concatenate([np.diff(self.start[a : b + 1]) for a, b in runs])
        return Columns(
            np.concatenate([self.address[a:b] for a, b in runs]),
            np.concatenate([self.letter[a:b] for a, b in runs]),
            np.append(0, np.cumsum(length)).astype(self.start.dtype),
            np.concatenate(
                [self.names[self.start[a] : self.start[b]] for a, b in runs]
            ),
        )


class Run(NamedTuple):
    """Lines *first* to before *last*, which all name *module*."""

    module: bytes
    first: int
    last: int


def parse_kallsyms(text: bytes, name: str) -> tuple[Columns, list[Run]]:
    """The columns of *text* (which errors call *name*), and the stretches of modules.

    Raises SourceFormatError for a malformed line, or where there is none.
    """
    parsed = _parse(text) or _parse(_canonical(text, name))
    assert parsed is not None
    return parsed


def _parse(text: bytes) -> tuple[Columns, list[Run]] | None:
    # None unless every line is exactly what the kernel writes, with addresses of one
    # width (8 or 16 digits): the line's parts then lie at fixed distances.
    width = text.find(b" ")
    if width not in (8, 16) or not text.endswith(b"\n"):
        return None
    # malloc(3) keeps what is freed, to give it out again, unless it is larger than all
    # that was freed before (mallopt(3), M_MMAP_THRESHOLD). So let it see the largest
    # one first: this costs nothing, and what follows is not new memory each time.
    np.empty(len(text), np.uint8)
    room = len(text) // (width + len(" t x\n"))
    address, letter = np.empty(room, np.uint64), np.empty(room, np.uint8)
    begin = np.zeros(room + 1, np.uint32 if len(text) < 1 << 32 else np.int64)
    names = np.empty(len(text) + _BLOCK, np.uint8)
    runs: list[Run] = []
    lines = first = 0
    # A piece at a time: the kernel has to find and clear every page of new memory,
    # which costs more than the work on it, but what one piece needed serves the next.
    # Behind it is room for what is copied with its last lines.
    scratch = np.zeros(_PIECE, bool)
    piece = np.zeros(_PIECE + _BLOCK, np.uint8)
    while first < len(text):
        last = text.rfind(b"\n", first, first + _PIECE) + 1
        if not last:
            return None
        chars = piece[: last - first]
        chars[:] = np.frombuffer(text, np.uint8, len(chars), first)
        newline = _newlines(chars, scratch)
        if newline is None or lines + len(newline) > room:
            return None
        # Where the line starts, and the byte behind its name.
        start, end = np.zeros_like(newline), newline.copy()
        np.add(newline[:-1], 1, out=start[1:])
        for suffix, a, b in _suffixes(text, first, chars, newline):
            if not _SUFFIX.fullmatch(suffix):
                return None
            end[a:b] -= len(suffix) - 1
            _add_run(runs, Run(suffix[2:-2], lines + a, lines + b))
        rest = Columns(address[lines:], letter[lines:], begin[lines:], names)
        if not _fill(rest, piece, start, end, width):
            return None
        lines, first = lines + len(newline), last
    begin = begin[: lines + 1]
    return Columns(address[:lines], letter[:lines], begin, names[: begin[-1]]), runs


def _fill(
    columns: Columns, piece: _Array, start: _Array, end: _Array, width: int
) -> bool:
    # Put the fields of the lines of a piece into columns, whose first item is that of
    # the first line; False where they are not those of kallsyms. Lines go from *start*,
    # their names to before *end*. Every byte of them is looked at.
    lines = len(start)
    address, letter, begin, names = columns
    digits = _unaligned(piece, f"V{width}")[start]
    try:
        value = binascii.unhexlify(digits.data)
    except binascii.Error:
        return False
    address[:lines] = np.frombuffer(value, f">u{width // 2}")
    at = start + width
    is_space = piece[at] == ord(" ")
    at += 1
    letter[:lines] = piece[at]
    at += 1
    is_space &= piece[at] == ord(" ")
    at += 1
    if not is_space.all() or letter[:lines].tobytes().translate(None, _LETTERS):
        return False
    length = end - at
    if (length <= 0).any():
        return False
    length += 1
    piece[end] = 0
    target = np.zeros(lines + 1, np.int64)
    np.cumsum(length, out=target[1:])
    own = names[begin[0] : begin[0] + target[-1] + _BLOCK]
    begin[1 : lines + 1] = target[1:] + begin[0]
    _copy_names(own, target[:-1], piece, at, length)
    # Other spaces and control characters: readers would cut names there.
    return int(np.count_nonzero(own[: target[-1]] <= ord(" "))) == lines


def _copy_names(
    names: _Array, target: _Array, chars: _Array, source: _Array, length: _Array
) -> None:
    # The strings of *length* at *source* of chars to *target* of names, one after the
    # other. Every one is copied with what stands behind it, as a block of fixed size:
    # one vector operation, which goes from the first to the last, so that each block
    # is written over the excess of the one before. Further blocks of longer names come
    # first, for their excess falls on first blocks alone.
    blocks, places = (_unaligned(a, f"V{_BLOCK}") for a in (chars, names))
    for at in reversed(range(_BLOCK, int(length.max()), _BLOCK)):
        rows = np.flatnonzero(length > at)
        places[target[rows] + at] = blocks[source[rows] + at]
    places[target] = blocks[source]


def _add_run(runs: list[Run], run: Run) -> None:
    if runs and runs[-1].module == run.module and runs[-1].last == run.first:
        run = run._replace(first=runs.pop().first)
    runs.append(run)


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
    ones = word[rows]
    if (ones & (ones - np.uint64(1))).any():
        return None
    ones *= np.uint64(0x0001020304050607)
    ones >>= np.uint64(56)
    rows *= 8
    rows += ones.view(np.int64)
    return rows


def _suffixes(
    text: bytes, first: int, chars: _Array, newline: _Array
) -> Iterator[tuple[bytes, int, int]]:
    # The stretches of lines that have the same from their tab on. *chars* is *text*
    # from *first*.
    tab = text.find(b"\t", first, first + len(chars))
    while tab >= 0:
        line = int(newline.searchsorted(tab - first))
        suffix = text[tab : first + int(newline[line]) + 1]
        count = _count_same(chars, newline[line:], suffix)
        yield suffix, line, line + count
        end = first + int(newline[line + count - 1])
        tab = text.find(b"\t", end, first + len(chars))


def _count_same(chars: _Array, newline: _Array, suffix: bytes) -> int:
    # How many lines from the first of *newline* on end in suffix. So many are compared
    # at a time as have been alike so far.
    ends = _unaligned(chars, f"V{len(suffix)}")
    count, most = 0, 512
    while count < len(newline):
        some = newline[count : count + most] - (len(suffix) - 1)
        wanted = np.frombuffer(suffix * len(some), np.uint8)
        differs = ends[some].view(np.uint8) != wanted
        other = int(differs.argmax())
        if differs[other]:
            return count + other // len(suffix)
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
        if len(lines[-1]) > _PIECE:
            raise SourceFormatError(
                name, f"line {number}", f"longer than {_PIECE >> 10} KiB"
            )
    if not lines:
        raise SourceFormatError(name, "", "holds no symbols")
    return b"".join(lines)
