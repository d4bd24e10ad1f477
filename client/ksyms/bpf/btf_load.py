"""Would BPF_BTF_LOAD take this BTF? The errno, and which type and member it is about.

kernel/bpf/btf.c, btf_parse(): the types by themselves, the types together, then every
struct that a program could allocate or a kptr could be in.
"""

from __future__ import annotations

from errno import EEXIST, EFAULT, EINVAL, ELOOP, ENOENT
from typing import NamedTuple

from ksyms.bpf.btf_records import check_header, check_records
from ksyms.bpf.btf_references import TypeGraph
from ksyms.bpf.fields import LOADED, Field, FieldFinder, lock_fault
from ksyms.bpf.kernel_rules import (
    FIELD_KINDS,
    GRAPH_NODES,
    GRAPH_ROOTS,
    KPTR,
    OWNERSHIP_MAX,
    PERCPU_KPTR,
    POINTER_KINDS,
    KernelRules,
)
from ksyms.bpf.refusal import Refusal, RefusedError, refused, spell_type
from ksyms.bpf.targets import LOCAL, Target, Types
from ksyms.btf import Btf
from ksyms.btf_types import Kind, Type

# A struct with a member of one of these, or with a kptr, is looked into.
_ALLOCATED = (
    "bpf_spin_lock",
    "bpf_list_head",
    "bpf_list_node",
    "bpf_rb_root",
    "bpf_rb_node",
    "bpf_refcount",
)


class Record(NamedTuple):
    """The fields of one type, each with what it points to (None: to nothing)."""

    fields: tuple[tuple[Field, Target | None], ...]

    @property
    def kinds(self) -> set[str]:
        """The kinds of field in it."""
        return {field.kind for field, _ in self.fields}


class LoadedBtf:
    """A BTF that passed, for kernels of one age: all that no kernel's types decide.

    *data* is the BTF as a loader would hand it over. Raises RefusedError where such a
    kernel does not take it whatever its types, and BtfError where it is no BTF.
    """

    def __init__(self, data: bytes, rules: KernelRules, *, name: str = "BTF") -> None:
        check_header(data)
        self.btf = Btf.from_bytes(data, name=name)
        self.rules = rules
        self.graph = TypeGraph(check_records(self.btf, rules), self.btf.strings)
        self.graph.check()
        self.finder = FieldFinder(self.btf, rules)
        self._found: dict[int, list[Field] | Refusal] = {}
        self._structs = self._structs_with_fields()

    # btf_parse_struct_metas(): ids of the structs to look into, in order.
    def _structs_with_fields(self) -> list[Type]:
        kinds = LOADED & POINTER_KINDS & self.rules.kinds
        telling = {
            struct.id
            for struct in map(self.finder.first_struct, _ALLOCATED)
            if struct is not None
        }
        for type in self.btf:
            if type.kind not in (Kind.PTR, Kind.VOLATILE):
                continue
            try:
                if self.finder.pointer(type, kinds) is not None:
                    telling.add(type.id)
            except RefusedError:
                pass
        structs = map(self.btf.__getitem__, self.btf.ids(Kind.STRUCT))
        return [
            struct
            for struct in structs
            if telling and any(m.type_id in telling for m in self.btf.members(struct))
        ]

    def check(self, types: Types) -> dict[int, Record]:
        """The records of the structs looked into, by id. Raises RefusedError."""
        records: dict[int, Record] = {}
        for struct in self._structs:
            record = self.record(struct, LOADED, struct.size, types)
            if not record.fields:
                raise refused(
                    EFAULT,
                    "a special member, but no field: it is not aligned",
                    struct=_spell(struct),
                )
            records[struct.id] = record
        for type_id, record in records.items():
            self._check_roots(self.btf[type_id], record, records)
        if self.rules.ownership == "depth":
            _Ownership(self.btf, records).check()
        return records

    def record(
        self, type: Type, kinds: frozenset[str], size: int, types: Types
    ) -> Record:
        """The fields of a value of *size* bytes: btf_parse_fields().

        Raises RefusedError.
        """
        end = 0
        parsed: list[tuple[Field, Target | None]] = []
        for field in self._find(type, kinds):
            where = {"struct": _spell(type), "member": field.path.removeprefix(".")}
            if field.offset + FIELD_KINDS[field.kind].size > size:
                raise refused(EFAULT, f"past the end of {size} bytes", **where)
            if field.offset < end:
                raise refused(EEXIST, "begins inside the field before it", **where)
            end = field.offset + FIELD_KINDS[field.kind].size
            try:
                parsed.append((field, self._target(field, types)))
            except RefusedError as error:
                number, reason, *_ = error.refusal
                raise refused(number, reason, **where) from None
        record = Record(tuple(parsed))
        if fault := lock_fault(record.kinds):
            raise refused(EINVAL, fault, struct=_spell(type))
        return record

    def _find(self, type: Type, kinds: frozenset[str]) -> list[Field]:
        if kinds is not LOADED:
            return self.finder.find(type, kinds)
        found = self._found.get(type.id)
        if found is None:
            try:
                found = self.finder.find(type, kinds)
            except RefusedError as error:
                found = error.refusal
            self._found[type.id] = found
        if isinstance(found, Refusal):
            raise RefusedError(found)
        return found

    def _target(self, field: Field, types: Types) -> Target | None:
        if field.kind in POINTER_KINDS:
            return types.target(self.btf, field)
        if field.kind in GRAPH_ROOTS:
            self._check_node(field)
            return Target(self.btf[field.type_id].name, LOCAL)
        return None

    # btf_parse_graph_root(): the member that the elements of a root are linked by.
    def _check_node(self, field: Field) -> None:
        struct = self.btf[field.type_id]
        wanted = GRAPH_ROOTS[field.kind]
        where = f"{_spell(struct)}: member {field.node}"
        nodes = [m for m in self.btf.members(struct) if m.name == field.node]
        if not nodes:
            raise refused(ENOENT, f"{where}: there is none")
        if len(nodes) > 1:
            raise refused(EINVAL, f"{where}: there are {len(nodes)}")
        node = self.btf[nodes[0].type_id]
        if node.kind is not Kind.STRUCT or node.name != wanted:
            raise refused(EINVAL, f"{where}: it is no struct {wanted}")
        # The kernel asks the node's kind_flag what the bits of the offset mean.
        written = nodes[0].bit_offset | nodes[0].bit_size << 24
        if (written & 0xFFFFFF if node.kflag else written) % 64:
            raise refused(EINVAL, f"{where}: it is not aligned")

    # btf_check_and_fixup_fields()
    def _check_roots(
        self, type: Type, record: Record, records: dict[int, Record]
    ) -> None:
        for field, _ in record.fields:
            if field.kind not in GRAPH_ROOTS:
                continue
            where = {"struct": _spell(type), "member": field.path.removeprefix(".")}
            owned = records.get(field.type_id)
            if owned is None:
                raise refused(EFAULT, "its elements have no fields", **where)
            if (
                self.rules.ownership == "neighbours"
                and record.kinds & GRAPH_NODES
                and owned.kinds & set(GRAPH_ROOTS)
            ):
                raise refused(ELOOP, "owns what owns, and is owned", **where)

    def check_roots(self, type: Type, record: Record, types: Types) -> None:
        """Check the lists and trees in a map's value; raises RefusedError."""
        self._check_roots(type, record, self.check(types))


# btf_check_ownership_depth(): who owns whom, by lists, trees and pointers.
class _Ownership:
    def __init__(self, btf: Btf, records: dict[int, Record]) -> None:
        self.btf = btf
        self.owned = {
            type_id: [
                field.type_id
                for field, target in record.fields
                if field.type_id in records and _owns(field, target)
            ]
            for type_id, record in records.items()
        }
        self.depths: dict[int, int] = {}

    def check(self) -> None:
        for type_id in self.owned:
            if self.depth(type_id, OWNERSHIP_MAX) is None:
                raise refused(
                    ELOOP,
                    f"owners in a circle, or more than {OWNERSHIP_MAX} in a row",
                    struct=_spell(self.btf[type_id]),
                )

    def depth(self, type_id: int, left: int) -> int | None:
        if not left:
            return None
        if type_id not in self.depths:
            deepest = 0
            for owned in self.owned[type_id]:
                below = self.depth(owned, left - 1)
                if below is None:
                    return None
                deepest = max(deepest, below)
            self.depths[type_id] = deepest + 1
        depth = self.depths[type_id]
        return None if depth > left else depth


def _owns(field: Field, target: Target | None) -> bool:
    if field.kind in (KPTR, PERCPU_KPTR):
        return target is not None and target.where == LOCAL
    return field.kind in GRAPH_ROOTS


def _spell(type: Type) -> str:
    return spell_type(type.kind, type.name, type.id)


def btf_load(data: bytes, rules: KernelRules, types: Types) -> Refusal | None:
    """What BPF_BTF_LOAD would say to *data*; None when it takes it. Raises BtfError."""
    try:
        LoadedBtf(data, rules).check(types)
    except RefusedError as error:
        return error.refusal
    return None
