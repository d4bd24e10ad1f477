"""One symbol, and one symbolized address."""

from __future__ import annotations

from typing import NamedTuple

# Symbol types (st_info & 15) and bindings (st_info >> 4), System V gABI chapter 4.
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_SECTION, STT_FILE = range(5)
STT_COMMON, STT_TLS, STT_GNU_IFUNC = 5, 6, 10
STB_LOCAL, STB_GLOBAL, STB_WEAK, STB_GNU_UNIQUE = 0, 1, 2, 10


class Symbol(NamedTuple):
    """A name for a range of kernel addresses."""

    name: str
    address: int
    size: int
    """Bytes; 0 where the table does not know."""
    type: int
    """STT_* of the gABI."""
    binding: int
    """STB_* of the gABI."""
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
        text = f"{symbol.name}+{self.offset:#x}/{symbol.size:#x}"
        return f"{text} [{symbol.module}]" if symbol.module else text
