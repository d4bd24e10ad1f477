"""Finds types by name: a search at first, an index after a few."""

from __future__ import annotations

import sys
from array import array
from operator import itemgetter

from ksyms.btf_strings import NAME_MAX, BtfStrings
from ksyms.image import indexes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# The index takes as long as one search for each so many types. Every place of the name
# among the strings counts as one: all are looked for.
_TYPES_A_SEARCH = 1024
_PART = 4096  # types whose names are picked at once: in less memory, so faster


class TypeNames:
    """Name -> positions of the types of a BTF that have it.

    *words* are its types', which start at *starts*.
    """

    def __init__(
        self, words: array[int], starts: array[int], strings: BtfStrings
    ) -> None:
        self._words, self._starts, self._strings = words, starts, strings
        self._searches = len(starts) // _TYPES_A_SEARCH
        self._column = b""
        self._index: dict[str, list[int]] | None = None

    def find(self, name: str) -> Sequence[int]:
        """The positions of all types called *name*, ascending; none for ""."""
        if self._index is None:
            found = self._search(name)
            if found is not None:
                return found
            self._index = self._build()
        return self._index.get(name, ())

    def _search(self, name: str) -> list[int] | None:
        # None where there were enough searches.
        if self._searches <= 0:
            return None
        try:
            wanted = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return []
        if not wanted or b"\0" in wanted or len(wanted) >= NAME_MAX:
            return []
        offsets = list(self._strings.find(wanted))
        self._searches -= 1 + len(offsets)
        if self._searches <= 0:
            return None
        self._column = self._column or self._names()
        found: list[int] = []
        for offset in offsets:
            # A search is three times as fast for what does not end with zeros.
            name_off = offset.to_bytes(4, "little")
            for at in indexes(self._column, name_off.rstrip(b"\0")):
                if at % 4 == 0 and self._column.startswith(name_off, at):
                    found.append(at // 4)
        return sorted(found)

    def _names(self) -> bytes:
        # name_off of all types, in little-endian order.
        names = array("I")
        for first in range(0, len(self._starts), _PART):
            # Of one item alone itemgetter() would make no tuple.
            get = itemgetter(0, *self._starts[first : first + _PART])
            names.extend(array("I", get(self._words)[1:]))
        if sys.byteorder == "big":
            names.byteswap()
        return names.tobytes()

    def _build(self) -> dict[str, list[int]]:
        index: dict[str, list[int]] = {}
        words, text = self._words, self._strings.text
        for position, at in enumerate(self._starts):
            try:
                name = text(words[at])
            except ValueError:
                continue  # whoever asks for that type will hear of it
            if name:
                index.setdefault(name, []).append(position)
        self._column = b""
        return index
