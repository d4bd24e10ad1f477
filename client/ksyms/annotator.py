"""Puts names in place of kernel addresses, in any text, as it streams by."""

from __future__ import annotations

import re
from itertools import takewhile

from ksyms.symbolizer import Symbolizer

# Texts that are kept for the next time that the same address comes.
_MEMO_SIZE = 1 << 16

_WORD = rb"[0-9A-Za-z_]"
# A line of JSON; what begins with [12.345678] is one of dmesg.
_JSON_LINE = re.compile(
    rb"^[ \t]*(?:\{|\[(?![ \t]*[\d.]+\][ \t]*[^ \t\r,\]])).*$", re.MULTILINE
)
# The strings of a line of JSON (one that does not end is a string to the end), and the
# numbers between them.
_JSON_NUMBER = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|(?<![\d.eE+-])(\d{2,20})(?![\d.eE])')


class Annotator:
    """Text -> text with a name where a kernel address was.

    An address has all its digits (16 on a 64-bit kernel), or 0x in front; in a line of
    JSON a decimal number will do too. What no symbol covers stays as it is.
    """

    def __init__(
        self,
        symbolizer: Symbolizer,
        *,
        return_address: bool = False,
        before: bytes = b"",
        after: bytes = b"",
    ) -> None:
        """*before* and *after* go around each name: a colour, say."""
        self._memo = _Names(symbolizer, return_address, before, after)
        low, high = symbolizer.extent
        width = symbolizer.bits // 4
        self._patterns = _patterns(low, high, width)
        self._decimal = _common(str(low), str(high))

    def annotate(self, text: bytes) -> bytes:
        """*text*, whole lines of it, with names for addresses."""
        if self._decimal and self._decimal in text:
            text = _JSON_LINE.sub(self._annotate_json, text)
        for beginning, pattern in self._patterns:
            if beginning in text:
                # Every second part is an address: faster by half than pattern.sub().
                parts = pattern.split(text)
                parts[1::2] = map(self._memo.__getitem__, parts[1::2])
                text = b"".join(parts)
        return text

    def _annotate_json(self, line: re.Match[bytes]) -> bytes:
        return _JSON_NUMBER.sub(self._quoted, line[0])

    def _quoted(self, number: re.Match[bytes]) -> bytes:
        if not number[1]:
            return number[0]
        address = b"%x" % int(number[1])
        name = self._memo[address]
        return number[0] if name == address else b'"%s"' % name


class _Names(dict[bytes, bytes]):
    # What stands in place of each address, which is itself where it has no name.
    def __init__(
        self, symbolizer: Symbolizer, return_address: bool, before: bytes, after: bytes
    ) -> None:
        super().__init__()
        self._symbolizer = symbolizer
        self._return_address = return_address
        self._before, self._after = before, after

    def __missing__(self, address: bytes) -> bytes:
        name = self._symbolizer.sprint(
            int(address, 16), return_address=self._return_address
        )
        if len(self) >= _MEMO_SIZE:
            self.clear()
        text = address
        if name is not None:
            encoded = name.encode("utf-8", "surrogateescape")
            text = self._before + encoded + self._after
        self[address] = text
        return text


def _common(low: str, high: str) -> bytes:
    # What all numbers between two of the same length begin with.
    if len(low) != len(high):
        return b""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(low, high, strict=True))
    return "".join(digit for digit, _ in pairs).encode()


def _patterns(low: int, high: int, width: int) -> list[tuple[bytes, re.Pattern[bytes]]]:
    # What an address begins with, by which a text can be searched as fast as memory
    # goes, and the pattern of all of it.
    prefix = _common(f"{low:0{width}x}", f"{high:0{width}x}")
    found = []
    beginnings = [(zero_x, prefix, width) for zero_x in (b"0x", b"0X", b"")]
    if low >> (4 * width - 4) == 0:
        # The kernel lies low, where 0x may come without leading zeros.
        least = max(len(f"{low:x}"), 4)
        beginnings[:2] = [(b"0x", b"", least), (b"0X", b"", least)]
    if prefix != prefix.upper():
        beginnings += [(zero_x, p.upper(), least) for zero_x, p, least in beginnings]
    for zero_x, first, least in dict.fromkeys(beginnings):
        beginning = zero_x + first
        digits = rb"[0-9a-fA-F]{%d,%d}" % (least - len(first), width - len(first))
        # The look behind comes last: what a pattern starts with is searched for.
        pattern = rb"(%s(?<!%s%s)%s)(?!%s)" % (
            beginning, _WORD, beginning, digits, _WORD,
        )  # fmt: skip
        found.append((beginning, re.compile(pattern)))
    return found
