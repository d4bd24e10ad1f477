"""Which symbol of a table owns an address: bisection in place, later in an index."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ksyms.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ksyms.listed import ListedSymbols
    from ksyms.ranges import Ranges

# After so many addresses one by one, cutting up the whole address space pays.
_FIRST_ADDRESSES = 4096
# More stretches of symbols than that are not looked through one by one.
_MOST_RUNS = 512

PAGE_SHIFT = 12
_TOP = 0xFFFFFFFFFFFFFFFF


class AddressIndex:
    """Address -> index of the symbol in its table.

    A ksymsfs image answers the first thousands of questions as it lies there, by
    bisecting each linker file's symbols, which are sorted. For more than that, and for
    images of others, ksyms.ranges works all answers out beforehand.
    """

    def __init__(self, records: Image | ListedSymbols) -> None:
        self._records = records
        self._ranges: Ranges | None = None
        self._left = 0
        if (
            isinstance(records, Image)
            and records.has_linker_files
            and len(records.run_starts) <= _MOST_RUNS
        ):
            self._left = _FIRST_ADDRESSES
            self._image = records
            value, size = records.st_value, records.st_size
            self._runs = [
                (value[start], value[end - 1] + size[end - 1], start, end)
                for start, end, _ in records.runs
                if end > start
            ]
        # Set once the address space is cut up: its bounds, whose symbol owns what
        # follows each (-1: nobody's), and which of them lie in a page.
        self.bounds: Sequence[int] = ()
        self._owners: Sequence[int] = ()
        self.whole = (0, 0)
        no_pages: dict[int, tuple[int, int]] = {}
        self.span_of: Callable[[int], tuple[int, int] | None] = no_pages.get

    @property
    def ranges(self) -> Ranges:
        """The address space, cut into who owns what."""
        if self._ranges is None:
            from ksyms.ranges import image_ranges, symbol_ranges

            records = self._records
            self._ranges = (
                image_ranges(records)
                if isinstance(records, Image)
                else symbol_ranges(records.st_value, records.st_size, records.groups)
            )
        return self._ranges

    @property
    def extent(self) -> tuple[int, int]:
        """The lowest and the highest address that may have an owner; 0, 0 if none."""
        if self._left > 0 and not self._ranges:
            value, size = self._image.st_value, self._image.st_size
            lows = [
                next((value[i] for i in range(start, end) if size[i]), value[end - 1])
                for _, _, start, end in self._runs
            ]
            ends = [high for _, high, _, _ in self._runs]
            ends += [f.address + f.size for f in self._image.linker_files]
            return min(lows, default=0), min(max(ends, default=1) - 1, _TOP)
        ranges = self.ranges
        owned = (ranges.owners >= 0).nonzero()[0]
        if not len(owned):
            return 0, 0
        after = owned[-1] + 1
        last = int(ranges.bounds[after]) - 1 if after < len(ranges.bounds) else _TOP
        return int(ranges.bounds[owned[0]]), last

    def find(self, address: int) -> int:
        """The index of the symbol that owns *address*, or -1."""
        if not 0 <= address <= _TOP:
            return -1
        if self._left > 0:
            self._left -= 1
            return self._find_in_runs(address)
        if not self.bounds:
            self._paginate()
        low, high = self.span_of(address >> PAGE_SHIFT) or self.whole
        return self._owners[bisect_right(self.bounds, address, low, high) - 1]

    def _find_in_runs(self, address: int) -> int:
        value = self._image.st_value
        found, found_start = -1, -1
        for low, high, first, end in self._runs:
            if low <= address < high:
                last = bisect_right(value, address, first, end)
                index = self._first_covering(address, value[last - 1], first, last)
                if index >= 0 and value[index] > found_start:
                    found, found_start = index, value[index]
        # Symbols of ELF files may nest: the nearest may have ended where one before it
        # has not. Look at all that start where the one found does, or behind it; in a
        # kernel's own table these are its aliases, or without one found, all for
        # nothing.
        for low, _, first, end in self._runs:
            if low <= address and value[end - 1] >= found_start:
                near = bisect_left(value, found_start, first, end)
                last = bisect_right(value, address, near, end)
                self._left -= (last - near) // 256
                index = self._last_covering(address, near, last)
                if index < 0:
                    continue
                index = self._first_covering(address, value[index], near, last)
                if value[index] > found_start or index < found:
                    found, found_start = index, value[index]
        return found

    def _first_covering(self, address: int, start: int, first: int, last: int) -> int:
        # Of the symbols at start, among those from first to last, the first that covers
        # the address; -1 if none does.
        image = self._image
        for index in range(bisect_left(image.st_value, start, first, last), last):
            if image.st_value[index] != start:
                break
            if address - start < image.st_size[index] and image.is_place(index):
                return index
        return -1

    def _last_covering(self, address: int, first: int, last: int) -> int:
        # Of the symbols from first to last, the last that covers the address, or -1.
        image = self._image
        starts, sizes = image.st_value[first:last], image.st_size[first:last]
        indexes = range(first, last)
        for index, start, size in zip(
            reversed(indexes), reversed(starts), reversed(sizes), strict=True
        ):
            if address - start < size and image.is_place(index):
                return index
        return -1

    def _paginate(self) -> None:
        # With the bounds that lie in an address's page, bisecting starts close.
        from array import array

        import numpy as np

        ranges = self.ranges
        page = ranges.bounds >> np.uint64(PAGE_SHIFT)
        first = np.flatnonzero(np.append(True, page[1:] != page[:-1]))
        spans = zip(first.tolist(), [*first[1:].tolist(), len(page)], strict=True)
        self.span_of = dict(zip(page[first].tolist(), spans, strict=True)).get
        self.bounds = array("Q", ranges.bounds.tobytes())
        self.whole = (0, len(self.bounds))
        owners = ranges.owners.copy()
        owners[owners >= 0] = ranges.order[owners[owners >= 0]]
        self._owners = array("q", owners.tobytes())
