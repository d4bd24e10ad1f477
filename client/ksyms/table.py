"""SymbolTable: name -> symbols, and address -> symbol + offset."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from operator import index as as_int

from ksyms.errors import (
    AddressNotFoundError,
    AmbiguousSymbolError,
    ImageError,
    SymbolNotFoundError,
)
from ksyms.image import Image, LinkerFile, read_image
from ksyms.sprint import sprint_symbol

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from typing import Any, Self, overload

    import numpy as np

    from ksyms.ranges import Addresses, Indexes, Ranges
    from ksyms.symbol import Symbol, Symbolized
else:

    def overload(function: object) -> object:  # typing's costs 3 ms to import
        return function


# After so many addresses one by one, cutting up the whole address space pays.
_FIRST_ADDRESSES = 4096
# More linker files than that are not looked through one by one.
_MOST_RUNS = 512
# Symbolized addresses that are kept for the next time that they come.
_MEMO_SIZE = 1 << 16
_PAGE_SHIFT = 12
_TOP = 0xFFFFFFFFFFFFFFFF


def load(path: str | os.PathLike[str] | None = None) -> SymbolTable:
    """The symbols of the image at *path* (default: $KSYMS, else /dev/ksyms).

    Any ELF file with a symbol table will do; "-" is standard input. The file is read
    whole and closed: the table is a snapshot. Raises OSError where the file cannot be
    read, ImageError where it is no image, RestrictedError where all addresses are 0.

    >>> ksyms.load().symbolize(0xffffffff810002f0)     # doctest: +SKIP
    """
    return SymbolTable._of_image(read_image(path))


class SymbolTable(Sequence["Symbol"]):
    """The symbols of a kernel and its modules, in address order.

    Of several symbols at one address, the first in the table is the one that an
    address is named after, as in the kernel's %pS. An address belongs to a symbol
    only within the symbol's size: a gap is *not found*. Where symbols nest, the
    innermost has it. A symbol whose size the table does not know (0, which kernel
    images never have) reaches to the next symbol of its linker file, unless a symbol
    of known size covers the address.
    """

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        """A table of symbols from anywhere, addresses in 64 bits."""
        self._setup(_Listed(symbols))

    @classmethod
    def from_bytes(cls, image: bytes, *, name: str = "<bytes>") -> Self:
        """The symbols of an ELF image in memory; *name* is for messages.

        Raises ImageError and RestrictedError, as load() does.
        """
        return cls._of_image(Image(image, name))

    @classmethod
    def _of_image(cls, image: Image) -> Self:
        table = cls.__new__(cls)
        table._setup(image)
        return table

    def _setup(self, records: Image | _Listed) -> None:
        self._records = records
        self._symbols: dict[int, Symbol] = {}
        self._memo = _Memo(self)
        self._pages: dict[int, tuple[int, int]] | None = None
        self._bounds, self._owners = array("Q"), array("q")
        self._ranges: Ranges | None = None
        self._lookups = _FIRST_ADDRESSES
        self._spans: list[tuple[int, int, int, int]] = []
        if (
            isinstance(records, Image)
            and records.has_linker_files
            and len(records.run_starts) <= _MOST_RUNS
        ):
            value, size = records.st_value, records.st_size
            self._spans = [
                (value[start], value[end - 1] + size[end - 1], start, end)
                for start, end, _ in records.runs
                if end > start
            ]
        else:
            self._lookups = 0

    # -- the sequence

    def __len__(self) -> int:
        return len(self._cut().order)

    @overload
    def __getitem__(self, index: int) -> Symbol: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Symbol, ...]: ...  # noqa: F811
    def __getitem__(  # noqa: F811
        self, index: int | slice
    ) -> Symbol | tuple[Symbol, ...]:
        order = self._cut().order
        if isinstance(index, slice):
            return tuple(map(self._symbol, order[index].tolist()))
        return self._symbol(int(order[index]))

    def __iter__(self) -> Iterator[Symbol]:
        return map(self._symbol, self._cut().order.tolist())

    def __repr__(self) -> str:
        return f"<SymbolTable {self._records.path}>"

    @property
    def modules(self) -> tuple[LinkerFile, ...]:
        """The linker files, in load order: the kernel, then its modules.

        Empty where the image does not tell them apart.
        """
        return self._records.linker_files

    # -- by name

    def lookup(self, name: str, *, module: str | None = None) -> Symbol:
        """The symbol called *name*; *module* limits to one linker file ("kernel").

        Raises SymbolNotFoundError, and AmbiguousSymbolError where the name stands at
        different addresses.
        """
        found = self.lookup_all(name, module=module)
        if not found:
            raise SymbolNotFoundError(name, module)
        if len(found) > 1 and len({s.address for s in found}) > 1:
            raise AmbiguousSymbolError(name, found)
        return found[0]

    def lookup_all(self, name: str, *, module: str | None = None) -> tuple[Symbol, ...]:
        """All symbols called *name*, in the table's order; () when there is none."""
        found = map(self._symbol, self._records.find_name(name))
        if module is None:
            return tuple(found)
        wanted = None if module == "kernel" else module
        return tuple(symbol for symbol in found if symbol.module == wanted)

    # -- by address

    def symbolize(self, address: int) -> Symbolized:
        """The symbol that covers *address*, with the offset into it.

        Raises AddressNotFoundError where no symbol does.
        """
        found = self._memo[address]
        if found is None:
            raise AddressNotFoundError(address)
        return found

    def symbolize_all(self, addresses: Iterable[int]) -> Iterator[Symbolized | None]:
        """For each address what symbolize() gives, None where it would raise."""
        return map(self._memo.__getitem__, addresses)

    def symbolize_array(
        self, addresses: Sequence[int] | np.ndarray[Any, Any]
    ) -> tuple[Indexes, Addresses]:
        """For an array of addresses, the positions in the table and the offsets.

        Both arrays are as long as *addresses*. A position is an index of this table,
        -1 where no symbol covers the address (its offset is then 0); offsets are
        bytes, uint64. Raises ValueError for what is no address of 64 bits; an array
        of signed integers is taken for what the same bits mean unsigned.
        """
        import numpy as np

        if isinstance(addresses, np.ndarray):
            if addresses.dtype.kind not in "iu":
                raise ValueError(f"no array of addresses: it holds {addresses.dtype}")
            wanted = addresses.astype(np.uint64, copy=False)
        else:
            try:
                wanted = np.frombuffer(array("Q", addresses), np.uint64)
            except (OverflowError, TypeError) as error:
                raise ValueError(f"no array of addresses: {error}") from error
        ranges = self._cut()
        at = np.searchsorted(ranges.bounds, wanted, "right") - 1
        positions = ranges.owners[at]
        found = positions >= 0
        offsets = np.zeros_like(wanted)
        np.subtract(wanted, ranges.addresses[positions], out=offsets, where=found)
        return positions, offsets

    def sprint(self, address: int, *, return_address: bool = False) -> str | None:
        """The kernel's %pS of *address*, None where no symbol covers it.

        With *return_address*, its %pB: the symbol of the byte before, since a call at
        the end of a function returns to the start of the next one.

        It costs no Symbol, nor the import of its class: for programs that answer one
        question and end.
        """
        index = self._find(address - return_address)
        if index < 0:
            return None
        records = self._records
        return sprint_symbol(
            records.name(index),
            address - records.st_value[index],
            records.st_size[index],
            records.module(index),
        )

    def aliases(self, address: int) -> tuple[Symbol, ...]:
        """All symbols of the address that symbolize() found, that one first.

        () where it would raise. They are those that a stack trace could name as well.
        """
        index = self._find(address)
        if index < 0:
            return ()
        ranges = self._cut()
        start = self._records.st_value[index]
        low, high = (
            ranges.addresses.searchsorted(start),
            ranges.addresses.searchsorted(start, "right"),
        )
        found = map(self._symbol, ranges.order[low:high].tolist())
        first = self._symbol(index)
        others = [s for s in found if s is not first]
        return (first, *(s for s in others if s.covers(address) or not s.size))

    # -- inside

    def _symbol(self, index: int) -> Symbol:
        symbol = self._symbols.get(index)
        if symbol is None:
            symbol = self._symbols[index] = self._records.symbol(index)
        return symbol

    def _find(self, address: int) -> int:
        # The index of the symbol that owns an address, or -1.
        if self._lookups:
            self._lookups -= 1
            return self._find_in_spans(address)
        if self._pages is None:
            self._pages = self._paginate()
        page = self._pages.get(address >> _PAGE_SHIFT)
        if page is not None:
            return self._owners[bisect_right(self._bounds, address, *page) - 1]
        if not 0 <= address <= _TOP:
            return -1
        return self._owners[bisect_right(self._bounds, address) - 1]

    def _find_in_spans(self, address: int) -> int:
        # In each linker file of a kernel image symbols are sorted and do not nest.
        value, size = self._records.st_value, self._records.st_size
        found, found_start = -1, -1
        for low, high, first, end in self._spans:
            if low <= address < high:
                index = bisect_right(value, address, first, end) - 1
                start = value[index]
                if start > found_start and address - start < size[index]:
                    found, found_start = bisect_left(value, start, first, index), start
        return found

    def _cut(self) -> Ranges:
        if self._ranges is None:
            from ksyms.ranges import image_ranges, symbol_ranges

            records = self._records
            self._ranges = (
                image_ranges(records)
                if isinstance(records, Image)
                else symbol_ranges(records.st_value, records.st_size, records.groups)
            )
        return self._ranges

    def _paginate(self) -> dict[int, tuple[int, int]]:
        # The bounds that lie in each page, so that bisecting starts close.
        import numpy as np

        ranges = self._cut()
        pages = ranges.bounds >> np.uint64(_PAGE_SHIFT)
        first = np.flatnonzero(np.append(True, pages[1:] != pages[:-1]))
        end = np.append(first[1:], len(pages))
        owners = np.where(ranges.owners < 0, -1, ranges.order[ranges.owners])
        self._bounds = array("Q", ranges.bounds.tobytes())
        self._owners = array("q", owners.tobytes())
        spans = zip(first.tolist(), end.tolist(), strict=True)
        return dict(zip(pages[first].tolist(), spans, strict=True))


class _Memo(dict[int, "Symbolized | None"]):
    # What addresses gave, so that the same ones again cost a dict look-up.
    def __init__(self, table: SymbolTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, address: int) -> Symbolized | None:
        from ksyms.symbol import Symbolized

        table = self._table
        index = table._find(as_int(address))
        found = Symbolized(address, table._symbol(index)) if index >= 0 else None
        if len(self) >= _MEMO_SIZE:
            self.clear()
        self[address] = found
        return found


class _Listed:
    # Symbols given one by one, with the columns of an Image.
    path = "<symbols>"
    linker_files: tuple[LinkerFile, ...]

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        self._symbols = tuple(symbols)
        try:
            self.st_value = array("Q", [s.address for s in self._symbols])
            self.st_size = array("Q", [s.size for s in self._symbols])
        except OverflowError as error:
            raise ImageError(self.path, f"no address of 64 bits: {error}") from error
        modules = dict.fromkeys(s.module for s in self._symbols)
        number = {module: i for i, module in enumerate(modules)}
        self.groups = [number[s.module] for s in self._symbols]
        self.linker_files = tuple(LinkerFile(m or "kernel", 0, 0) for m in modules)
        self._names: dict[str, list[int]] | None = None

    def symbol(self, index: int) -> Symbol:
        return self._symbols[index]

    def name(self, index: int) -> str:
        return self._symbols[index].name

    def module(self, index: int) -> str | None:
        return self._symbols[index].module

    def find_name(self, name: str) -> list[int]:
        if self._names is None:
            self._names = {}
            for i, symbol in enumerate(self._symbols):
                self._names.setdefault(symbol.name, []).append(i)
        return self._names.get(name, [])
