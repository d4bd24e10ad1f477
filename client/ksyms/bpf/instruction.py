"""One BPF instruction, and what libbpf makes of one that uses an extern."""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

LD_IMM64, CALL = 0x18, 0x85

# src_reg of a call to a kernel function, and of an ld_imm64 with a BTF id.
PSEUDO_KFUNC_CALL, PSEUDO_BTF_ID = 2, 3
POISON = 2_002_000_000
"""imm of a call to an unresolved weak function: this plus the extern's index."""


class Instruction(NamedTuple):
    """struct bpf_insn, with the second half of an ld_imm64."""

    code: int
    dst_reg: int
    src_reg: int
    off: int
    imm: int
    """32 bits, unsigned."""
    next_imm: int | None = None
    """imm of the second half; None for an instruction of 8 bytes."""

    @classmethod
    def from_bytes(cls, data: bytes, byteorder: str) -> Self:
        """Read 8 bytes, or the 16 of an ld_imm64."""
        order = "<" if byteorder == "little" else ">"
        code, registers, off, imm = struct.unpack_from(order + "BBhI", data)
        low, high = registers & 15, registers >> 4
        dst, src = (low, high) if order == "<" else (high, low)
        following = None
        if len(data) == 16:
            (following,) = struct.unpack_from(order + "I", data, 12)
        return cls(code, dst, src, off, imm, following)

    def to_bytes(self, byteorder: str) -> bytes:
        """The 8 or 16 bytes of the instruction."""
        order = "<" if byteorder == "little" else ">"
        low, high = self.dst_reg, self.src_reg
        if order == ">":
            low, high = high, low
        registers = high << 4 | low
        data = struct.pack(order + "BBhI", self.code, registers, self.off, self.imm)
        if self.next_imm is not None:
            data += struct.pack(order + "BBhI", 0, 0, 0, self.next_imm)
        return data
