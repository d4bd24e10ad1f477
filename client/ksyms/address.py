"""What people write for an address: hexadecimal digits, or a name and an offset."""

from __future__ import annotations

from ksyms.errors import AddressSyntaxError, SymbolNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from ksyms.symbol import Symbol
    from ksyms.table import SymbolTable

_HEX = frozenset("0123456789abcdefABCDEF")


def parse_address(text: str, table: Callable[[], SymbolTable]) -> int:
    """The address that *text* means.

    ``ffffffff81000010`` and ``0xffffffff81000010`` stand for themselves;
    ``vfs_read``, ``vfs_read+0x1c``, ``vfs_read+0x1c/0x360`` and
    ``nf_tables:nft_do_chain+0x1c`` are looked up in what *table* gives, which is only
    called for names. Raises AddressSyntaxError, or what SymbolTable.lookup() raises.
    """
    digits = text[2:] if text[:2] in ("0x", "0X") else text
    if _HEX.issuperset(digits) and 0 < len(digits.lstrip("0") or "0") <= 16 and digits:
        return int(digits, 16)
    name, plus, offset = text.rpartition("+")
    if not plus:
        name, offset = text, "0"
    try:
        distance = int(offset.partition("/")[0], 0)
    except ValueError:
        raise AddressSyntaxError(text) from None
    if not name or distance < 0 or name[0].isdecimal():
        raise AddressSyntaxError(text)
    return (lookup_named(name, table()).address + distance) & 0xFFFFFFFFFFFFFFFF


def lookup_named(text: str, table: SymbolTable) -> Symbol:
    """The symbol that ``name`` or ``module:name`` means; raises as lookup() does."""
    try:
        return table.lookup(text)
    except SymbolNotFoundError:
        module, colon, name = text.partition(":")
        if not colon:
            raise
        return table.lookup(name, module=module)
