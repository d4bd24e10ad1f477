"""A kernel's symbols as libbpf's kallsyms pass goes through them.

Either the text of /proc/kallsyms, read to the letter as libbpf_kallsyms_parse() reads
it, or a ksyms image, whose symbols carry the kallsyms letters.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol, Self

from ksyms.image import Image
from ksyms.names import NameIndex

# fscanf("%llx %c %499s%*[^\n]\n"): white space between the fields may be any, even
# none, and may span lines. No quantifier of a group is possessive: Python < 3.11.5
# mistakes where such a group ends.
_HEX = rb"\s*+([+-]?(?:0[xX](?=[0-9a-fA-F])|(?!0[xX]))[0-9a-fA-F]++)"
_LETTER, _NAME = rb"\s*+(\S)", rb"\s*+(\S{1,499}+)"
_ENTRY = re.compile(_HEX + _LETTER + _NAME + rb"[^\n]*+")
_FIELDS = tuple(map(re.compile, (_HEX, _LETTER, _NAME)))
# What kernels write instead can be searched without being parsed.
_REGULAR_LINE = re.compile(rb"([0-9a-f]++) (\S) (\S{1,499}+)(?:\t[^\n]*+)?\n")
_IRREGULAR = re.compile(rb"\n(?!" + _REGULAR_LINE.pattern + rb")")
_NOT_ZERO = re.compile(rb"^0*+[1-9a-f]", re.MULTILINE)
_SEARCHES = 128  # by name, before an index of all names pays
_SUFFIX = ".llvm."
_TOP = (1 << 64) - 1


class Occurrence(NamedTuple):
    """A symbol that an extern's name stands for."""

    position: int
    """Where in the table: positions ascend in the order that libbpf reads."""
    address: int
    name: str
    """As in the table: a symbol that ThinLTO promoted keeps its ``.llvm.`` suffix."""


class Kallsyms(Protocol):
    """A table of symbols that can be asked for what libbpf would find in it."""

    broken: str | None
    """libbpf's words, where reading would stop before the end."""

    @property
    def is_zeroed(self) -> bool:
        """Whether every address is 0: the kernel hid them (kptr_restrict)."""

    def occurrences(self, name: str) -> tuple[Occurrence, ...]:
        """The symbols that libbpf takes for an extern *name*, in its order.

        Those of exactly that name, and local data (letter d) whose name continues
        with ``.llvm.``: kallsyms_cb().
        """


def load_symbols(path: str | Path) -> Kallsyms:
    """The symbols in the file *path*: an image, or text as in /proc/kallsyms.

    Raises OSError, ImageError, RestrictedError.
    """
    data = Path(path).read_bytes()
    if data.startswith(b"\x7fELF"):
        return KallsymsImage(data, str(path))
    return KallsymsText(data)


class KallsymsText:
    """The bytes of /proc/kallsyms or of a copy of it."""

    def __init__(self, text: bytes) -> None:
        """Whatever *text* is: it is read as far as libbpf would read it."""
        self._text = text
        self._searches = 0
        self._known: dict[str, tuple[Occurrence, ...]] = {}
        self._index: dict[bytes, list[tuple[int, int, bytes]]] | None = None
        self.broken: str | None = None
        self._is_regular = _is_regular(text)
        if not self._is_regular:
            self._index = self._index_names()

    @property
    def is_zeroed(self) -> bool:
        """Whether there are symbols, all of them at address 0."""
        if self._is_regular:
            return self._text != b"" and not _NOT_ZERO.search(self._text)
        entries = self._index or {}
        return bool(entries) and not any(
            address for found in entries.values() for _, address, _ in found
        )

    def occurrences(self, name: str) -> tuple[Occurrence, ...]:
        """The symbols that libbpf takes for an extern *name*, in the text's order."""
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = self._occurrences(name)
        return known

    def _occurrences(self, name: str) -> tuple[Occurrence, ...]:
        wanted = name.encode("utf-8", "surrogateescape")
        if self._index is None and self._searches < _SEARCHES:
            self._searches += 1
            found = list(self._search(wanted))
        else:
            if self._index is None:
                self._index = self._index_names()
            found = self._index.get(wanted, [])
        return tuple(
            Occurrence(position, address, full.decode("utf-8", "surrogateescape"))
            for position, address, full in found
        )

    def _search(self, wanted: bytes) -> Iterator[tuple[int, int, bytes]]:
        text, needle = self._text, b" " + wanted
        at = text.find(needle)
        while at >= 0:
            start = text.rfind(b"\n", 0, at) + 1
            line = _REGULAR_LINE.match(text, start)
            assert line is not None
            digits, letter, full = line.groups()
            if line.start(3) == at + 1 and _answers(wanted, full, letter):
                yield start, _unsigned(digits), full
            at = text.find(needle, at + 1)

    def _index_names(self) -> dict[bytes, list[tuple[int, int, bytes]]]:
        index: dict[bytes, list[tuple[int, int, bytes]]] = {}
        suffix = _SUFFIX.encode()
        end = 0
        for entry in _ENTRY.finditer(self._text):
            start, previous, end = entry.start(), end, entry.end()
            if start != previous:
                end = previous
                break
            digits, letter, full = entry.groups()
            name = full.partition(suffix)[0] if letter == b"d" else full
            index.setdefault(name, []).append((start, _unsigned(digits), full))
        if self._text[end:].strip():
            fields = _fields_at(self._text, end)
            self.broken = f"failed to read kallsyms entry: {fields}"
        return index


def _is_regular(text: bytes) -> bool:
    if not text:
        return True
    # Behind the last newline there is no line: that one is irregular, and right.
    found = _IRREGULAR.search(text)
    return (
        _REGULAR_LINE.match(text) is not None
        and found is not None
        and found.end() == len(text)
    )


# strtoull(): a number of more than 64 bits is the greatest, a sign counts.
def _unsigned(digits: bytes) -> int:
    value = int(digits, 16)
    return _TOP if abs(value) > _TOP else value & _TOP


def _answers(wanted: bytes, full: bytes, letter: bytes) -> bool:
    if letter == b"d":
        return full.partition(_SUFFIX.encode())[0] == wanted
    return full == wanted


# What fscanf() returns for the entry that it cannot read: the fields it got.
def _fields_at(text: bytes, at: int) -> int:
    for count, field in enumerate(_FIELDS):
        match = field.match(text, at)
        if match is None:
            return count
        at = match.end()
    raise AssertionError("a whole entry")


class KallsymsImage:
    """The symbols of a ksyms image: the kernel's, then its modules' in load order."""

    broken: str | None = None
    is_zeroed = False

    def __init__(self, data: bytes, path: str) -> None:
        """Raises ImageError where *data* is no image, RestrictedError for one of
        zeros; *path* is for messages.
        """
        self._image = Image(data, path)
        self._names = NameIndex(self._image)
        self._data = data
        self._promoted: dict[str, list[str]] | None = None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The image in the file *path* ("-": standard input); raises OSError too."""
        if path == "-":
            return cls(sys.stdin.buffer.read(), "standard input")
        return cls(Path(path).read_bytes(), str(path))

    def occurrences(self, name: str) -> tuple[Occurrence, ...]:
        """The symbols that libbpf takes for an extern *name*, in the image's order."""
        image = self._image
        if self._promoted is None:
            self._promoted = self._find_promoted()
        found = {
            (index, full)
            for full in (name, *self._promoted.get(name, ()))
            for index in self._names.find(full)
            if (full == name) != (_SUFFIX in full and image.nm_type(index) == "d")
        }
        return tuple(
            Occurrence(index, image.st_value[index], full)
            for index, full in sorted(found)
        )

    # Names with a .llvm. suffix by what comes before it; few kernels have any.
    def _find_promoted(self) -> dict[str, list[str]]:
        promoted: dict[str, list[str]] = {}
        data, suffix = self._data, _SUFFIX.encode()
        at = data.find(suffix)
        while at >= 0:
            start = data.rfind(b"\0", 0, at) + 1
            end = data.find(b"\0", at)
            full = data[start : end if end >= 0 else None]
            name = full.partition(suffix)[0].decode("utf-8", "surrogateescape")
            promoted.setdefault(name, []).append(
                full.decode("utf-8", "surrogateescape")
            )
            at = data.find(suffix, max(end, at + 1))
        return promoted
