"""The second half of the kernel's check of BTF: what the types make of each other.

kernel/bpf/btf.c, btf_check_all_types() and btf_check_type_tags(). Types are resolved
depth first on a stack of 32, and what is on the way decides what is seen as an end:
whether a BTF is refused, and as a loop or as too deep, depends on that order.
"""

from __future__ import annotations

from errno import E2BIG, EEXIST, EINVAL, ELOOP
from typing import Literal

from ksyms.bpf.btf_records import Record, is_identifier, text_at
from ksyms.bpf.kernel_rules import DEPTH_MAX
from ksyms.bpf.refusal import RefusedError, refused, spell_type
from ksyms.btf_types import MODIFIERS, Kind

_U32_MAX = 0xFFFFFFFF
_COMPOSITE = frozenset({Kind.STRUCT, Kind.UNION})
_SIZED = _COMPOSITE | {Kind.INT, Kind.ENUM, Kind.ENUM64, Kind.FLOAT, Kind.DATASEC}
_SIZELESS = frozenset({Kind.VOID, Kind.FWD, Kind.FUNC, Kind.FUNC_PROTO, Kind.DECL_TAG})
# Nothing may refer to these but what is made for it.
_SOURCES = frozenset({Kind.VAR, Kind.DECL_TAG, Kind.DATASEC})
_TO_RESOLVE = MODIFIERS | _COMPOSITE | _SOURCES | {Kind.PTR, Kind.ARRAY, Kind.FUNC}
_OPEN_ENDS = {
    "start": _TO_RESOLVE,
    "pointer": MODIFIERS | {Kind.PTR},
    "composite": MODIFIERS | {Kind.ARRAY} | _COMPOSITE,
}
_TAGGED = _COMPOSITE | {Kind.FUNC, Kind.VAR, Kind.TYPEDEF}

_NEW, _VISITED, _RESOLVED = range(3)


class TypeGraph:
    """The types of one BTF as the kernel resolves them."""

    def __init__(self, records: list[Record], strings: bytes) -> None:
        self._records = records
        self._strings = strings
        self._states = bytearray(len(records))
        self._ids = [0] * len(records)
        self._sizes = [0] * len(records)
        # Type ids, each with the number of members that are done.
        self._stack: list[list[int]] = []
        self._mode: Literal["start", "pointer", "composite"] = "start"
        self._steps = {
            Kind.PTR: self._pointer,
            Kind.ARRAY: self._array,
            Kind.STRUCT: self._struct,
            Kind.UNION: self._struct,
            Kind.VAR: self._pointer,
            Kind.FUNC: self._func,
            Kind.DATASEC: self._datasec,
            Kind.DECL_TAG: self._decl_tag,
            **dict.fromkeys(MODIFIERS, self._modifier),
        }

    def check(self) -> None:
        """Raise RefusedError where the kernel would refuse the BTF."""
        for record in self._records[1:]:
            if record.kind in _TO_RESOLVE and self._states[record.id] != _RESOLVED:
                self._resolve(record)
            if record.kind is Kind.FUNC_PROTO:
                self._check_proto(record)
        self._check_tags()

    def sized(self, type_id: int) -> tuple[Record, int] | None:
        """The type behind modifiers with its size in bytes; None without size.

        btf_type_id_size() of checked types.
        """
        record = self._get(type_id)
        if record is None or record.kind in _SIZELESS:
            return None
        if record.kind in MODIFIERS or record.kind is Kind.VAR:
            record = self._records[self._ids[type_id]]
        if record.kind in _SIZED:
            return record, record.value
        if record.kind is Kind.ARRAY:
            return record, self._sizes[record.id]
        return (record, 8) if record.kind is Kind.PTR else None

    def _get(self, type_id: int) -> Record | None:
        return self._records[type_id] if type_id < len(self._records) else None

    def _refused(
        self, record: Record, reason: str, number: int = EINVAL, member: str = ""
    ) -> RefusedError:
        where = spell_type(record.kind, self._name(record.name_off), record.id)
        return refused(number, reason, struct=where, member=member)

    def _name(self, offset: int) -> str:
        return text_at(self._strings, offset).decode("utf-8", "backslashreplace")

    def _resolve(self, record: Record) -> None:
        self._mode = "start"
        self._stack = []
        self._push(record.id)
        while self._stack:
            top = self._records[self._stack[-1][0]]
            refusal = self._steps[top.kind](top)
            if refusal == E2BIG:
                reason = f"Exceeded max resolving depth:{DEPTH_MAX}"
                raise self._refused(record, reason, E2BIG)
            if refusal == EEXIST:
                raise self._refused(record, "Loop detected", EEXIST)
        if not self._is_resolved_well(record):
            raise self._refused(record, "Invalid resolve state")

    def _push(self, type_id: int) -> int:
        if len(self._stack) == DEPTH_MAX:
            return E2BIG
        if self._states[type_id] != _NEW:
            return EEXIST
        self._states[type_id] = _VISITED
        self._stack.append([type_id, 0])
        if self._mode == "start":
            kind = self._records[type_id].kind
            if kind is Kind.PTR:
                self._mode = "pointer"
            elif kind in _COMPOSITE or kind is Kind.ARRAY:
                self._mode = "composite"
        return 0

    def _pop(self, resolved_id: int, size: int = 0) -> int:
        type_id, _ = self._stack.pop()
        self._ids[type_id] = resolved_id
        self._sizes[type_id] = size
        self._states[type_id] = _RESOLVED
        return 0

    def _is_open(self, record: Record) -> bool:
        return (
            record.kind in _OPEN_ENDS[self._mode]
            and self._states[record.id] != _RESOLVED
        )

    def _is_resolved_well(self, record: Record) -> bool:
        resolved = self._records[self._ids[record.id]]
        size = self._sizes[record.id]
        if record.kind in _COMPOSITE or record.kind is Kind.DATASEC:
            return not resolved.id and not size
        if record.kind in (Kind.DECL_TAG, Kind.FUNC):
            return resolved.id != 0 and not size
        if record.kind is Kind.ARRAY:
            element = self.sized(record.words[0])
            return (
                element is not None
                and element[0].kind not in MODIFIERS
                and record.words[2] * element[1] & _U32_MAX == size
            )
        return resolved.kind not in MODIFIERS | {Kind.VAR, Kind.DATASEC}

    # A type to which *record* refers, if it may.
    def _target(self, record: Record) -> Record:
        target = self._get(record.value)
        if target is None or target.kind in _SOURCES:
            raise self._refused(record, "Invalid type_id")
        return target

    # What a type behind modifiers, pointers or nothing comes down to.
    def _finish(self, record: Record, target: Record) -> int:
        sized = self.sized(target.id)
        if sized is not None:
            return self._pop(sized[0].id)
        if self._states[target.id] == _RESOLVED:
            target = self._records[self._ids[target.id]]
        if target.kind not in (Kind.VOID, Kind.FWD, Kind.FUNC_PROTO):
            raise self._refused(record, "Invalid type_id")
        return self._pop(target.id)

    def _modifier(self, record: Record) -> int:
        target = self._target(record)
        if self._is_open(target):
            return self._push(target.id)
        return self._finish(record, target)

    def _pointer(self, record: Record) -> int:
        target = self._target(record)
        if self._is_open(target):
            return self._push(target.id)
        behind = self._pointer_behind(target)
        if behind is not None:
            return self._push(behind.id)
        if record.kind is Kind.VAR and self.sized(target.id) is None:
            raise self._refused(record, "Invalid type_id")
        return self._finish(record, target)

    # A modifier that was resolved for a struct may have stopped at a pointer.
    def _pointer_behind(self, target: Record) -> Record | None:
        if target.kind in MODIFIERS:
            behind = self._records[self._ids[target.id]]
            if behind.kind is Kind.PTR and self._is_open(behind):
                return behind
        return None

    def _func(self, record: Record) -> int:
        proto = self._get(record.value)
        if proto is None or proto.kind is not Kind.FUNC_PROTO:
            raise self._refused(record, "Invalid type_id")
        params = zip(proto.words[::2], proto.words[1::2], strict=True)
        for number, (name_off, type_id) in enumerate(params, 1):
            if not name_off and type_id:
                raise self._refused(record, f"Invalid arg#{number}")
        return self._pop(proto.id)

    def _array(self, record: Record) -> int:
        element_id, index_id, nelems = record.words
        index = self._element(record, index_id, "Invalid index")
        if self._is_open(index):
            return self._push(index_id)
        sized = self.sized(index_id)
        if sized is None or not _is_regular(sized[0]):
            raise self._refused(record, "Invalid index")
        element = self._element(record, element_id, "Invalid elem")
        if self._is_open(element):
            return self._push(element_id)
        sized = self.sized(element_id)
        if sized is None:
            raise self._refused(record, "Invalid elem")
        resolved, size = sized
        if resolved.kind is Kind.INT and not _is_regular(resolved):
            raise self._refused(record, "Invalid array of int")
        if size * nelems > _U32_MAX:
            raise self._refused(record, "Array size overflows U32_MAX")
        return self._pop(resolved.id, size * nelems)

    def _element(self, record: Record, type_id: int, reason: str) -> Record:
        element = self._get(type_id)
        if element is None or element.kind in _SIZELESS | _SOURCES:
            raise self._refused(record, reason)
        return element

    def _struct(self, record: Record) -> int:
        members = record.members
        top = self._stack[-1]
        if top[1]:
            self._check_member(record, *members[top[1] - 1])
        for number, (name_off, type_id, offset) in enumerate(
            members[top[1] :], top[1] + 1
        ):
            target = self._get(type_id)
            if target is None or target.kind in _SIZELESS | _SOURCES:
                name = self._name(name_off)
                raise self._refused(record, "Invalid member", member=name)
            if self._is_open(target):
                top[1] = number
                return self._push(type_id)
            self._check_member(record, name_off, type_id, offset)
        return self._pop(0)

    def _check_member(
        self, record: Record, name_off: int, type_id: int, offset: int
    ) -> None:
        sized = self.sized(type_id)
        reason = (
            "Invalid member" if sized is None else _member_fault(record, offset, *sized)
        )
        if reason:
            raise self._refused(record, reason, member=self._name(name_off))

    def _datasec(self, record: Record) -> int:
        self._mode = "start"
        top = self._stack[-1]
        for number, (type_id, _, size) in enumerate(
            record.members[top[1] :], top[1] + 1
        ):
            var = self._get(type_id)
            if var is None or var.kind is not Kind.VAR:
                raise self._refused(record, "Not a VAR kind member")
            if self._is_open(var):
                top[1] = number
                return self._push(type_id)
            sized = self.sized(var.value)
            name = self._name(var.name_off)
            if sized is None:
                raise self._refused(record, "Invalid type", member=name)
            if size < sized[1]:
                raise self._refused(record, "Invalid size", member=name)
        return self._pop(0)

    def _decl_tag(self, record: Record) -> int:
        target = self._get(record.value)
        if target is None or target.kind not in _TAGGED:
            raise self._refused(record, "Invalid type_id")
        if self._is_open(target):
            return self._push(target.id)
        component = record.words[0]
        if component != _U32_MAX:
            if target.kind is Kind.FUNC:
                counted = self._records[target.value]
            else:
                counted = target
            if target.kind in (Kind.VAR, Kind.TYPEDEF) or component >= counted.vlen:
                raise self._refused(record, "Invalid component_idx")
        return self._pop(target.id)

    def _check_proto(self, record: Record) -> None:
        if record.value:
            self._check_param(record, record.value, "Invalid return type")
        params = list(zip(record.words[::2], record.words[1::2], strict=True))
        if params and not params[-1][1]:
            if params[-1][0]:
                raise self._refused(record, f"Invalid arg#{len(params)}")
            params.pop()
        for number, (name_off, type_id) in enumerate(params, 1):
            reason = f"Invalid arg#{number}"
            if name_off and not (
                name_off < len(self._strings) and is_identifier(self._strings, name_off)
            ):
                raise self._refused(record, reason)
            self._check_param(record, type_id, reason)

    def _check_param(self, record: Record, type_id: int, reason: str) -> None:
        target = self._get(type_id)
        if target is None or target.kind in _SOURCES:
            raise self._refused(record, reason)
        if target.kind in _TO_RESOLVE and self._states[type_id] != _RESOLVED:
            self._resolve(target)
        if self.sized(type_id) is None:
            raise self._refused(record, reason)

    # Tags come first behind a pointer, before const, volatile, restrict and typedef.
    def _check_tags(self) -> None:
        good = 0
        for record in self._records[1:]:
            if record.kind not in MODIFIERS:
                continue
            in_tags = record.kind is Kind.TYPE_TAG
            current = record
            for _ in range(DEPTH_MAX):
                if current.kind is not Kind.TYPE_TAG:
                    in_tags = False
                elif not in_tags:
                    raise self._refused(record, "Type tags don't precede modifiers")
                if current.id <= good:
                    break
                current = self._records[current.value]
                if current.kind not in MODIFIERS:
                    break
            else:
                reason = "Max chain length or cycle detected"
                raise self._refused(record, reason, ELOOP)
            good = record.id


# Of 1, 2, 4, 8 or 16 whole bytes, from bit 0 on.
def _is_regular(record: Record) -> bool:
    if record.kind is not Kind.INT:
        return False
    word = record.words[0]
    return word & 0xFF in (8, 16, 32, 64, 128) and not word >> 16 & 0xFF


# check_member and check_kflag_member of each kind; *offset* as it is written.
def _member_fault(record: Record, offset: int, target: Record, size: int) -> str:
    bits = offset >> 24 if record.kflag else 0
    at = record.bit_offset(offset)
    if target.kind is Kind.INT:
        return _int_member_fault(record, at, bits, target)
    if target.kind in (Kind.ENUM, Kind.ENUM64) and record.kflag:
        if bits > 32:
            return "Invalid member bitfield_size"
        if not bits and at % 8:
            return "Member is not byte aligned"
        end = (at + (bits or 32) + 7) // 8
    elif bits:
        return "Invalid member bitfield_size"
    elif target.kind is Kind.FLOAT:
        if at % (8 * min(8, size)):
            return "Member is not properly aligned"
        end = at // 8 + size
    elif target.kind in _SIZED - {Kind.DATASEC} or target.kind in (
        Kind.PTR,
        Kind.ARRAY,
    ):
        if at % 8:
            return "Member is not byte aligned"
        end = at // 8 + size
    else:
        return "Unsupported check_member"
    return "Member exceeds struct_size" if end > record.value else ""


def _int_member_fault(record: Record, at: int, bits: int, target: Record) -> str:
    word = target.words[0]
    int_bits = word & 0xFF
    if not record.kflag:
        at += word >> 16 & 0xFF
        if at > _U32_MAX:
            return "bits_offset exceeds U32_MAX"
        bits = int_bits
    elif not _is_regular(target):
        return "Invalid member base type"
    elif not bits:
        if at % 8:
            return "Invalid member offset"
        bits = int_bits
    elif bits > int_bits:
        return "Invalid member bitfield_size"
    copied = bits + at % 8
    if copied > 128:
        return "nr_copy_bits exceeds 128"
    if at // 8 + (copied + 7) // 8 > record.value:
        return "Member exceeds struct_size"
    return ""
