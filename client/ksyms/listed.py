"""Symbols given one by one, with the columns that an Image has."""

from __future__ import annotations

from ksyms.errors import ImageError
from ksyms.image import LinkerFile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ksyms.symbol import Symbol


class ListedSymbols:
    """A table of symbols from anywhere; raises ImageError where one does not fit."""

    path = "<symbols>"

    def __init__(self, symbols: Iterable[Symbol]) -> None:
        from array import array

        self.symbols = tuple(symbols)
        try:
            self.st_value = array("Q", [s.address for s in self.symbols])
            self.st_size = array("Q", [s.size for s in self.symbols])
        except OverflowError as error:
            raise ImageError(self.path, f"no address of 64 bits: {error}") from error
        modules = dict.fromkeys(s.module for s in self.symbols)
        self.linker_files = tuple(LinkerFile(m or "kernel", 0, 0) for m in modules)
        number = {module: i for i, module in enumerate(modules)}
        self.groups = [number[s.module] for s in self.symbols]

    def __len__(self) -> int:
        return len(self.symbols)

    def place_names(self) -> list[str]:
        """The names of all symbols."""
        return [symbol.name for symbol in self.symbols]
