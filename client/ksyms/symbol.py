"""One symbol, and one symbolized address."""

from __future__ import annotations

from typing import NamedTuple

from ksyms.sprint import sprint_symbol


class Symbol(NamedTuple):
    """A name for a range of kernel addresses."""

    name: str
    address: int
    size: int
    """Bytes; 0 where the table does not know."""
    type: int
    """STT_* of ksyms.elf."""
    binding: int
    """STB_* of ksyms.elf."""
    nm_type: str
    """The letter that nm(1) and /proc/kallsyms show: T, t, D, d, W ..."""
    module: str | None
    """The linker file, None for the kernel itself."""

    def covers(self, address: int) -> bool:
        """Whether *address* lies in the symbol's range."""
        return self.address <= address < self.address + self.size


class Symbolized(NamedTuple):
    """An address with the symbol that covers it; str() is the kernel's %pS."""

    address: int
    symbol: Symbol

    @property
    def offset(self) -> int:
        """Bytes from the start of the symbol."""
        return self.address - self.symbol.address

    def __str__(self) -> str:
        """``name+0xoff/0xsize [module]``, as kernel/kallsyms.c sprint_symbol writes."""
        symbol = self.symbol
        return sprint_symbol(symbol.name, self.offset, symbol.size, symbol.module)
