"""How a kernel says no: an errno, and the place in the BTF it is about."""

from __future__ import annotations

import errno
from typing import NamedTuple

from ksyms.btf_types import Kind

ENOTSUPP = 524
"""The kernel's own "not supported", which include/uapi does not have."""


class Refusal(NamedTuple):
    """Why the kernel would refuse a BTF, a value type or a map."""

    errno: int
    """Positive: EINVAL, or ENOTSUPP."""
    reason: str
    struct: str = ""
    """The type it is about: "struct v"; "" for none."""
    member: str = ""
    """The member in C terms, from that type on: "inner[2].task"; "" for none."""

    @property
    def result(self) -> str:
        """The errno by name, as in libbpf's messages: "-EINVAL"."""
        return errno_name(self.errno)

    def __str__(self) -> str:
        where = f"{self.struct}.{self.member}" if self.member else self.struct
        return f"{where}: {self.reason}" if where else self.reason


class RefusedError(Exception):
    """Carries a Refusal to the verdict that asked; never leaves ksyms.bpf."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal)
        self.refusal = refusal


def errno_name(number: int) -> str:
    """ "-EINVAL" for EINVAL (95 is "-ENOTSUP"), "0" for 0."""
    if number == 0:
        return "0"
    name = "ENOTSUPP" if number == ENOTSUPP else errno.errorcode.get(number)
    return f"-{name or number}"


def refused(
    number: int, reason: str, *, struct: str = "", member: str = ""
) -> RefusedError:
    """The exception for an errno and a reason."""
    return RefusedError(Refusal(number, reason, struct, member))


def spell_type(kind: Kind, name: str, type_id: int) -> str:
    """ "struct v", or "struct [12]" for one without a name; a section by its name."""
    if kind is Kind.DATASEC:
        return name
    return f"{kind.word} {name or f'[{type_id}]'}"
