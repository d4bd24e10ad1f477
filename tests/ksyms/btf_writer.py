"""Writes BTF of any shape, right or wrong, in either byte order."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ksyms.btf_types import Kind


class BtfWriter:
    """add() gives the new type's id; to_bytes() the whole section."""

    def __init__(self, order: str = "<", *, first_id: int = 1, start: int = 0) -> None:
        self.order = order
        self.next_id = first_id
        self.start = start
        self.types = b""
        self.strings = b"" if start else b"\0"

    def string(self, text: str) -> int:
        """Offset of *text* in the strings, put there if it is not."""
        if not text:
            return 0
        wanted = text.encode() + b"\0"
        if wanted not in self.strings:
            self.strings += wanted
        return self.start + self.strings.index(wanted)

    def add(
        self,
        kind: int,
        name: str = "",
        *,
        kflag: bool = False,
        vlen: int = 0,
        value: int = 0,
        words: Sequence[int] = (),
    ) -> int:
        """A type with *value* as its size or type; *words* follow it."""
        info = (kflag << 31) | (kind << 24) | vlen
        record = (
            self.string(name),
            info,
            value,
            *(word & 0xFFFFFFFF for word in words),
        )
        self.types += struct.pack(f"{self.order}{len(record)}I", *record)
        self.next_id += 1
        return self.next_id - 1

    def integer(self, name: str = "int", size: int = 4, *, flags: int = 1) -> int:
        return self.add(
            Kind.INT, name, value=size, words=[flags << 24 | (8 * size & 0xFF)]
        )

    def pointer(self, target: int) -> int:
        return self.add(Kind.PTR, value=target)

    def composite(
        self,
        name: str,
        size: int,
        *members: tuple[str, int, int],
        kind: Kind = Kind.STRUCT,
        kflag: bool = False,
    ) -> int:
        """*members* are (name, type id, bit offset)."""
        words = [
            word
            for member, type_id, offset in members
            for word in (self.string(member), type_id, offset)
        ]
        return self.add(
            kind, name, kflag=kflag, vlen=len(members), value=size, words=words
        )

    def array(self, element: int, nelems: int, index: int = 1) -> int:
        return self.add(Kind.ARRAY, words=[element, index, nelems])

    def proto(self, returns: int, *params: tuple[str, int]) -> int:
        words = [
            word for name, type_id in params for word in (self.string(name), type_id)
        ]
        return self.add(Kind.FUNC_PROTO, vlen=len(params), value=returns, words=words)

    def func(self, name: str, proto: int, linkage: int = 1) -> int:
        return self.add(Kind.FUNC, name, vlen=linkage, value=proto)

    def var(self, name: str, type_id: int, linkage: int = 1) -> int:
        return self.add(Kind.VAR, name, value=type_id, words=[linkage])

    def datasec(self, name: str, size: int, *variables: tuple[int, int, int]) -> int:
        words = [word for variable in variables for word in variable]
        return self.add(
            Kind.DATASEC, name, vlen=len(variables), value=size, words=words
        )

    def to_bytes(self, *, layout: Sequence[tuple[int, int]] = ()) -> bytes:
        """The section; *layout* gives (info_sz, elem_sz) of kinds 0, 1, 2 ... (7.x)."""
        order, types, strings = self.order, self.types, self.strings
        table = b"".join(struct.pack(order + "BBH", *sizes, 0) for sizes in layout)
        length = 32 if layout else 24
        header = struct.pack(
            order + "HBBI4I",
            *(0xEB9F, 1, 0, length),
            *(0, len(types), len(types), len(strings)),
        )
        if layout:
            header += struct.pack(order + "2I", len(types) + len(strings), len(table))
        return header + types + strings + table
