"""The ELF records that ksymsfs writes, in both classes and byte orders.

Names and values are those of the System V gABI, chapters 4 and 5.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
from enum import IntEnum
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

SymArray: TypeAlias = np.ndarray[Any, np.dtype[np.void]]
"""A structured array of ElfFormat.sym_dtype: one record a symbol."""


class STB(IntEnum):
    """Symbol bindings (high half of st_info)."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2
    GNU_UNIQUE = 10


class STT(IntEnum):
    """Symbol types (low half of st_info)."""

    NOTYPE = 0
    OBJECT = 1
    FUNC = 2
    SECTION = 3
    FILE = 4
    COMMON = 5
    TLS = 6
    GNU_IFUNC = 10


class SHN(IntEnum):
    """Special section indexes (st_shndx)."""

    UNDEF = 0
    ABS = 0xFFF1
    COMMON = 0xFFF2
    XINDEX = 0xFFFF


class SHT(IntEnum):
    """Section types that this project meets."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8
    REL = 9
    DYNSYM = 11
    INIT_ARRAY = 14
    FINI_ARRAY = 15
    X86_64_UNWIND = 0x70000001


class SHF(IntEnum):
    """Section flags that this project meets."""

    WRITE = 1
    ALLOC = 2
    EXECINSTR = 4


class ET(IntEnum):
    """Object file types (e_type)."""

    REL = 1
    EXEC = 2
    DYN = 3


PT_LOAD = 1
PF_X, PF_W, PF_R = 1, 2, 4
ELFOSABI_NONE = 0
ELFOSABI_FREEBSD = 9

# uname(2) machine -> e_machine, for the kernel that runs here.
_MACHINES = {
    "x86_64": 62,
    "amd64": 62,
    "i386": 3,
    "i686": 3,
    "aarch64": 183,
    "arm64": 183,
    "riscv64": 243,
    "ppc64le": 21,
    "ppc64": 21,
    "powerpc": 20,
    "s390x": 22,
    "loongarch64": 258,
    "armv7l": 40,
}


def st_info(bind: int, type_: int) -> int:
    """The st_info byte of a symbol of this binding and type."""
    return bind << 4 | type_


class ElfFormat(NamedTuple):
    """Class, byte order and machine: everything that a record's layout depends on."""

    bits: Literal[32, 64] = 64
    byteorder: Literal["little", "big"] = "little"
    machine: int = 62

    @classmethod
    def native(cls) -> ElfFormat:
        """The format of the kernel that runs here (a 64-bit one unless it says so)."""
        machine = os.uname().machine
        bits: Literal[32, 64] = 64 if "64" in machine or machine == "s390x" else 32
        return cls(bits, sys.byteorder, _MACHINES.get(machine, 0))

    @property
    def sym_dtype(self) -> np.dtype[np.void]:
        """ElfN_Sym as a packed numpy record type: 24 bytes in ELF64, 16 in ELF32."""
        return _sym_dtype(self.bits, self.byteorder)

    @property
    def ehsize(self) -> int:
        """sizeof(ElfN_Ehdr)."""
        return 64 if self.bits == 64 else 52

    @property
    def phentsize(self) -> int:
        """sizeof(ElfN_Phdr)."""
        return 56 if self.bits == 64 else 32

    @property
    def shentsize(self) -> int:
        """sizeof(ElfN_Shdr)."""
        return 64 if self.bits == 64 else 40

    @property
    def symentsize(self) -> int:
        """sizeof(ElfN_Sym)."""
        return 24 if self.bits == 64 else 16

    @property
    def wordsize(self) -> int:
        """sizeof(long): the alignment of a symbol table."""
        return self.bits // 8

    @property
    def _prefix(self) -> str:
        return ">" if self.byteorder == "big" else "<"

    def ident(self, osabi: int) -> bytes:
        """e_ident: magic, class, data, version, *osabi*, then zeros to 16 bytes."""
        return struct.pack(
            "4s5B7x",
            b"\x7fELF",
            2 if self.bits == 64 else 1,
            2 if self.byteorder == "big" else 1,
            1,
            osabi,
            0,
        )

    def ehdr(
        self, *, osabi: int, type_: int, phoff: int, phnum: int, shoff: int,
        shnum: int, shstrndx: int, entry: int = 0, flags: int = 0,
    ) -> bytes:  # fmt: skip
        """One ElfN_Ehdr."""
        word = "Q" if self.bits == 64 else "I"
        return self.ident(osabi) + struct.pack(
            f"{self._prefix}HHI3{word}I6H",
            type_, self.machine, 1, entry, phoff, shoff, flags,
            self.ehsize, self.phentsize, phnum, self.shentsize, shnum, shstrndx,
        )  # fmt: skip

    def phdr(
        self, *, type_: int, flags: int, offset: int = 0, vaddr: int = 0,
        filesz: int = 0, memsz: int = 0, align: int = 0,
    ) -> bytes:  # fmt: skip
        """One ElfN_Phdr (p_paddr is always 0)."""
        if self.bits == 64:
            return struct.pack(
                f"{self._prefix}II6Q",
                type_, flags, offset, vaddr, 0, filesz, memsz, align,
            )  # fmt: skip
        return struct.pack(
            f"{self._prefix}8I", type_, offset, vaddr, 0, filesz, memsz, flags, align
        )

    def shdr(
        self, *, name: int = 0, type_: int = 0, flags: int = 0, addr: int = 0,
        offset: int = 0, size: int = 0, link: int = 0, info: int = 0,
        align: int = 0, entsize: int = 0,
    ) -> bytes:  # fmt: skip
        """One ElfN_Shdr; without arguments, the null section header."""
        word = "Q" if self.bits == 64 else "I"
        return struct.pack(
            f"{self._prefix}II4{word}II2{word}",
            name, type_, flags, addr, offset, size, link, info, align, entsize,
        )  # fmt: skip


@functools.cache
def _sym_dtype(bits: int, byteorder: str) -> np.dtype[np.void]:
    o = ">" if byteorder == "big" else "<"
    name, value, size = (
        ("st_name", f"{o}u4"),
        ("st_value", f"{o}u{bits // 8}"),
        ("st_size", f"{o}u{bits // 8}"),
    )
    small = [("st_info", "u1"), ("st_other", "u1"), ("st_shndx", f"{o}u2")]
    fields = [name, *small, value, size] if bits == 64 else [name, value, size, *small]
    return np.dtype(fields)
