"""Tagged pointers that the kernel passes over without a word, and why it does.

The finder (ksyms.bpf.fields) sees types as they are written. Here they are walked as C
means them: through typedefs, qualifiers, unions and arrays.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import NamedTuple

from ksyms.bpf.kernel_rules import DEPTH_MAX, POINTER_KINDS, KernelRules
from ksyms.btf import Btf
from ksyms.btf_types import MODIFIERS, Kind, SectionVariable, Type

MOST = 100
"""As many are listed of one value; the others would tell nothing new."""
_OLD_TAG = "kptr_ref"
_DEPTH = 2 * DEPTH_MAX  # deeper than any kernel goes
_TAGS = POINTER_KINDS | {_OLD_TAG}
_HIDING = {
    Kind.TYPEDEF: "in a struct behind typedef {}: only a struct by its own name is "
    "looked into",
    Kind.CONST: "in a const struct: qualified structs are not looked into",
    Kind.VOLATILE: "in a volatile struct: qualified structs are not looked into",
    Kind.RESTRICT: "in a restrict struct: qualified structs are not looked into",
    Kind.TYPE_TAG: "in a struct with the tag {}: it is not looked into",
}


class Ignored(NamedTuple):
    """A tagged pointer that is no field."""

    path: str
    """In C terms: "value.inner[0..3].task"."""
    reason: str


class _Place(NamedTuple):
    path: str
    first: str  # the path with [0] for each array, as the finder has it
    offset: int  # from the start of the innermost struct, as the finder asks
    why: str = ""  # why the kernel does not come here

    def member(self, name: str, offset: int) -> _Place:
        dot = f".{name}" if name else ""
        return self._replace(
            path=self.path + dot, first=self.first + dot, offset=offset
        )

    def elements(self, nelems: int) -> _Place:
        why = self.why or ("" if nelems else "in an array of no elements")
        place = self._replace(first=f"{self.first}[0]", why=why)
        span = f"[0..{nelems - 1}]" if nelems > 1 else "[0]" if nelems else "[]"
        return place._replace(path=self.path + span)

    def behind(self, why: str) -> _Place:
        return self._replace(why=self.why or why)


class IgnoredPointers:
    """Lists the tagged pointers of types of one BTF that are not among the fields."""

    def __init__(self, btf: Btf, rules: KernelRules) -> None:
        self._btf = btf
        self._rules = rules
        self._tagged: dict[int, bool] = {}
        # Members and variables with a declaration tag: type id and member.
        self._declared = {
            (tag.type_id, btf.component(tag)): tag.name
            for tag in map(btf.__getitem__, btf.ids(Kind.DECL_TAG))
            if tag.name in _TAGS
        }

    def of_value(
        self, type_id: int, fields: Container[str], why: str, otherwise: str
    ) -> Iterator[Ignored]:
        """Those in the value of a map, *fields* being the paths of its fields.

        *why* nothing at all is looked at in it, if so; *otherwise* is said of pointers
        that there is nothing wrong with by themselves.
        """
        value = self._btf.skip_modifiers(type_id)
        if value.kind not in (Kind.STRUCT, Kind.DATASEC) and not why:
            why = f"the value is no struct but {_article(value)}"
        place = _Place("value", "value", 0, why)
        yield from self._list(self._walk(value.id, place), fields, otherwise)

    def of_variables(
        self,
        variables: tuple[SectionVariable, ...],
        fields: Container[str],
        why: str,
        otherwise: str,
    ) -> Iterator[Ignored]:
        """Those in global variables."""
        for variable in variables:
            var = self._btf[variable.type_id]
            place = _Place(var.name, var.name, variable.offset, why)
            yield from self._list(self._walk(var.type_id, place), fields, otherwise)

    def of_key(self, type_id: int) -> Iterator[Ignored]:
        """Those in the key of a map."""
        place = _Place("key", "key", 0, "in the key of a map: only values have fields")
        yield from self._list(self._walk(type_id, place), (), "")

    def _list(
        self, found: Iterator[tuple[_Place, str]], fields: Container[str], reason: str
    ) -> Iterator[Ignored]:
        for number, (place, why) in enumerate(found):
            if number == MOST:
                yield Ignored(place.path, f"and more than {MOST} others in this value")
                return
            if why or place.first not in fields:
                yield Ignored(place.path, why or reason)

    # Every tagged pointer in C's eyes, with what is wrong with it by itself.
    def _walk(
        self, type_id: int, place: _Place, depth: int = _DEPTH
    ) -> Iterator[tuple[_Place, str]]:
        if not depth or not self._has_tagged(type_id, depth):
            return
        outermost = self._btf[type_id]
        type = self._btf.skip_modifiers(type_id)
        if type.kind is Kind.PTR:
            yield place, place.why or self._fault(outermost, type, place.offset)
            return
        if outermost.kind in _HIDING:
            place = place.behind(_HIDING[outermost.kind].format(outermost.name))
        if type.kind is Kind.ARRAY:
            array = self._btf.array(type)
            place = place.elements(array.nelems)
            yield from self._walk(array.type_id, place, depth - 1)
        elif type.kind in (Kind.STRUCT, Kind.UNION):
            if type.kind is Kind.UNION:
                place = place.behind("in a union: unions are not looked into")
            for number, member in enumerate(self._btf.members(type)):
                inner = place.member(member.name, member.bit_offset // 8)
                yield from self._walk(member.type_id, inner, depth - 1)
                if tag := self._declared.get((type.id, number)):
                    yield inner, f"{tag!r} is a declaration tag here, no type tag"

    def _has_tagged(self, type_id: int, depth: int) -> bool:
        known = self._tagged.get(type_id)
        if known is not None or not depth:
            return bool(known)
        type = self._btf[type_id]
        if type.kind in MODIFIERS:
            found = self._has_tagged(type.type_id, depth - 1)
        elif type.kind is Kind.PTR:
            found = any(tag.name in _TAGS for tag in self._tags(type))
        elif type.kind is Kind.ARRAY:
            found = self._has_tagged(self._btf.array(type).type_id, depth - 1)
        elif type.kind in (Kind.STRUCT, Kind.UNION):
            found = any(
                (type.id, number) in self._declared
                or self._has_tagged(member.type_id, depth - 1)
                for number, member in enumerate(self._btf.members(type))
            )
        else:
            found = False
        self._tagged[type_id] = found
        return found

    # The tags among the modifiers behind a pointer.
    def _tags(self, pointer: Type) -> list[Type]:
        tags = []
        type = self._btf[pointer.type_id]
        for _ in range(_DEPTH):
            if type.kind not in MODIFIERS:
                break
            if type.kind is Kind.TYPE_TAG:
                tags.append(type)
            type = self._btf[type.type_id]
        return tags

    def _fault(self, outermost: Type, pointer: Type, offset: int) -> str:
        return (
            self._fault_of_pointer(outermost, pointer)
            or self._fault_of_tags(pointer)
            or (f"at offset {offset}, not aligned to 8 bytes" if offset % 8 else "")
        )

    # One volatile is all that may stand before the pointer.
    def _fault_of_pointer(self, outermost: Type, pointer: Type) -> str:
        type = outermost
        if type.kind is Kind.VOLATILE:
            type = self._btf[type.type_id]
        if type.id == pointer.id:
            return ""
        if type.kind is Kind.TYPEDEF:
            return f"the pointer is a typedef, {type.name}"
        return f"the pointer itself is {type.kind.word}"

    def _fault_of_tags(self, pointer: Type) -> str:
        tags = self._tags(pointer)
        names = [tag.name for tag in tags if not tag.kflag]
        known = [n for n in names if n in POINTER_KINDS & self._rules.kinds]
        if not names:
            return "its tag is an attribute (kind_flag), no type tag"
        if not known:
            advice = ": since Linux 6.4 it is kptr" if _OLD_TAG in names else ""
            return f"the kernel does not know its tag {names[0]!r}{advice}"
        if self._rules.every_tag:
            if len(set(known)) > 1:
                return f"it has two tags, {known[0]!r} and {known[1]!r}"
        elif self._btf[pointer.type_id].kind is not Kind.TYPE_TAG:
            return "its tag is not the first thing behind the pointer"
        elif len(tags) > 1:
            return f"it has two tags, {tags[0].name!r} and {tags[1].name!r}"
        target = self._btf.skip_modifiers(pointer.type_id)
        if target.kind is not Kind.STRUCT:
            return f"it points to {_article(target)}: fields only point to structs"
        return ""


def _article(type: Type) -> str:
    if type.kind is Kind.FWD:
        return f"struct {type.name}, which the object only declares forward"
    if type.kind is Kind.VOID:
        return "void"
    word = {Kind.PTR: "pointer", Kind.INT: "integer", Kind.ENUM64: "enum"}.get(
        type.kind, type.kind.word
    )
    return f"{'an' if word[0] in 'aeiou' and word != 'union' else 'a'} {word}"
