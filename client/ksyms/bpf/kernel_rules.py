"""What kernels do differently with special fields: one record of rules for each age.

kernel/bpf/btf.c and syscall.c, Linux 6.11 to 7.2.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from ksyms.btf import Btf
from ksyms.btf_types import Kind

FIELDS_MAX = 11
"""BTF_FIELDS_MAX: special fields of one value, elements of arrays counted singly."""
DEPTH_MAX = 32
"""MAX_RESOLVE_DEPTH: of nested types, modifiers and arrays."""
OWNERSHIP_MAX = 8
"""BTF_MAX_OWNERSHIP_DEPTH: owners above each other, where that is the rule."""

KPTR, KPTR_UNTRUSTED, PERCPU_KPTR, UPTR = (
    "kptr",
    "kptr_untrusted",
    "percpu_kptr",
    "uptr",
)
POINTER_KINDS = frozenset({KPTR, KPTR_UNTRUSTED, PERCPU_KPTR, UPTR})
"""Kinds of field that a type tag of the same name makes of a pointer."""


class FieldKind(NamedTuple):
    """A kind of special field as the kernel knows it (enum btf_field_type)."""

    enumerator: str
    """Its name in the kernel's own BTF."""
    size: int
    """Bytes."""
    alignment: int
    """Bytes; a field that is not aligned is no field."""
    is_unique: bool = False
    repeats: bool = False
    """Whether it may be the element of an array."""


FIELD_KINDS = {
    "bpf_spin_lock": FieldKind("BPF_SPIN_LOCK", 4, 4, is_unique=True),
    "bpf_res_spin_lock": FieldKind("BPF_RES_SPIN_LOCK", 4, 4, is_unique=True),
    "bpf_timer": FieldKind("BPF_TIMER", 16, 8, is_unique=True),
    "bpf_wq": FieldKind("BPF_WORKQUEUE", 16, 8, is_unique=True),
    "bpf_task_work": FieldKind("BPF_TASK_WORK", 8, 8, is_unique=True),
    "bpf_list_head": FieldKind("BPF_LIST_HEAD", 16, 8, repeats=True),
    "bpf_list_node": FieldKind("BPF_LIST_NODE", 24, 8),
    "bpf_rb_root": FieldKind("BPF_RB_ROOT", 16, 8, repeats=True),
    "bpf_rb_node": FieldKind("BPF_RB_NODE", 32, 8),
    "bpf_refcount": FieldKind("BPF_REFCOUNT", 4, 4),
    KPTR: FieldKind("BPF_KPTR_REF", 8, 8, repeats=True),
    KPTR_UNTRUSTED: FieldKind("BPF_KPTR_UNREF", 8, 8, repeats=True),
    PERCPU_KPTR: FieldKind("BPF_KPTR_PERCPU", 8, 8, repeats=True),
    UPTR: FieldKind("BPF_UPTR", 8, 8, repeats=True),
}
LOCKS = frozenset({"bpf_spin_lock", "bpf_res_spin_lock"})
GRAPH_ROOTS = {"bpf_list_head": "bpf_list_node", "bpf_rb_root": "bpf_rb_node"}
"""Roots of lists and trees, each with what its elements have to have."""
GRAPH_NODES = frozenset(GRAPH_ROOTS.values())


class KernelRules(NamedTuple):
    """The rules of one age of kernels."""

    name: str
    every_tag: bool
    """Whether all tags of a pointer count, and unknown ones do not matter."""
    unique_in_value: bool
    """Whether a unique field is so in the whole value, not in each struct of it."""
    ownership: Literal["neighbours", "depth"]
    """What is refused of types that own each other: an owner that is owned and whose
    elements own again; or any circle, and more than OWNERSHIP_MAX in a row."""
    info_mask: int
    """Bits of btf_type.info that may be set."""
    kinds: frozenset[str]
    """The special fields that there are."""
    map_types: int
    """Number of the first BPF_MAP_TYPE_* that there is not."""
    page_size: int = 4096
    """Bytes; the most that a uptr may point to."""

    def is_unique(self, kind: str) -> bool:
        """Whether a second field of *kind* is one too many."""
        # Reference counts stopped being so when bpf_task_work came, in 6.18.
        if kind == "bpf_refcount":
            return "bpf_task_work" not in self.kinds
        return FIELD_KINDS[kind].is_unique


RULES_6_18 = KernelRules(
    "<=6.18", False, False, "neighbours", 0x9F00FFFF, frozenset(FIELD_KINDS), 34
)
RULES_7 = KernelRules(
    ">=7.x", True, True, "depth", 0xFFFFFFFF, frozenset(FIELD_KINDS), 36
)
RULES = {"6.18": RULES_6_18, "7.x": RULES_7}
"""By the names that people choose them by."""
_RELEASE = re.compile(r"(\d+)\.(\d+)")
OLDEST = (6, 11)
"""Before it, fields of nested structs and arrays did not count."""


def version(release: str) -> tuple[int, int]:
    """(6, 18) of "6.18.44-generic"; (0, 0) of what is no release."""
    found = _RELEASE.match(release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def rules_for(release: str | None, vmlinux: Btf | None = None) -> KernelRules:
    """The rules of the kernel called *release* (utsname's), as its own BTF tells them.

    Stable kernels got rules of later ones; *vmlinux*, their BTF, shows which: by the
    kinds of field and the types of map they know, and by the functions that look for
    them. Without either they are those of 6.18.
    """
    rules = RULES_7 if version(release or "") >= (7, 0) else RULES_6_18
    if vmlinux is None:
        return rules
    map_types = _enumerators(vmlinux, "bpf_map_type")
    if release is None and "BPF_MAP_TYPE_RHASH" in map_types:
        rules = RULES_7
    if (end := map_types.get("__MAX_BPF_MAP_TYPE")) is not None:
        rules = rules._replace(map_types=end)
    if names := _enumerators(vmlinux, "btf_field_type"):
        kinds = {k for k, kind in FIELD_KINDS.items() if kind.enumerator in names}
        rules = rules._replace(kinds=frozenset(kinds))
    for walk in vmlinux.lookup_all("btf_find_struct_field", Kind.FUNC):
        params = {param.name for param in vmlinux.params(vmlinux[walk.type_id])}
        rules = rules._replace(unique_in_value="seen_mask" in params)
    if vmlinux.lookup_all("btf_ownership_depth", Kind.FUNC):
        rules = rules._replace(ownership="depth")
    return rules


def _enumerators(btf: Btf, name: str) -> dict[str, int]:
    return {
        enumerator.name: enumerator.value
        for enum in btf.lookup_all(name, Kind.ENUM)
        for enumerator in btf.enumerators(enum)
    }
