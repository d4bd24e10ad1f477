"""SymbolTable: name -> symbols, and address -> symbol + offset."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from operator import index as as_int
from typing import Any, Self, overload

from ksyms.addresses import PAGE_SHIFT, AddressIndex
from ksyms.errors import (
    AddressNotFoundError,
    AmbiguousSymbolError,
    ImageError,
    SymbolNotFoundError,
)
from ksyms.image import Image, LinkerFile, read_image
from ksyms.listed import ListedSymbols
from ksyms.names import NameIndex
from ksyms.symbol import Symbol, Symbolized

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os

    import numpy as np

    from ksyms.ranges import Addresses, Indexes

# Symbolized addresses that are kept for the next time that they come.
_MEMO_SIZE = 1 << 16

# After so many symbols one by one, making all of them pays.
_FIRST_SYMBOLS = 1024

_TOP = 0xFFFFFFFFFFFFFFFF
_TYPE_OF = bytes(info & 15 for info in range(256))
_BINDING_OF = bytes(info >> 4 for info in range(256))

# Makes a Symbol or a Symbolized in half the time of its own constructor.
_new = tuple.__new__


def load(path: str | os.PathLike[str] | None = None) -> SymbolTable:
    """The symbols of the image at *path* (default: $KSYMS, else /dev/ksyms).

    Any ELF file with a symbol table will do; "-" is standard input. The file is read
    whole and closed: the table is a snapshot. Raises OSError where the file cannot be
    read, ImageError where it is no image, RestrictedError where all addresses are 0.

    >>> ksyms.load().symbolize(0xffffffff810002f0)     # doctest: +SKIP
    """
    return SymbolTable.of_image(read_image(path))


class SymbolTable(Sequence[Symbol]):
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
        self._setup(ListedSymbols(symbols))

    @classmethod
    def from_bytes(cls, image: bytes, *, name: str = "<bytes>") -> Self:
        """The symbols of an ELF image in memory; *name* is for messages.

        Raises ImageError and RestrictedError, as load() does.
        """
        return cls.of_image(Image(image, name))

    @classmethod
    def of_image(cls, image: Image) -> Self:
        """The symbols of an image that was read already."""
        table = cls.__new__(cls)
        table._setup(image)
        return table

    def _setup(self, records: Image | ListedSymbols) -> None:
        self._records = records
        self._names = NameIndex(records)
        self._addresses = AddressIndex(records)
        # By their index in the records; an image's when they are first asked for.
        self._symbols: list[Symbol | None] = (
            [None] * len(records) if isinstance(records, Image) else [*records.symbols]
        )
        self._unambiguous: dict[str, Symbol] = {}
        # By the bounds of self._addresses, where they were asked for; None elsewhere.
        self._owners: list[Symbol | None] = [None]
        self._bounds, self._spans = self._addresses.bounds, self._addresses.spans
        self._until_all = _FIRST_SYMBOLS
        self._memo = _Memo(self)

    # -- the sequence

    def __len__(self) -> int:
        return len(self._addresses.ranges.order)

    @overload
    def __getitem__(self, index: int) -> Symbol: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Symbol, ...]: ...
    def __getitem__(self, index: int | slice) -> Symbol | tuple[Symbol, ...]:
        order = self._addresses.ranges.order
        if isinstance(index, slice):
            return tuple(self._all_of(order[index].tolist()))
        return self._symbol(int(order[index]))

    def __iter__(self) -> Iterator[Symbol]:
        return self._all_of(self._addresses.ranges.order.tolist())

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
        if module is None:
            known = self._unambiguous.get(name)
            if known is not None:
                return known
        found = self.lookup_all(name, module=module)
        if not found:
            raise SymbolNotFoundError(name, module)
        if len(found) > 1 and len({s.address for s in found}) > 1:
            raise AmbiguousSymbolError(name, found)
        if module is None:
            self._unambiguous[name] = found[0]
        return found[0]

    def lookup_all(self, name: str, *, module: str | None = None) -> tuple[Symbol, ...]:
        """All symbols called *name*, in the table's order; () when there is none."""
        found = map(self._symbol, self._names.find(name))
        if module is None:
            return tuple(found)
        wanted = None if module == "kernel" else module
        return tuple(symbol for symbol in found if symbol.module == wanted)

    # -- by address

    def symbolize(self, address: int) -> Symbolized:
        """The symbol that covers *address*, with the offset into it.

        Raises AddressNotFoundError where no symbol does.
        """
        low, high = self._spans[address >> PAGE_SHIFT]
        symbol = self._owners[bisect_right(self._bounds, address, low, high) - 1]
        if symbol is None:
            symbol = self._owner(address)
        return _new(Symbolized, (address, symbol))

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
        ranges = self._addresses.ranges
        if not len(ranges.addresses):
            return np.full(wanted.shape, -1), np.zeros_like(wanted)
        at = np.searchsorted(ranges.bounds, wanted, "right") - 1
        positions = ranges.owners[at]
        # Position -1 takes some start, which is not looked at.
        offsets = wanted - ranges.addresses[positions]
        offsets[positions < 0] = 0
        return positions, offsets

    def aliases(self, address: int) -> tuple[Symbol, ...]:
        """All symbols of the address that symbolize() found, that one first.

        () where it would raise. They are those that a stack trace could name as well.
        """
        import numpy as np

        try:
            first = self._owner(address)
        except AddressNotFoundError:
            return ()
        ranges = self._addresses.ranges
        low, high = (
            ranges.addresses.searchsorted(np.uint64(first.address), side)
            for side in ("left", "right")
        )
        found = map(self._symbol, ranges.order[low:high].tolist())
        others = [s for s in found if s is not first]
        return (first, *(s for s in others if s.covers(address) or not s.size))

    def _owner(self, address: int) -> Symbol:
        index, address = self._addresses, as_int(address)
        if not index.bounds:
            owner = index.find(address)
            if owner < 0:
                raise AddressNotFoundError(address)
            return self._symbol(owner)
        if not self._bounds:
            self._bounds, self._spans = index.bounds, index.spans
            self._owners = [None] * (len(index.bounds) + 1)
        at = index.position(address)
        if not 0 <= address <= _TOP or index.owners[at] < 0:
            raise AddressNotFoundError(address)
        symbol = self._symbol(index.owners[at])
        self._remember(at, symbol)
        return symbol

    def _remember(self, at: int, symbol: Symbol) -> None:
        # For symbolize(). After some thousands of them, that of every address.
        self._until_all -= 1
        if self._until_all:
            self._owners[at] = symbol
        else:
            self._make_all()
            self._addresses.spans.fill()
            symbols = [*self._symbols, None]
            self._owners = [*map(symbols.__getitem__, self._addresses.owners), None]
        # What is beyond 64 bits lands behind the last bound: it is nobody's.
        self._owners[-2] = None

    def _all_of(self, indexes: list[int]) -> Iterator[Symbol]:
        # The names of many are faster made together, and within bounds.
        if len(indexes) > 1000 and isinstance(self._records, Image):
            return map(
                self._symbol, indexes, map(self._records.names().__getitem__, indexes)
            )
        return map(self._symbol, indexes)

    def _symbol(self, index: int, name: str | None = None) -> Symbol:
        symbol = self._symbols[index]
        if symbol is None:
            image = self._records
            assert isinstance(image, Image)
            info = image.st_info[index]
            symbol = self._symbols[index] = _new(
                Symbol,
                (
                    image.name(index) if name is None else name,
                    image.st_value[index],
                    image.st_size[index],
                    info & 15,
                    info >> 4,
                    image.nm_type(index),
                    image.module(index),
                ),
            )
        return symbol

    def _make_all(self) -> None:
        # All symbols together, in a fifth of the time.
        image = self._records
        if not isinstance(image, Image):
            return
        try:
            names = image.names()
        except ImageError:
            return  # whoever asks for that symbol will hear of it
        columns = (
            *(names, image.st_value.tolist(), image.st_size.tolist()),
            *(image.st_info.translate(_TYPE_OF), image.st_info.translate(_BINDING_OF)),
            *(image.nm_types(range(len(image))), image.modules()),
        )
        made = map(_new, repeat(Symbol), zip(*columns, strict=True))
        # Who has one already keeps it.
        self._symbols = [
            old or new for old, new in zip(self._symbols, made, strict=True)
        ]


class _Memo(dict[int, Symbolized | None]):
    # What addresses gave, so that the same ones again cost a dict look-up.
    def __init__(self, table: SymbolTable) -> None:
        super().__init__()
        self._table = table

    def __missing__(self, address: int) -> Symbolized | None:
        try:
            found = _new(Symbolized, (address, self._table._owner(address)))
        except AddressNotFoundError:
            found = None
        if len(self) >= _MEMO_SIZE:
            self.clear()
        self[address] = found
        return found
