"""The kernel's side of a kptr: which structs it knows, and which it can let go of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EINVAL, ENOENT
from typing import NamedTuple, Protocol

from ksyms.bpf.fields import Field
from ksyms.bpf.kernel_rules import KPTR
from ksyms.bpf.refusal import refused
from ksyms.btf import Btf
from ksyms.btf_types import Kind

LOCAL = "local"
"""Where the types of the object itself are."""


class Target(NamedTuple):
    """The struct that a field is taken to point to, or to hold."""

    name: str
    where: str | None
    """"vmlinux", a module's name, or LOCAL; None where no kernel was asked."""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"struct {self.name or '(anon)'}{where}"


class KernelBtfs(Protocol):
    """What has the types of a kernel: ksyms.Kernel."""

    @property
    def btf(self) -> Btf | None:
        """The kernel's own BTF."""

    @property
    def modules(self) -> Iterator[Btf]:
        """Those of its modules, in the order of their BTF ids."""


class Types(Protocol):
    """Decides what a field points to."""

    def target(self, btf: Btf, field: Field) -> Target:
        """What *field*, a pointer in a type of *btf*, points to.

        Raises RefusedError where there can be no such pointer.
        """


class KernelTypes:
    """Targets as one kernel sees them (btf_parse_kptr())."""

    def __init__(
        self, kernel: KernelBtfs, has_destructor: Callable[[str, Btf], bool]
    ) -> None:
        """*has_destructor* tells of the name of a struct, and the BTF that has it."""
        self._kernel = kernel
        self._has_destructor = has_destructor
        self._found: dict[str, Btf | None] = {}

    def target(self, btf: Btf, field: Field) -> Target:
        """The kernel's struct of that name, else the object's own."""
        name = btf[field.type_id].name
        if self._kernel.btf is None:
            raise refused(EINVAL, "the kernel has no BTF")
        found = self._find(name)
        if found is None:
            return Target(name, LOCAL)
        if field.kind == KPTR and not self._has_destructor(name, found):
            raise refused(
                ENOENT,
                f"struct {name} is the kernel's ({found.name}), and it has no "
                "destructor for it: no __kptr can own one",
            )
        return Target(name, found.name)

    # bpf_find_btf_id(); an anonymous struct is found nowhere.
    def _find(self, name: str) -> Btf | None:
        if name not in self._found:
            self._found[name] = next(self._btfs_with(name), None)
        return self._found[name]

    def _btfs_with(self, name: str) -> Iterator[Btf]:
        vmlinux = self._kernel.btf
        if vmlinux is not None and name:
            if vmlinux.lookup_all(name, Kind.STRUCT):
                yield vmlinux
            for module in self._kernel.modules:
                if module.lookup_all(name, Kind.STRUCT, own=True):
                    yield module


class AnyTypes:
    """Targets as far as the object alone tells: all of them are good."""

    def target(self, btf: Btf, field: Field) -> Target:
        """The struct's name."""
        return Target(btf[field.type_id].name, None)
