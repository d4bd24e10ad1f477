"""The client: reads a ksyms image, and answers for names, addresses and BPF objects."""

from __future__ import annotations

# The name is enough for type checkers; importing typing costs 3 ms of every command.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from ksyms.bpf.kptrs import Kptrs
    from ksyms.bpf.object import BpfObject
    from ksyms.btf import Btf
    from ksyms.device import Device
    from ksyms.errors import (
        AddressNotFoundError,
        AddressSyntaxError,
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
    from ksyms.image import LinkerFile
    from ksyms.kernel import Kernel
    from ksyms.kptr_check import check_kptrs
    from ksyms.resolution import Resolution, resolve
    from ksyms.symbol import Symbol, Symbolized
    from ksyms.table import SymbolTable, load

__all__ = [
    "AddressNotFoundError",
    "AddressSyntaxError",
    "AmbiguousSymbolError",
    "BpfObject",
    "BpfObjectError",
    "Btf",
    "BtfError",
    "CaptureError",
    "Device",
    "ImageError",
    "Kernel",
    "Kptrs",
    "KsymsError",
    "LinkerFile",
    "Resolution",
    "RestrictedError",
    "Symbol",
    "SymbolNotFoundError",
    "SymbolTable",
    "Symbolized",
    "TypeNotFoundError",
    "check_kptrs",
    "load",
    "resolve",
]

# Where the public names live that are no exceptions; a module is imported at the
# first use of one of its names.
_HOMES = {
    "BpfObject": "bpf.object",
    "Btf": "btf",
    "Device": "device",
    "Kernel": "kernel",
    "Kptrs": "bpf.kptrs",
    "LinkerFile": "image",
    "Resolution": "resolution",
    "Symbol": "symbol",
    "SymbolTable": "table",
    "Symbolized": "symbol",
    "check_kptrs": "kptr_check",
    "load": "table",
    "resolve": "resolution",
}


if not TYPE_CHECKING:
    # For type checkers, a name that is not imported above is a mistake.

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"ksyms.{_HOMES.get(name, 'errors')}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
