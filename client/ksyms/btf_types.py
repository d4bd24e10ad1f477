"""The records of the BPF Type Format (include/uapi/linux/btf.h, btf.rst)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """BTF_KIND_*, and OTHER for kinds that only a layout section describes."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19
    OTHER = 128

    @property
    def word(self) -> str:
        """The kind as libbpf's btf_kind_str() spells it in its messages."""
        return "unknown" if self is Kind.OTHER else self.name.lower()


MODIFIERS = frozenset(
    {Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG}
)
"""What libbpf's skip_mods_and_typedefs() steps over."""

# Linkage of a FUNC (its vlen) and of a VAR.
STATIC, GLOBAL, EXTERN = range(3)


class Type(NamedTuple):
    """struct btf_type: one type, with what follows it left in the Btf."""

    id: int
    kind: Kind
    name: str
    """"" where the type has none."""
    kflag: bool
    """Bit-field members (STRUCT, UNION), signed (ENUM, ENUM64), union (FWD), an
    attribute instead of a tag (TYPE_TAG, DECL_TAG)."""
    vlen: int
    """Number of members, parameters, enumerators, variables; linkage of a FUNC."""
    size: int
    """Bytes of an INT, STRUCT, UNION, ENUM, ENUM64, FLOAT, DATASEC; else 0."""
    type_id: int
    """Id of the type referred to (the return type of a FUNC_PROTO); else 0."""


class Member(NamedTuple):
    """struct btf_member: a member of a STRUCT or UNION."""

    name: str
    type_id: int
    bit_offset: int
    """Bits from the start of the struct."""
    bit_size: int
    """Bits of a bit-field, 0 for an ordinary member."""


class Param(NamedTuple):
    """struct btf_param: a parameter of a FUNC_PROTO; the last has type 0 for `...`."""

    name: str
    type_id: int


class Enumerator(NamedTuple):
    """struct btf_enum or btf_enum64, with the sign that the kflag says."""

    name: str
    value: int


class Array(NamedTuple):
    """struct btf_array."""

    type_id: int
    index_type_id: int
    nelems: int


class Encoding(NamedTuple):
    """The word behind an INT: where its bits are, and what they mean."""

    bits: int
    bit_offset: int
    is_signed: bool
    is_char: bool
    is_bool: bool


class SectionVariable(NamedTuple):
    """struct btf_var_secinfo: a VAR (or FUNC) of a DATASEC."""

    type_id: int
    offset: int
    """Bytes from the start of the section; compilers leave 0 for libbpf to fill."""
    size: int
