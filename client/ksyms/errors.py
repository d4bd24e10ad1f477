"""The exceptions of ksyms: one base, and a leaf wherever a caller would branch."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class KsymsError(Exception):
    """Base class of every error that ksyms raises on purpose."""


class ImageError(KsymsError, ValueError):
    """*path* is not an image that symbols can be read from; *reason* says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class SymbolNotFoundError(KsymsError, LookupError):
    """No symbol is called *name* (in *module*, when one was given)."""

    def __init__(self, name: str, module: str | None = None) -> None:
        where = f" in {module}" if module else ""
        super().__init__(f"symbol {name!r} not found{where}")
        self.name = name
        self.module = module


class AmbiguousSymbolError(KsymsError, LookupError):
    """Several addresses are called *name*; *candidates* are the symbols."""

    def __init__(self, name: str, candidates: Sequence[object]) -> None:
        super().__init__(
            f"symbol {name!r} is ambiguous: {len(candidates)} addresses have that name "
            "(lookup_all gives all, module= limits to one linker file)"
        )
        self.name = name
        self.candidates = tuple(candidates)


class AddressNotFoundError(KsymsError, LookupError):
    """No symbol covers *address*."""

    def __init__(self, address: int) -> None:
        super().__init__(f"no symbol at {address:#x}")
        self.address = address


class AddressSyntaxError(KsymsError, ValueError):
    """*text* is neither an address nor name+0xoffset."""

    def __init__(self, text: str) -> None:
        super().__init__(
            f"{text[:80]!r} is no address (hexadecimal, 64 bits) nor a name+0xoffset"
        )
        self.text = text


class RestrictedError(KsymsError, PermissionError):
    """Every address is 0: the kernel hid them from the reader (kptr_restrict)."""


class BtfError(KsymsError, ValueError):
    """BTF that cannot be decoded: *offset* counts bytes from its start."""

    def __init__(self, name: str, offset: int, reason: str) -> None:
        super().__init__(f"{name}: offset {offset:#x}: {reason}")
        self.name = name
        self.offset = offset
        self.reason = reason


class TypeNotFoundError(KsymsError, LookupError):
    """No type of *kind* is called *name* in the BTF called *btf*."""

    def __init__(self, name: str, kind: str, btf: str) -> None:
        super().__init__(f"{kind} {name!r} not found in the BTF of {btf}")
        self.name = name
        self.kind = kind
        self.btf = btf


class BpfObjectError(KsymsError, ValueError):
    """*path* is not a BPF object that libbpf would open; *reason* says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class CaptureError(KsymsError, ValueError):
    """*path* is not a capture of a kernel, or cannot become one; *reason* says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class RecordingError(KsymsError, OSError):
    """The kernel's events could not be recorded; the message says what to do."""
