"""resolve(): a BPF object's externs against a kernel, in libbpf's verdict and words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from ksyms.bpf.externs import Extern
from ksyms.bpf.instruction import (
    CALL,
    POISON,
    PSEUDO_BTF_ID,
    PSEUDO_KFUNC_CALL,
    Instruction,
)
from ksyms.bpf.object import BpfObject
from ksyms.caveats import caveats
from ksyms.kernel import Kernel
from ksyms.resolver import Resolver, Target

Status = Literal["resolved", "unresolved", "error"]

_KCONFIG = "not a kernel symbol: libbpf takes its value from the kernel configuration"


class ResolvedExtern(NamedTuple):
    """What an extern comes to on a kernel."""

    extern: Extern
    status: Status
    """unresolved: weak and absent, so 0; error: the object does not load for it."""
    address: int | None = None
    """From kallsyms; None for what has a BTF id instead, or nothing."""
    btf: str | None = None
    """"vmlinux" or the module whose BTF has the type."""
    btf_id: int | None = None
    """Id of the VAR or FUNC in that BTF."""
    message: str | None = None
    """Why there is an error."""


class PatchedInstruction(NamedTuple):
    """An instruction that uses an extern, as libbpf hands it to the kernel."""

    section: str
    offset: int
    """Bytes from the start of the section."""
    extern: str
    instruction: Instruction
    module: str | None = None
    """The module whose BTF's file descriptor belongs into next_imm (0 here), or into
    the fd_array at the index in off; None for vmlinux."""


class Resolution(NamedTuple):
    """The answer for one object and one kernel."""

    object: str
    kernel: str
    result: str
    """"ok", or the errno that loading fails with: "-EINVAL"."""
    error: str | None
    """libbpf's text for the first problem in its order."""
    messages: tuple[str, ...]
    """libbpf's texts for all problems, that one first."""
    externs: tuple[ResolvedExtern, ...]
    """In libbpf's order: .kconfig first, then by name."""
    warnings: tuple[str, ...]
    """What libbpf does not say, but loading or running may fail for."""
    instructions: tuple[PatchedInstruction, ...]
    """Those whose extern has no error."""

    @property
    def is_ok(self) -> bool:
        """Whether the externs let the object load."""
        return self.result == "ok"


def resolve(obj: BpfObject, kernel: Kernel) -> Resolution:
    """Resolve the externs of *obj* on *kernel* as libbpf does, and say what it omits.

    The values of .kconfig externs are no matter of symbols: they are listed and left
    alone. Raises BtfError where the kernel's BTF cannot be followed, OSError where a
    module's cannot be read.

    >>> ksyms.resolve(BpfObject.load("prog.bpf.o"), Kernel.load("debian12")).result
    """
    resolver = Resolver(obj, kernel)
    resolver.run()
    failures = resolver.failures
    return Resolution(
        obj.name,
        kernel.name,
        failures[0].result if failures else "ok",
        failures[0].message if failures else None,
        tuple(failure.message for failure in failures),
        tuple(map(_answer, resolver.targets.values())),
        tuple(caveats(obj, kernel, tuple(resolver.targets.values()))),
        tuple(_instructions(obj, resolver.targets)),
    )


def _answer(target: Target) -> ResolvedExtern:
    extern = target.extern
    if extern.kind == "kconfig":
        return ResolvedExtern(extern, "unresolved", message=_KCONFIG)
    if target.message is not None:
        return ResolvedExtern(extern, "error", target.address, message=target.message)
    if target.btf is not None and target.type is not None:
        return ResolvedExtern(extern, "resolved", None, target.btf.name, target.type.id)
    return ResolvedExtern(
        extern, "resolved" if target.is_set else "unresolved", target.address
    )


# bpf_object__relocate_data() and poison_kfunc_call().
def _instructions(
    obj: BpfObject, targets: dict[str, Target]
) -> Iterator[PatchedInstruction]:
    fd_array = _fd_array(targets)
    index = {name: position for position, name in enumerate(targets)}
    for use in obj.uses:
        target = targets[use.extern]
        if target.extern.kind == "kconfig" or target.message is not None:
            continue
        insn = Instruction.from_bytes(use.instruction, obj.byteorder)
        btf_id = target.type.id if target.type else 0
        module = target.btf.name if target.btf and target.btf.base else None
        if insn.code == CALL and target.is_set:
            insn = insn._replace(
                src_reg=PSEUDO_KFUNC_CALL,
                off=fd_array[module] if module else 0,
                imm=btf_id,
            )
        elif insn.code == CALL:
            insn = insn._replace(src_reg=0, off=0, imm=POISON + index[use.extern])
        elif target.extern.type_id and target.is_set:
            insn = insn._replace(src_reg=PSEUDO_BTF_ID, imm=btf_id, next_imm=0)
        else:
            address = target.address or 0
            insn = insn._replace(imm=address & 0xFFFFFFFF, next_imm=address >> 32)
        yield PatchedInstruction(use.section, use.offset, use.extern, insn, module)


# Modules in the order that their first function was resolved in; slot 0 is vmlinux's.
def _fd_array(targets: dict[str, Target]) -> dict[str, int]:
    slots: dict[str, int] = {}
    for target in targets.values():
        if target.extern.kind == "func" and target.btf and target.btf.base:
            slots.setdefault(target.btf.name, len(slots) + 1)
    return slots
