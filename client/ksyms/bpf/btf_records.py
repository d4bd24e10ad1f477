"""The first half of the kernel's check of BTF: the header, and each type by itself.

kernel/bpf/btf.c, btf_parse_hdr() to btf_check_all_metas(); the reasons are its words.
"""

from __future__ import annotations

import struct
from errno import E2BIG, EINVAL
from typing import NamedTuple

from ksyms.bpf.kernel_rules import KernelRules
from ksyms.bpf.refusal import ENOTSUPP, RefusedError, refused, spell_type
from ksyms.btf import Btf
from ksyms.btf_types import Kind

MAX_SIZE = 16 << 20  # bytes of a BTF
MAX_TYPE, MAX_NAME_OFFSET = 0xFFFFF, 0xFFFFFF
NAME_MAX = 512  # KSYM_NAME_LEN
BITS_MAX = 128  # of an integer
_HEADER = struct.Struct("<HBBI4I")

# ctype.c of the kernel is Latin-1.
_LETTERS = frozenset(
    (*range(65, 91), *range(97, 123), *(set(range(192, 256)) - {215, 247}))
)
_FIRST = _LETTERS | {ord("_"), ord(".")}
_REST = _FIRST | set(range(48, 58))
_PRINTABLE = frozenset((*range(32, 127), *range(160, 256)))


class Record(NamedTuple):
    """struct btf_type, with the words behind it."""

    id: int
    name_off: int
    kind: Kind
    kflag: bool
    vlen: int
    value: int
    """Size or type id."""
    words: tuple[int, ...]

    @property
    def members(self) -> list[tuple[int, int, int]]:
        """(name offset, type id, offset) of each member, as they are written."""
        words = self.words
        return list(zip(words[::3], words[1::3], words[2::3], strict=True))

    def bit_offset(self, offset: int) -> int:
        """Bits from the start of the struct to a member."""
        return offset & 0xFFFFFF if self.kflag else offset


def check_header(data: bytes) -> None:
    """Raise RefusedError where the kernel does not accept the header of *data*."""
    if len(data) > MAX_SIZE:
        raise refused(E2BIG, "larger than 16 MiB")
    if len(data) < 8:
        raise refused(EINVAL, "hdr_len not found")
    order = ">" if data[:2] == b"\xeb\x9f" else "<"
    (length,) = struct.unpack_from(order + "I", data, 4)
    if len(data) < length:
        raise refused(EINVAL, "btf_header not found")
    if any(data[_HEADER.size : length]):
        raise refused(E2BIG, "Unsupported btf_header")
    fields = data[: min(length, _HEADER.size)].ljust(_HEADER.size, b"\0")
    magic, version, flags, _, *sections = struct.unpack(order + "HBBI4I", fields)
    if magic != 0xEB9F:
        raise refused(EINVAL, "Invalid magic")
    if version != 1:
        raise refused(ENOTSUPP, "Unsupported version")
    if flags:
        raise refused(ENOTSUPP, "Unsupported flags")
    if len(data) == length:
        raise refused(EINVAL, "No data")
    total = 0
    for offset, size in sorted([tuple(sections[:2]), tuple(sections[2:])]):
        if offset != total or size > len(data) - length - total:
            raise refused(EINVAL, "sections with gaps, overlap or past the end")
        total += size
    if total != len(data) - length:
        raise refused(EINVAL, "Unsupported section found")
    if sections[2] + sections[3] != total or not sections[3]:
        raise refused(EINVAL, "String section is not at the end")
    if sections[0] % 4:
        raise refused(EINVAL, "Unaligned type_off")
    if not sections[1]:
        raise refused(EINVAL, "No type found")


def check_records(btf: Btf, rules: KernelRules) -> list[Record]:
    """The types by id (void first), each found good by itself. Raises RefusedError."""
    words, strings = btf.words, btf.strings
    if len(btf) >= MAX_TYPE:
        raise refused(E2BIG, "Exceeded max num of types")
    starts = [btf.word_of(type_id) for type_id in range(1, btf.end_id)]
    records = [Record(0, 0, Kind.VOID, False, 0, 0, ())]
    for type_id, (start, end) in enumerate(
        zip(starts, [*starts[1:], len(words)], strict=True), 1
    ):
        name_off, info, value = words[start : start + 3]
        if info & ~rules.info_mask:
            raise refused(EINVAL, f"[{type_id}] Invalid btf_info:{info:x}")
        number = info >> 24 & 127
        if number not in _NAMED:
            raise refused(EINVAL, f"[{type_id}] Invalid kind:{number}")
        if name_off > MAX_NAME_OFFSET or name_off >= len(strings):
            raise refused(EINVAL, f"[{type_id}] Invalid name_offset:{name_off}")
        kind = Kind(number)
        record = Record(
            type_id,
            name_off,
            kind,
            info >> 31 == 1,
            info & 0xFFFFFF & rules.info_mask,
            value,
            tuple(words[start + 3 : end]),
        )
        reason = _fault(record, strings)
        if reason:
            raise _refused(record, strings, reason)
        records.append(record)
    return records


class _Unsupported(str):
    """A reason that is ENOTSUPP and not EINVAL."""

    __slots__ = ()


def _refused(record: Record, strings: bytes, reason: str) -> RefusedError:
    number = ENOTSUPP if isinstance(reason, _Unsupported) else EINVAL
    name = text_at(strings, record.name_off).decode("utf-8", "backslashreplace")
    return refused(number, str(reason), struct=spell_type(record.kind, name, record.id))


def text_at(strings: bytes, offset: int) -> bytes:
    """The string at *offset*, without its NUL."""
    return strings[offset : strings.index(b"\0", offset)]


def is_identifier(strings: bytes, offset: int) -> bool:
    """Whether the kernel takes the string for a C identifier; dots are letters."""
    name = text_at(strings, offset)
    return (
        0 < len(name) <= NAME_MAX and name[0] in _FIRST and _REST.issuperset(name[1:])
    )


# Kinds by what their name has to be: anything, a C identifier, that or none, none,
# not empty, printable.
_ANY, _IDENTIFIER, _OPTIONAL, _NONE, _TEXT, _SECTION = range(6)
_NAMED = {
    Kind.INT: _ANY,
    Kind.PTR: _NONE,
    Kind.ARRAY: _NONE,
    Kind.STRUCT: _OPTIONAL,
    Kind.UNION: _OPTIONAL,
    Kind.ENUM: _OPTIONAL,
    Kind.FWD: _IDENTIFIER,
    Kind.TYPEDEF: _IDENTIFIER,
    Kind.VOLATILE: _NONE,
    Kind.CONST: _NONE,
    Kind.RESTRICT: _NONE,
    Kind.FUNC: _IDENTIFIER,
    Kind.FUNC_PROTO: _NONE,
    Kind.VAR: _IDENTIFIER,
    Kind.DATASEC: _SECTION,
    Kind.FLOAT: _ANY,
    Kind.DECL_TAG: _TEXT,
    Kind.TYPE_TAG: _TEXT,
    Kind.ENUM64: _OPTIONAL,
}
_VLEN = {
    Kind.STRUCT,
    Kind.UNION,
    Kind.ENUM,
    Kind.FUNC,
    Kind.FUNC_PROTO,
    Kind.DATASEC,
    Kind.ENUM64,
}
_KFLAG = {
    Kind.STRUCT,
    Kind.UNION,
    Kind.ENUM,
    Kind.ENUM64,
    Kind.FWD,
    Kind.DECL_TAG,
    Kind.TYPE_TAG,
}
_REFERENCES = {
    Kind.PTR,
    Kind.TYPEDEF,
    Kind.VOLATILE,
    Kind.CONST,
    Kind.RESTRICT,
    Kind.TYPE_TAG,
}


def _fault(record: Record, strings: bytes) -> str:
    kind = record.kind
    if record.vlen and kind not in _VLEN:
        return "vlen != 0"
    if record.kflag and kind not in _KFLAG:
        return "Invalid btf_info kind_flag"
    if not _name_is_valid(record, strings):
        return "Invalid name"
    if kind in _REFERENCES:
        return "Invalid type_id" if record.value > MAX_TYPE else ""
    if kind is Kind.INT:
        return _int_fault(record)
    if kind is Kind.ARRAY:
        return _array_fault(record)
    if kind in (Kind.STRUCT, Kind.UNION):
        return _struct_fault(record, strings)
    if kind in (Kind.ENUM, Kind.ENUM64):
        return _enum_fault(record, strings)
    if kind is Kind.FWD:
        return "type != 0" if record.value else ""
    if kind is Kind.FUNC:
        return "Invalid func linkage" if record.vlen > 1 else ""
    if kind is Kind.VAR:
        return _var_fault(record)
    if kind is Kind.DATASEC:
        return _datasec_fault(record)
    if kind is Kind.FLOAT:
        return "" if record.value in (2, 4, 8, 12, 16) else "Invalid type_size"
    if kind is Kind.DECL_TAG and 0x80000000 <= record.words[0] < 0xFFFFFFFF:
        return "Invalid component_idx"
    return ""


def _name_is_valid(record: Record, strings: bytes) -> bool:
    rule, offset = _NAMED[record.kind], record.name_off
    if rule == _NONE:
        return offset == 0
    if rule == _IDENTIFIER:
        return offset != 0 and is_identifier(strings, offset)
    if rule == _OPTIONAL:
        return offset == 0 or is_identifier(strings, offset)
    if rule == _TEXT:
        return text_at(strings, offset) != b""
    if rule == _SECTION:
        name = text_at(strings, offset)
        return 0 < len(name) <= NAME_MAX and _PRINTABLE.issuperset(name)
    return True


def _int_fault(record: Record) -> str:
    word = record.words[0]
    if word >> 28:
        return f"Invalid int_data:{word:x}"
    bits = (word & 0xFF) + (word >> 16 & 0xFF)
    if bits > BITS_MAX:
        return f"nr_bits exceeds {BITS_MAX}"
    if (bits + 7) // 8 > record.value:
        return "nr_bits exceeds type_size"
    if word >> 24 & 15 not in (0, 1, 2, 4):
        return _Unsupported("Unsupported encoding")
    return ""


def _array_fault(record: Record) -> str:
    element, index, _ = record.words
    if record.value:
        return "size != 0"
    if not 0 < element <= MAX_TYPE:
        return "Invalid elem"
    return "" if 0 < index <= MAX_TYPE else "Invalid index"


def _struct_fault(record: Record, strings: bytes) -> str:
    last = 0
    for name_off, type_id, written in record.members:
        if name_off > MAX_NAME_OFFSET or name_off >= len(strings):
            return f"Invalid member name_offset:{name_off}"
        if name_off and not is_identifier(strings, name_off):
            return "Invalid member name"
        if not 0 < type_id <= MAX_TYPE:
            return "Invalid member type_id"
        offset = record.bit_offset(written)
        if offset < last or (record.kind is Kind.UNION and offset):
            return "Invalid member bits_offset"
        if (offset + 7) // 8 > record.value:
            return "Member bits_offset exceeds its struct size"
        last = offset
    return ""


def _enum_fault(record: Record, strings: bytes) -> str:
    if record.value not in (1, 2, 4, 8):
        return "Unexpected size"
    width = 2 if record.kind is Kind.ENUM else 3
    for name_off in record.words[::width]:
        if name_off > MAX_NAME_OFFSET or name_off >= len(strings):
            return f"Invalid name_offset:{name_off}"
        if not name_off or not is_identifier(strings, name_off):
            return "Invalid name of an enumerator"
    return ""


def _var_fault(record: Record) -> str:
    if not 0 < record.value <= MAX_TYPE:
        return "Invalid type_id"
    return "" if record.words[0] in (0, 1) else "Linkage not supported"


def _datasec_fault(record: Record) -> str:
    if not record.value:
        return "size == 0"
    end = 0
    for type_id, offset, size in record.members:
        if not 0 < type_id <= MAX_TYPE:
            return "Invalid type_id of a variable"
        if not end <= offset < record.value:
            return "Invalid offset"
        if not 0 < size <= record.value:
            return "Invalid size"
        end = offset + size
        if end > record.value:
            return "Invalid offset+size"
    return ""
