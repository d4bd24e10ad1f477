"""Finds symbols of an image by name: a search at first, an index after a few."""

from __future__ import annotations

import sys
from itertools import compress, count
from operator import ne

from ksyms.image import Image, indexes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ksyms.listed import ListedSymbols

# So many names are searched for, each in 1 ms, before the index is made in 50 ms; and
# so many places of a name among the strings are looked at in one search.
_SEARCHES, _HITS = 16, 32


class NameIndex:
    """Name -> indexes of the symbols of a table that have it."""

    def __init__(self, records: Image | ListedSymbols) -> None:
        self._records = records
        self._searches = _SEARCHES if isinstance(records, Image) else 0
        self._column = b""
        self._indexed = False
        # Names that one symbol has, names that several have.
        self._unique: dict[str, int] = {}
        self._several: dict[str, list[int]] = {}

    def find(self, name: str) -> list[int]:
        """The indexes of all places that have this name, in the table's order."""
        if not self._indexed:
            found = self._search(name) if self._searches else None
            if found is not None:
                return found
            self._build()
        index = self._unique.get(name)
        return list(self._several.get(name, ())) if index is None else [index]

    def _search(self, name: str) -> list[int] | None:
        # A search of the strings, then of the st_name column, both in C. A name may
        # also be the end of another (linkers merge tails); None when there are too
        # many of those.
        self._searches -= 1
        image = self._records
        assert isinstance(image, Image)
        try:
            wanted = name.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return []
        if not wanted or b"\0" in wanted:
            return []
        self._column = self._column or image.st_name.tobytes()
        found: list[int] = []
        for hits, st_name in enumerate(image.find_string(wanted + b"\0")):
            if hits == _HITS:
                return None
            pattern = st_name.to_bytes(4, sys.byteorder)
            found += [at // 4 for at in indexes(self._column, pattern) if at % 4 == 0]
        return sorted(filter(image.is_place, found))

    def _build(self) -> None:
        names, unique, several = (
            self._records.place_names(),
            self._unique,
            self._several,
        )
        # From the back: the first symbol of a name is the last to be put in.
        last = len(names) - 1
        unique.update(zip(reversed(names), range(last, -1, -1), strict=True))
        firsts = map(unique.__getitem__, names)
        for i in compress(count(), map(ne, firsts, count())):
            several.setdefault(names[i], [unique[names[i]]]).append(i)
        for name in (*several, ""):
            unique.pop(name, None)
        several.pop("", None)
        self._column = b""
        self._indexed = True
