"""The kernel's list of modules: /proc/modules, or a saved copy of it."""

from __future__ import annotations

from typing import NamedTuple

from ksymsfs.errors import SourceChangingError, SourceFormatError


class Module(NamedTuple):
    """One line of /proc/modules (kernel/module/procfs.c m_show)."""

    name: str
    size: int
    """Bytes in memory, of all its parts."""
    state: str
    """``Live``, ``Loading`` or ``Unloading``."""
    address: int
    """Where its text starts."""


def parse_modules(text: bytes, name: str = "/proc/modules") -> list[Module]:
    """The modules of *text* in its order, which is newest first.

    Raises SourceFormatError for a line that is not ``name size refs users state
    address``.
    """
    modules = []
    for number, line in enumerate(
        text.decode(errors="surrogateescape").splitlines(), 1
    ):
        fields = line.split()
        if not fields:
            continue
        try:
            module, size, _refs, _users, state, address = fields[:6]
            found = Module(module, int(size), state, int(address, 16))
            if not 0 <= found.address <= found.address + found.size <= 1 << 64:
                raise ValueError
            modules.append(found)
        except ValueError:
            raise SourceFormatError(
                name,
                f"line {number}",
                f"not a line of /proc/modules (name size refs users state address): "
                f"{line[:120]!r}",
            ) from None
    return modules


def require_settled(modules: list[Module], name: str) -> None:
    """Raise SourceChangingError when a module of *modules* is not Live."""
    for module in modules:
        if module.state != "Live":
            raise SourceChangingError(name, f"module {module.name} is {module.state}")
