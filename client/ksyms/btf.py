"""BTF: a graph of types in bytes, indexed in one pass and decoded on demand.

The format is that of include/uapi/linux/btf.h up to Linux 7.x: 24 bits of vlen, 7 bits
of kind, and the optional layout section, which lets a reader pass over kinds that it
does not know.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Self

from ksyms.btf_names import TypeNames
from ksyms.btf_strings import BtfStrings
from ksyms.btf_types import (
    MODIFIERS,
    Array,
    Encoding,
    Enumerator,
    Kind,
    Member,
    Param,
    SectionVariable,
    Type,
)
from ksyms.errors import BtfError, TypeNotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ksyms.elf import Data

MAGIC, VERSION = 0xEB9F, 1
HEADER = 24  # bytes, to str_len; 32 with layout_off and layout_len

# 32-bit words behind struct btf_type: once, and for each of vlen.
_TRAILER: dict[int, tuple[int, int]] = {
    Kind.INT: (1, 0),
    Kind.PTR: (0, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FWD: (0, 0),
    Kind.TYPEDEF: (0, 0),
    Kind.VOLATILE: (0, 0),
    Kind.CONST: (0, 0),
    Kind.RESTRICT: (0, 0),
    Kind.FUNC: (0, 0),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.FLOAT: (0, 0),
    Kind.DECL_TAG: (1, 0),
    Kind.TYPE_TAG: (0, 0),
    Kind.ENUM64: (0, 3),
}
_SIZED = frozenset(
    {
        Kind.INT,
        Kind.STRUCT,
        Kind.UNION,
        Kind.ENUM,
        Kind.ENUM64,
        Kind.FLOAT,
        Kind.DATASEC,
    }
)
_REFERS = MODIFIERS | {Kind.PTR, Kind.FUNC, Kind.FUNC_PROTO, Kind.VAR, Kind.DECL_TAG}
_KINDS = tuple(
    Kind(number) if number in Kind._value2member_map_ else Kind.OTHER
    for number in range(128)
)
_RESOLVE_DEPTH = 32  # libbpf's MAX_RESOLVE_DEPTH


class Btf:
    """The types of a kernel, of one of its modules (on a base), or of a BPF object.

    Type ids start at 1 (0 is void); a split BTF continues the ids and the strings of
    its base. References are checked when they are followed, or all by validate().
    """

    def __init__(self, data: Data, *, base: Btf | None = None, name: str) -> None:
        self.name = name
        self.base = base
        self.first_id: int = 1 if base is None else base.end_id
        self._header(data)
        self._offsets = self._index()
        self.end_id: int = self.first_id + len(self._offsets)
        self._names = TypeNames(self._words, self._offsets, self._strings)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, base: Btf | None = None, name: str = "BTF"
    ) -> Self:
        """Index the BTF in *data*, either byte order; *name* is for messages.

        Give *base* for a module's split BTF. Raises BtfError.
        """
        return cls(bytes(data), base=base, name=name)

    def _header(self, data: Data) -> None:
        if len(data) < HEADER:
            raise BtfError(self.name, len(data), "ends inside the header")
        for order in "<>":
            magic, version, flags, length = struct.unpack_from(order + "HBBI", data)
            if magic == MAGIC:
                break
        else:
            raise BtfError(self.name, 0, f"magic is {data[:2].hex()}, not 9feb or eb9f")
        self.byteorder = "little" if order == "<" else "big"
        if version != VERSION:
            raise BtfError(self.name, 2, f"version {version} is not known")
        if flags:
            raise BtfError(self.name, 3, f"flags {flags:#x} are not known")
        if not HEADER <= length <= len(data):
            raise BtfError(self.name, 4, f"a header of {length} bytes cannot be")
        type_off, type_len, str_off, str_len = struct.unpack_from(order + "4I", data, 8)
        body = len(data) - length
        if type_off % 4:
            raise BtfError(self.name, 8, "the type section is not aligned to 4 bytes")
        if type_off + type_len > min(body, str_off):
            raise BtfError(
                self.name, 12, "the type section runs past its end or into the strings"
            )
        if str_off + str_len > body:
            raise BtfError(self.name, 20, "the string section runs past the end")
        self._types_at = length + type_off
        types = memoryview(data)[self._types_at : self._types_at + (type_len & ~3)]
        words = array("I")
        words.frombytes(types)
        if self.byteorder != sys.byteorder:
            words.byteswap()
        self._words = words
        if type_len % 4:
            raise BtfError(self.name, 12, "the type section ends inside a word")
        strings_at = length + str_off
        below = None if self.base is None else self.base._strings
        self._strings: BtfStrings = BtfStrings(data, strings_at, str_len, below)
        if str_len or self.base is None:
            if str_len == 0 or data[strings_at + str_len - 1]:
                raise BtfError(self.name, strings_at, "the strings do not end with NUL")
            if self.base is None and data[strings_at]:
                raise BtfError(
                    self.name, strings_at, "the strings do not begin with NUL"
                )
        self._trailers = _TRAILER.copy()
        if length >= HEADER + 8:
            self._layout(data, order, length)

    # struct btf_layout for every kind the writer knew, those unknown here included.
    def _layout(self, data: Data, order: str, header: int) -> None:
        layout_off, layout_len = struct.unpack_from(order + "2I", data, HEADER)
        start = header + layout_off
        if start + layout_len > len(data):
            raise BtfError(self.name, 28, "the layout section runs past the end")
        if layout_len % 4:
            raise BtfError(self.name, 28, "the layout section ends inside a record")
        for kind in range(min(layout_len // 4, 128)):
            if kind == Kind.VOID or _KINDS[kind] is not Kind.OTHER:
                continue
            at = start + 4 * kind
            info_size, element_size = data[at], data[at + 1]
            if info_size % 4 or element_size % 4:
                raise BtfError(self.name, at, f"kind {kind} is not made of words")
            self._trailers[kind] = info_size // 4, element_size // 4

    # Offset of every type, in words. The loop is the cost of loading: keep it bare.
    def _index(self) -> array[int]:
        words, end = self._words, len(self._words)
        offsets = array("I", [0])
        append, at = offsets.append, 0
        # By the second word of a type: few of them differ.
        sizes: dict[int, int] = {}
        while True:
            try:
                while True:
                    at += sizes[words[at + 1]]
                    append(at)
            except KeyError:
                sizes[words[at + 1]] = self._record_size(words[at + 1], offsets)
            except IndexError:
                break
        if at > end:
            offsets.pop()
        if at != end:
            raise self._type_error(offsets, "runs past the end of the type section")
        offsets.pop()
        return offsets

    def _record_size(self, info: int, offsets: array[int]) -> int:
        kind = info >> 24 & 127
        if kind not in self._trailers:
            raise self._type_error(offsets, f"kind {kind} is not known")
        once, each = self._trailers[kind]
        return 3 + once + each * (info & 0xFFFFFF)

    # About the last of the types at *offsets*.
    def _type_error(self, offsets: array[int], reason: str) -> BtfError:
        type_id = self.first_id + len(offsets) - 1
        return self._error(offsets[-1], f"type [{type_id}]: {reason}")

    def _error(self, word: int, reason: str) -> BtfError:
        return BtfError(self.name, self._types_at + 4 * word, reason)

    def __repr__(self) -> str:
        return f"<Btf {self.name}: types {self.first_id}..{self.end_id - 1}>"

    def __len__(self) -> int:
        """Number of types of this BTF itself, without void and without the base."""
        return len(self._offsets)

    def __iter__(self) -> Iterator[Type]:
        """The types of this BTF itself, in id order."""
        return map(self.__getitem__, range(self.first_id, self.end_id))

    def __getitem__(self, type_id: int) -> Type:
        """The type with *type_id*, of the base too; 0 is void.

        Raises BtfError where there is none: ids come from the BTF itself.
        """
        if type_id < self.first_id and self.base is not None:
            return self.base[type_id]
        if type_id == 0:
            return _VOID
        at = self._at(type_id)
        info, size_or_type = self._words[at + 1], self._words[at + 2]
        kind = _KINDS[info >> 24 & 127]
        return Type(
            type_id,
            kind,
            self._string(self._words[at], at),
            info >> 31 == 1,
            info & 0xFFFFFF,
            size_or_type if kind in _SIZED else 0,
            size_or_type if kind in _REFERS else 0,
        )

    def _at(self, type_id: int) -> int:
        if not self.first_id <= type_id < self.end_id:
            raise self._error(
                len(self._words), f"there is no type [{type_id}] (of {self.end_id})"
            )
        return self._offsets[type_id - self.first_id]

    def _string(self, offset: int, at: int) -> str:
        try:
            return self._strings.text(offset)
        except ValueError as error:
            raise self._error(at, str(error)) from None

    @property
    def words(self) -> array[int]:
        """A copy of the type section, in words of 32 bits of the host's byte order."""
        return self._words[:]

    def word_of(self, type_id: int) -> int:
        """Where the record of *type_id* starts in words. Raises BtfError."""
        return self._at(type_id)

    @property
    def strings(self) -> bytes:
        """The string section, the base's not included."""
        return bytes(self._strings)

    # The words behind a type, one tuple of *width* for each of vlen.
    def _elements(self, type: Type, width: int) -> Iterator[tuple[int, ...]]:
        at = self._at(type.id) + 3
        words = self._words[at : at + width * type.vlen]
        return zip(*(words[column::width] for column in range(width)), strict=True)

    # The BTF that has the type itself: elements are read there.
    def _owner(self, type: Type, *kinds: Kind) -> Btf:
        if type.kind not in kinds:
            wanted = " or ".join(kind.word for kind in kinds)
            raise ValueError(f"type [{type.id}] is {type.kind.word}, not {wanted}")
        owner = self
        while type.id < owner.first_id and owner.base is not None:
            owner = owner.base
        return owner

    def members(self, type: Type) -> tuple[Member, ...]:
        """The members of a STRUCT or UNION, in order. Raises BtfError."""
        btf = self._owner(type, Kind.STRUCT, Kind.UNION)
        at = btf._at(type.id)
        return tuple(
            Member(
                btf._string(name, at),
                type_id,
                offset & 0xFFFFFF if type.kflag else offset,
                offset >> 24 if type.kflag else 0,
            )
            for name, type_id, offset in btf._elements(type, 3)
        )

    def params(self, type: Type) -> tuple[Param, ...]:
        """The parameters of a FUNC_PROTO, in order. Raises BtfError."""
        btf = self._owner(type, Kind.FUNC_PROTO)
        at = btf._at(type.id)
        return tuple(
            Param(btf._string(name, at), type_id)
            for name, type_id in btf._elements(type, 2)
        )

    def enumerators(self, type: Type) -> tuple[Enumerator, ...]:
        """The enumerators of an ENUM or ENUM64, in order. Raises BtfError."""
        btf = self._owner(type, Kind.ENUM, Kind.ENUM64)
        at = btf._at(type.id)
        wide = type.kind is Kind.ENUM64
        sign = (1 << 63 if wide else 1 << 31) if type.kflag else 0
        return tuple(
            Enumerator(
                btf._string(name, at),
                (sum(part << 32 * n for n, part in enumerate(value)) ^ sign) - sign,
            )
            for name, *value in btf._elements(type, 3 if wide else 2)
        )

    def array(self, type: Type) -> Array:
        """Element type, index type and length of an ARRAY."""
        btf = self._owner(type, Kind.ARRAY)
        at = btf._at(type.id) + 3
        return Array(*btf._words[at : at + 3])

    def encoding(self, type: Type) -> Encoding:
        """Bits and meaning of an INT."""
        btf = self._owner(type, Kind.INT)
        word = btf._words[btf._at(type.id) + 3]
        flags = word >> 24 & 15
        return Encoding(
            word & 0xFF,
            word >> 16 & 0xFF,
            bool(flags & 1),
            bool(flags & 2),
            bool(flags & 4),
        )

    def linkage(self, type: Type) -> int:
        """STATIC, GLOBAL or EXTERN of a FUNC or VAR."""
        btf = self._owner(type, Kind.FUNC, Kind.VAR)
        if type.kind is Kind.FUNC:
            return type.vlen
        return btf._words[btf._at(type.id) + 3]

    def component(self, type: Type) -> int:
        """What a DECL_TAG tags: index of a member or parameter, -1 for the whole."""
        btf = self._owner(type, Kind.DECL_TAG)
        index = btf._words[btf._at(type.id) + 3]
        return -1 if index == 0xFFFFFFFF else index

    def variables(self, type: Type) -> tuple[SectionVariable, ...]:
        """The variables (and functions) of a DATASEC, in order."""
        btf = self._owner(type, Kind.DATASEC)
        return tuple(SectionVariable(*words) for words in btf._elements(type, 3))

    def skip_modifiers(self, type_id: int) -> Type:
        """The first type from *type_id* on that is no typedef, qualifier or type tag.

        Raises BtfError where they run in a circle.
        """
        type = self[type_id]
        for _ in range(self.end_id):
            if type.kind not in MODIFIERS:
                return type
            type = self[type.type_id]
        raise self._error(0, f"type [{type_id}]: the modifiers run in a circle")

    def size_of(self, type_id: int, *, pointer_size: int = 8) -> int | None:
        """Bytes of a type as libbpf's btf__resolve_size() counts; None without size.

        A pointer counts *pointer_size* bytes: BTF itself does not know.
        """
        count = 1
        for _ in range(_RESOLVE_DEPTH):
            type = self[type_id]
            if type.kind in _SIZED:
                return count * type.size
            if type.kind is Kind.PTR:
                return count * pointer_size
            if type.kind is Kind.ARRAY:
                element, _, nelems = self.array(type)
                count *= nelems
                type_id = element
            elif type.kind in MODIFIERS or type.kind in (Kind.VAR, Kind.DECL_TAG):
                type_id = type.type_id
            else:
                return None
        return None

    def ids(self, kind: Kind) -> list[int]:
        """Ids of all types of *kind* in this BTF itself, in order."""
        words = self._words
        return [
            type_id
            for type_id, at in enumerate(self._offsets, self.first_id)
            if words[at + 1] >> 24 & 127 == kind
        ]

    def lookup(self, name: str, kind: Kind) -> Type:
        """The first type of *kind* called *name*, the base's before this BTF's own.

        Raises TypeNotFoundError.
        """
        for type in self.lookup_all(name, kind):
            return type
        raise TypeNotFoundError(name, kind.word, self.name)

    def lookup_all(
        self, name: str, kind: Kind | None = None, *, own: bool = False
    ) -> tuple[Type, ...]:
        """All types called *name* (of *kind*), in id order; () when there is none.

        With *own* only those of this BTF itself, not those of its base.
        """
        below = () if own or self.base is None else self.base.lookup_all(name, kind)
        found = (self[self.first_id + i] for i in self._names.find(name))
        return (*below, *(t for t in found if kind is None or t.kind is kind))

    def validate(self) -> None:
        """Follow every name and reference of this BTF itself; raises BtfError.

        A FUNC must refer to a FUNC_PROTO (libbpf, btf_validate_type()).
        """
        for type in self:
            at = self._at(type.id)
            for reference in self._references(type):
                if not 0 <= reference < self.end_id:
                    raise self._error(
                        at, f"type [{type.id}] refers to [{reference}], which is not"
                    )
            proto = self[type.type_id] if type.kind is Kind.FUNC else None
            if proto is not None and proto.kind is not Kind.FUNC_PROTO:
                raise self._error(
                    at,
                    f"type [{type.id}] is of type [{proto.id}], which is no func_proto",
                )

    def _references(self, type: Type) -> Iterator[int]:
        yield type.type_id
        if type.kind in (Kind.STRUCT, Kind.UNION):
            yield from (member.type_id for member in self.members(type))
        elif type.kind is Kind.FUNC_PROTO:
            yield from (param.type_id for param in self.params(type))
        elif type.kind is Kind.DATASEC:
            yield from (variable.type_id for variable in self.variables(type))
        elif type.kind is Kind.ARRAY:
            yield from self.array(type)[:2]
        elif type.kind in (Kind.ENUM, Kind.ENUM64):
            self.enumerators(type)


_VOID = Type(0, Kind.VOID, "", False, 0, 0, 0)
