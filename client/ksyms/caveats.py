"""What libbpf does not say of externs that it resolves, but people need to know.

The kernel has its own conditions (check_pseudo_btf_id() and add_kfunc_call() of its
verifier), and a verdict on one kernel may hang on accidents of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ksyms.bpf.instruction import CALL, LD_IMM64
from ksyms.bpf.object import BpfObject
from ksyms.btf import Btf
from ksyms.btf_types import Kind, Type
from ksyms.kernel import Kernel
from ksyms.resolver import Target

_POINTERS = 32  # deeper ones matter to nobody


def caveats(obj: BpfObject, kernel: Kernel, targets: Sequence[Target]) -> Iterator[str]:
    """One line of text each. Raises BtfError."""
    if kernel.btf is not None and obj.byteorder != kernel.btf.byteorder:
        yield (
            f"the object is {obj.byteorder}-endian, the kernel is not: "
            "libbpf refuses to load it"
        )
    symbols = kernel.symbols
    is_zeroed = symbols is not None and symbols.is_zeroed
    if is_zeroed and any(target.address == 0 for target in targets):
        yield (
            "every address in kallsyms is 0 (kptr_restrict hides them from this user): "
            "externs resolve to 0 and say nothing"
        )
    codes: dict[str, set[int]] = {}
    for use in obj.uses:
        codes.setdefault(use.extern, set()).add(use.instruction[0])
    for target in targets:
        used_by = codes.get(target.extern.name, set())
        if not is_zeroed:
            yield from _of_the_symbol(target, kernel, used_by)
        yield from _of_the_function(target, kernel, used_by)
        if obj.btf is not None:
            yield from _of_the_declaration(target, obj.btf)


# The kernel looks a BTF id's name up in kallsyms, where data may be missing.
def _of_the_symbol(target: Target, kernel: Kernel, codes: set[int]) -> Iterator[str]:
    name, kind = target.extern.name, target.extern.kind
    if kind not in ("var", "func") or not target.is_set or LD_IMM64 not in codes:
        return
    if target.type is None:
        yield (
            f"extern '{name}' is weak, typed and absent from BTF, but another typeless "
            "extern made libbpf find it in kallsyms: it passes BTF id 0 and the kernel "
            'says "pseudo btf_id 0 in ldimm64 isn\'t KIND_VAR or KIND_FUNC"'
        )
    elif kernel.symbols is not None and not any(
        found.name == target.type.name and found.address
        for found in kernel.symbols.occurrences(target.type.name)
    ):
        why = (
            " (it has no CONFIG_KALLSYMS_ALL)"
            if kernel.facts.kallsyms_all is False
            else ""
        )
        yield (
            f"extern '{name}' is in BTF but not in kallsyms{why}: the kernel will say "
            f'"ldimm64 failed to find the address for kernel symbol '
            f"'{target.type.name}'.\""
        )


def _of_the_function(target: Target, kernel: Kernel, codes: set[int]) -> Iterator[str]:
    if target.extern.kind != "func" or CALL not in codes:
        return
    if target.btf is None or target.type is None or kernel.btf is None:
        return
    # Kernels whose BTF has the tag nowhere were built without it.
    if not _kfuncs(kernel.btf):
        return
    if target.type.id not in _kfuncs(target.btf):
        yield (
            f"extern '{target.extern.name}' is a function that {target.btf.name} does "
            'not tag as bpf_kfunc: the kernel will say "calling kernel function '
            f'{target.type.name} is not allowed"'
        )


def _kfuncs(btf: Btf) -> set[int]:
    tags = btf.lookup_all("bpf_kfunc", Kind.DECL_TAG, own=True)
    return {tag.type_id for tag in tags}


# Compilers drop the definition of a struct that is only pointed to from a prototype.
def _of_the_declaration(target: Target, btf: Btf) -> Iterator[str]:
    extern = target.extern
    if extern.kind not in ("var", "func"):
        return
    type_ids = [extern.type_id]
    if extern.kind == "func":
        proto = btf[extern.type_id]
        if proto.kind is not Kind.FUNC_PROTO:
            return
        type_ids = [*(param.type_id for param in btf.params(proto)), proto.type_id]
    for name in dict.fromkeys(
        found.name for found in (_pointee(btf, i) for i in type_ids) if found
    ):
        yield (
            f"extern '{extern.name}' mentions '{name}', which the object only declares "
            "forward: no kernel that defines it is compatible"
        )


def _pointee(btf: Btf, type_id: int) -> Type | None:
    for _ in range(_POINTERS):
        type = btf.skip_modifiers(type_id)
        if type.kind is Kind.PTR:
            type_id = type.type_id
        elif type.kind is Kind.ARRAY:
            type_id = btf.array(type).type_id
        else:
            return type if type.kind is Kind.FWD else None
    return None
