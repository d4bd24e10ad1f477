"""The client: reads a ksyms image, and answers for names, addresses and BPF objects."""

from ksyms.errors import (
    AddressNotFoundError,
    AmbiguousSymbolError,
    BpfObjectError,
    BtfError,
    CaptureError,
    ImageError,
    KsymsError,
    RestrictedError,
    SymbolNotFoundError,
    TypeNotFoundError,
)
from ksyms.symbol import Symbol, Symbolized

__all__ = [
    "AddressNotFoundError",
    "AmbiguousSymbolError",
    "BpfObjectError",
    "BtfError",
    "CaptureError",
    "ImageError",
    "KsymsError",
    "RestrictedError",
    "Symbol",
    "SymbolNotFoundError",
    "Symbolized",
    "TypeNotFoundError",
]
