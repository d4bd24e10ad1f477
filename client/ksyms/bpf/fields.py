"""The special fields of a type, as the kernel's finder walks it.

kernel/bpf/btf.c, btf_find_field() and what it calls. The walk takes types as they are
written: what hides behind a typedef, a qualifier or a union is not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from errno import E2BIG, EINVAL, ENOENT
from functools import cached_property
from typing import NamedTuple

from ksyms.bpf.kernel_rules import (
    DEPTH_MAX,
    FIELD_KINDS,
    FIELDS_MAX,
    GRAPH_ROOTS,
    LOCKS,
    POINTER_KINDS,
    KernelRules,
)
from ksyms.bpf.refusal import RefusedError, refused, spell_type
from ksyms.btf import Btf
from ksyms.btf_types import MODIFIERS, Kind, Type

_CONTAINS = "contains:"
LOADED = frozenset(FIELD_KINDS) - {"bpf_timer", "bpf_wq", "bpf_task_work", "uptr"}
"""Kinds that are looked for in every struct of a BTF when it is loaded."""
IN_MAPS = frozenset(FIELD_KINDS) - {"bpf_list_node", "bpf_rb_node"}
"""Kinds that are looked for in the value of a map."""


class Field(NamedTuple):
    """A special field of a type."""

    kind: str
    """As in kernel_rules.FIELD_KINDS."""
    offset: int
    """Bytes."""
    path: str
    """In C terms, from the type on: ".inner[2].task"."""
    type_id: int = 0
    """STRUCT that a pointer points to, or that the elements of a root are; else 0."""
    node: str = ""
    """Member of the elements that a root links them by."""


class FieldFinder:
    """Finds the fields of types of one BTF, by one age's rules."""

    def __init__(self, btf: Btf, rules: KernelRules) -> None:
        self.btf = btf
        self.rules = rules
        # Structs without fields, and how deep structs are nested in them.
        self.barren: dict[tuple[frozenset[str], int], int] = {}

    def find(self, type: Type, kinds: frozenset[str]) -> list[Field]:
        """The fields of *kinds* in a STRUCT or DATASEC, as the kernel comes by them.

        Raises RefusedError where the kernel would give up.
        """
        walk = _Walk(self, kinds & self.rules.kinds, _spell(type))
        if type.kind is Kind.STRUCT:
            return walk.struct(type, FIELDS_MAX, 0)
        if type.kind is Kind.DATASEC:
            return walk.datasec(type)
        raise refused(
            EINVAL, f"fields are in structs, not in a {type.kind.word}", struct="value"
        )

    def pointer(self, type: Type, kinds: frozenset[str]) -> tuple[str, int] | None:
        """The kind and target of a tagged pointer; None for any other type.

        Raises RefusedError where the kernel takes exception to the tag or the target.
        """
        if type.kind is Kind.VOLATILE:
            type = self.btf[type.type_id]
        if type.kind is not Kind.PTR:
            return None
        kind, behind = self._tag(self.btf[type.type_id])
        if kind is None or kind not in kinds:
            return None
        target = self.btf.skip_modifiers(behind)
        if target.kind is not Kind.STRUCT:
            raise refused(EINVAL, f"{kind} to {_spell(target)}: only to a struct")
        return kind, target.id

    # The kind that tags make of a pointer, and the id behind them.
    def _tag(self, type: Type) -> tuple[str | None, int]:
        if self.rules.every_tag:
            return self._tags(type)
        if type.kind is not Kind.TYPE_TAG or type.kflag:
            return None, 0
        if self.btf[type.type_id].kind is Kind.TYPE_TAG:
            raise refused(EINVAL, f"a second tag behind {type.name!r}")
        if type.name not in self._pointer_kinds:
            raise refused(EINVAL, f"the kernel does not know the tag {type.name!r}")
        return type.name, type.type_id

    def _tags(self, type: Type) -> tuple[str | None, int]:
        kind = None
        first = type.id
        while type.kind in MODIFIERS:
            if type.kind is Kind.TYPE_TAG and not type.kflag:
                if type.name in self._pointer_kinds and kind not in (None, type.name):
                    raise refused(EINVAL, f"two tags: {kind!r} and {type.name!r}")
                if type.name in self._pointer_kinds:
                    kind = type.name
            type = self.btf[type.type_id]
        return kind, first

    @cached_property
    def _pointer_kinds(self) -> frozenset[str]:
        return POINTER_KINDS & self.rules.kinds

    def first_struct(self, name: str) -> Type | None:
        """The first STRUCT called *name*: btf_find_by_name_kind()."""
        if name:
            return next(iter(self.btf.lookup_all(name, Kind.STRUCT)), None)
        structs = map(self.btf.__getitem__, self.btf.ids(Kind.STRUCT))
        return next((type for type in structs if not type.name), None)

    @cached_property
    def contains(self) -> dict[tuple[int, int], list[str]]:
        """What "contains:" tags say, by type id and member."""
        tags: dict[tuple[int, int], list[str]] = {}
        for tag in map(self.btf.__getitem__, self.btf.ids(Kind.DECL_TAG)):
            if tag.name.startswith(_CONTAINS):
                key = tag.type_id, self.btf.component(tag)
                tags.setdefault(key, []).append(tag.name.removeprefix(_CONTAINS))
        return tags


# One search; *root* is the name of the type that it began with, for messages.
class _Walk:
    def __init__(self, finder: FieldFinder, kinds: frozenset[str], root: str) -> None:
        self.finder = finder
        self.btf = finder.btf
        self.kinds = kinds
        self.root = root
        self.seen: set[str] = set()
        self.trail: list[str] = []
        self.deepest = 0

    def struct(self, type: Type, room: int, level: int) -> list[Field]:
        outer = self.seen
        if not self.finder.rules.unique_in_value:
            self.seen = set()
        fields: list[Field] = []
        for number, member in enumerate(self.btf.members(type)):
            path = f".{member.name}" if member.name else ""
            self.trail.append(path)
            if member.bit_offset % 8:
                raise self.refused(
                    EINVAL, f"bit {member.bit_offset} is not where a byte starts"
                )
            fields += self.one(
                (type, number),
                member.type_id,
                member.bit_offset // 8,
                path,
                room=room - len(fields),
                level=level,
            )
            self.trail.pop()
        self.seen = outer
        return fields

    def datasec(self, type: Type) -> list[Field]:
        fields: list[Field] = []
        for variable in self.btf.variables(type):
            var = self.btf[variable.type_id]
            self.trail.append(var.name)
            fields += self.one(
                (var, -1),
                var.type_id,
                variable.offset,
                var.name,
                size=variable.size,
                room=FIELDS_MAX - len(fields),
            )
            self.trail.pop()
        return fields

    # The fields of a member, or of a variable of *size* bytes.
    def one(
        self,
        holder: tuple[Type, int],
        type_id: int,
        offset: int,
        path: str,
        *,
        room: int,
        size: int = 0,
        level: int = 0,
    ) -> list[Field]:
        type, lengths = self.element(type_id)
        count = 1
        for length in lengths:
            count = count * length & 0xFFFFFFFF
        if count == 0:
            return []
        kind = self.kind(type)
        if kind is None and type.kind is Kind.STRUCT:
            if size and size != type.size * count & 0xFFFFFFFF:
                return []
            return self.nested(type, offset, path, lengths, count, room, level)
        if kind is None:
            return []
        if size and size != FIELD_KINDS[kind].size * count & 0xFFFFFFFF:
            return []
        if offset % FIELD_KINDS[kind].alignment:
            return []
        field = self.field(kind, type, holder, offset)
        if field is None:
            return []
        if not room:
            raise self.too_many()
        stride = FIELD_KINDS[kind].size
        return self.repeat([field], path, lengths, count, stride, room)

    # An array's element as it is written, and its dimensions.
    def element(self, type_id: int) -> tuple[Type, list[int]]:
        type = self.btf[type_id]
        lengths: list[int] = []
        while type.kind is Kind.ARRAY:
            if len(lengths) == DEPTH_MAX - 1:
                raise self.refused(E2BIG, f"an array of {DEPTH_MAX} dimensions")
            array = self.btf.array(type)
            lengths.append(array.nelems)
            type = self.btf[array.type_id]
        return type, lengths

    # Any type of the name will do to be seen; it is a field only as a struct.
    def kind(self, type: Type) -> str | None:
        if type.name in self.kinds and type.name not in POINTER_KINDS:
            if self.finder.rules.is_unique(type.name):
                if type.name in self.seen:
                    raise self.refused(E2BIG, f"a second {type.name}")
                self.seen.add(type.name)
            return type.name
        if type.kind is not Kind.STRUCT and self.kinds & POINTER_KINDS:
            return "kptr"
        return None

    def field(
        self, kind: str, type: Type, holder: tuple[Type, int], offset: int
    ) -> Field | None:
        if kind in POINTER_KINDS:
            try:
                found = self.finder.pointer(type, self.kinds)
            except RefusedError as error:
                raise self.refused(error.refusal.errno, error.refusal.reason) from None
            return Field(found[0], offset, "", found[1]) if found else None
        if type.kind is not Kind.STRUCT or type.size != FIELD_KINDS[kind].size:
            return None
        if kind in GRAPH_ROOTS:
            return Field(kind, offset, "", *self.elements(kind, holder))
        return Field(kind, offset, "")

    # What a root holds: the id of the struct, and the member it is linked by.
    def elements(self, kind: str, holder: tuple[Type, int]) -> tuple[int, str]:
        said = self.finder.contains.get((holder[0].id, holder[1]), [])
        if len(said) != 1:
            number = "no" if not said else f"{len(said)}"
            raise self.refused(EINVAL, f'{kind} with {number} "{_CONTAINS}" tags')
        name, colon, node = said[0].partition(":")
        if not colon:
            raise self.refused(EINVAL, f'"{_CONTAINS}{said[0]}" names no node')
        struct = self.finder.first_struct(name)
        if struct is None:
            raise self.refused(ENOENT, f"there is no struct {name} for {kind}")
        if not node:
            raise self.refused(EINVAL, f'"{_CONTAINS}{said[0]}" names no node')
        return struct.id, node

    def nested(
        self,
        type: Type,
        offset: int,
        path: str,
        lengths: list[int],
        count: int,
        room: int,
        level: int,
    ) -> list[Field]:
        level += 1
        key = self.kinds, type.id
        depth = level + self.finder.barren.get(key, 0)
        if depth >= DEPTH_MAX:
            raise self.refused(E2BIG, f"structs {DEPTH_MAX} deep")
        self.deepest = max(self.deepest, depth)
        if key in self.finder.barren:
            return []
        outer, self.deepest = self.deepest, level
        seen = len(self.seen)
        inner = [
            field._replace(offset=field.offset + offset)
            for field in self.struct(type, room, level)
        ]
        if not inner and len(self.seen) == seen:
            self.finder.barren[key] = self.deepest - level
        self.deepest = max(outer, self.deepest)
        return self.repeat(inner, path, lengths, count, type.size, room)

    # *fields* of the first element, for each element of an array.
    def repeat(
        self,
        fields: list[Field],
        path: str,
        lengths: list[int],
        count: int,
        stride: int,
        room: int,
    ) -> list[Field]:
        if not fields:
            return []
        if count > 1:
            for field in fields:
                if not FIELD_KINDS[field.kind].repeats:
                    raise self.refused(EINVAL, f"an array with a {field.kind} in it")
            if len(fields) * count > room:
                raise self.too_many()
        return [
            field._replace(
                offset=field.offset + number * stride,
                path=path + index_text(number, lengths) + field.path,
            )
            for number in range(count)
            for field in fields
        ]

    def too_many(self) -> RefusedError:
        return self.refused(E2BIG, f"more than {FIELDS_MAX} special fields")

    def refused(self, number: int, reason: str) -> RefusedError:
        member = "".join(self.trail).removeprefix(".")
        return refused(number, reason, struct=self.root, member=member)


def index_text(number: int, lengths: list[int]) -> str:
    """ "[1][2]" for element *number* of an array of these dimensions."""
    text = ""
    for length in reversed(lengths):
        text = f"[{number % length}]{text}"
        number //= length
    return text


def _spell(type: Type) -> str:
    return spell_type(type.kind, type.name, type.id)


def lock_fault(kinds: Iterable[str]) -> str:
    """Why these kinds of field cannot be in one value together; "" if they can."""
    kinds = set(kinds)
    if kinds >= LOCKS:
        return "bpf_spin_lock and bpf_res_spin_lock in one value"
    if kinds & set(GRAPH_ROOTS) and not kinds & LOCKS:
        return "a list or tree without a lock beside it"
    if kinds >= set(GRAPH_ROOTS.values()) and "bpf_refcount" not in kinds:
        return "nodes of a list and of a tree without a bpf_refcount"
    return ""
