"""Which symbol of a table owns an address: bisection in place, later in an index."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ksyms.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ksyms.listed import ListedSymbols
    from ksyms.ranges import Ranges

# After so many addresses one by one, in 2 us each, cutting up the whole address space
# pays, in 25 ms for 120,000 symbols.
_FIRST_ADDRESSES = 6144
# More stretches of symbols than that are not looked through one by one.
_MOST_RUNS = 512

PAGE_SHIFT = 12
_MOST_PAGES = 1 << 16
_TOP = 0xFFFFFFFFFFFFFFFF


class AddressIndex:
    """Address -> index of the symbol in its table.

    A ksymsfs image answers the first hundreds of questions as it lies there, by
    bisecting each linker file's symbols, which are sorted. For more than that, and for
    images of others, all answers are worked out beforehand: by ksyms.flat, which takes
    less than the import of numpy, or where symbols overlap by ksyms.ranges.
    """

    def __init__(self, records: Image | ListedSymbols) -> None:
        self._records = records
        self._ranges: Ranges | None = None
        self._left = 0
        if (
            isinstance(records, Image)
            and records.has_linker_files
            # Behind the first null symbol: all symbols are in runs.
            and records.run_starts[0] <= 2
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
        self.owners: Sequence[int] = ()
        self.spans = _Spans(self.bounds)

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
            self._left -= 1 + len(self._runs) // 16
            return self._find_in_runs(address)
        position = self.position(address)
        return self.owners[position]

    def position(self, address: int) -> int:
        """The index of the bound that *address* follows; cuts up the address space."""
        if not self.bounds:
            self._cut()
        low, high = self.spans[address >> PAGE_SHIFT]
        return bisect_right(self.bounds, address, low, high) - 1

    def _find_in_runs(self, address: int) -> int:
        value = self._image.st_value
        found, found_start, found_run = -1, -1, -1
        for run, (low, high, first, end) in enumerate(self._runs):
            if low <= address < high:
                last = bisect_right(value, address, first, end)
                index = self._first_covering(address, last - 1, first, last)
                if index >= 0 and value[index] > found_start:
                    found, found_start, found_run = index, value[index], run
        # Symbols of ELF files may nest: the nearest may have ended where one before it
        # has not. Look at all that start where the one found does, or behind it; in a
        # kernel's own table there are none in other runs, or without one found, all
        # for nothing.
        for run, (low, _, first, end) in enumerate(self._runs):
            if low <= address and value[end - 1] >= found_start and run != found_run:
                near = bisect_left(value, found_start, first, end)
                last = bisect_right(value, address, near, end)
                self._left -= (last - near) // 256
                index = self._last_covering(address, near, last)
                if index < 0:
                    continue
                index = self._first_covering(address, index, near, last)
                if value[index] > found_start or index < found:
                    found, found_start = index, value[index]
        return found

    def _first_covering(self, address: int, at: int, first: int, last: int) -> int:
        # Of the symbols that start where that at *at* does, among those from first to
        # last, the first that covers the address; -1 if none does.
        image, start = self._image, self._image.st_value[at]
        while at > first and image.st_value[at - 1] == start:
            at -= 1
        self._left -= (last - at) // 64
        for index in range(at, last):
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

    def _cut(self) -> None:
        from array import array

        flat = None
        if self._ranges is None and isinstance(self._records, Image):
            from ksyms.flat import flat_bounds

            flat = (
                flat_bounds(self._records) if self._records.has_linker_files else None
            )
        if flat is None:
            ranges = self.ranges
            owners = ranges.owners.copy()
            owners[owners >= 0] = ranges.order[owners[owners >= 0]]
            flat = ranges.bounds.tolist(), owners.tolist()
        # Bisecting a list would miss the cache at each step.
        self.bounds, self.owners = array("Q", flat[0]), flat[1]
        self.spans = _Spans(self.bounds)


class _Spans(dict[int, tuple[int, int]]):
    # Page -> which bounds lie in it, from where to before where: bisecting these takes
    # half the time of bisecting all.
    def __init__(self, bounds: Sequence[int]) -> None:
        super().__init__()
        self._bounds = bounds

    def __missing__(self, page: int) -> tuple[int, int]:
        if len(self) >= _MOST_PAGES:
            self.clear()
        low = bisect_left(self._bounds, page << PAGE_SHIFT)
        high = bisect_left(self._bounds, (page + 1) << PAGE_SHIFT, low)
        self[page] = low, high
        return low, high

    def fill(self) -> None:
        """Put in all pages that have bounds: one after the other they lie closer."""
        pages = sorted({bound >> PAGE_SHIFT for bound in self._bounds})
        if len(pages) < _MOST_PAGES:
            self.clear()
            for page in pages:
                self[page]
