"""BpfObject: a BPF ELF file as libbpf sees it at open, the same on every machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, Self

from ksyms.bpf.declared_maps import declared_maps
from ksyms.bpf.elf import BpfElf, read_elf
from ksyms.bpf.externs import Extern, Failure, collect_externs
from ksyms.bpf.instruction import CALL, LD_IMM64
from ksyms.bpf.loader_btf import loader_btf
from ksyms.bpf.maps import BpfMap, global_data, legacy_maps
from ksyms.bpf.open_failures import (
    data_failures,
    reference_failures,
    section_failures,
)
from ksyms.bpf.programs import Programs
from ksyms.btf import Btf
from ksyms.errors import BpfObjectError, BtfError

_COMPILER = re.compile(rb"(?:clang version|GNU C\d*) [\w.]+")


class ExternUse(NamedTuple):
    """An instruction that a relocation ties to an extern."""

    section: str
    """The program's section."""
    offset: int
    """Bytes from the start of the section."""
    extern: str
    instruction: bytes
    """As in the file: 16 bytes of an ld_imm64, 8 of a call, in its byte order."""


class BpfObject:
    """Externs, their uses, and maps of one object; nothing here looks at a kernel."""

    def __init__(self, elf: BpfElf, btf: Btf | None, *, name: str) -> None:
        self.name = name
        self.byteorder = elf.byteorder
        self.btf = btf
        """The object's own types, as the compiler wrote them; None without .BTF."""
        self.externs: tuple[Extern, ...]
        """In libbpf's order: .kconfig first, then by name."""
        self.failures: tuple[Failure, ...]
        """Why libbpf would not open it; the first is its answer."""
        self.externs, failures = collect_externs(elf, btf)
        programs = Programs(elf)
        self.uses: tuple[ExternUse, ...] = _find_uses(elf, programs, self.externs, name)
        declared, faults = declared_maps(elf, btf) if btf else ((), ())
        self.maps: tuple[BpfMap, ...] = (
            *legacy_maps(elf, btf),
            *declared,
            *global_data(elf, btf),
        )
        """In libbpf's order."""
        self.failures = (
            *section_failures(elf, btf),
            *failures,
            *(data_failures(elf, btf) if btf and not failures else ()),
            *faults,
            *reference_failures(elf, programs),
        )
        self.loader_btf: bytes | None = (
            loader_btf(elf, btf, self.externs) if btf else None
        )
        """The BTF that libbpf hands to the kernel; None without .BTF."""
        self.compiler: str | None = _compiler(elf)
        """"clang version 19.1.7", where .comment or the debug information says so."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read the object in the file *path*.

        Raises OSError, BpfObjectError, and BtfError for a broken .BTF.
        """
        return cls.from_bytes(Path(path).read_bytes(), name=str(path))

    @classmethod
    def from_bytes(cls, data: bytes, *, name: str = "<bytes>") -> Self:
        """Read the object in *data*; *name* is for messages.

        Raises BpfObjectError, and BtfError for a broken .BTF.
        """
        elf = read_elf(data, name)
        section = elf.section(".BTF")
        btf = None
        if section is not None:
            btf = Btf.from_bytes(section.data, name=f"{name}: .BTF")
            if btf.byteorder != elf.byteorder:
                raise BtfError(btf.name, 0, "not in the byte order of the ELF file")
            btf.validate()
        return cls(elf, btf, name=name)

    def __repr__(self) -> str:
        return (
            f"<BpfObject {self.name}: {len(self.externs)} externs, "
            f"{len(self.maps)} maps>"
        )


# bpf_program__record_reloc(): only these two instructions can name an extern.
def _find_uses(
    elf: BpfElf, programs: Programs, externs: tuple[Extern, ...], path: str
) -> tuple[ExternUse, ...]:
    by_symbol = {extern.symbol: extern for extern in externs}
    uses = []
    for target, offset, symbol in elf.relocations:
        extern = by_symbol.get(symbol)
        if extern is None or target >= len(elf.sections):
            continue
        section = elf.sections[target]
        if programs.at(target, offset) is None:
            continue
        length = 16 if section.data[offset : offset + 1] == b"\x18" else 8
        instruction = section.data[offset : offset + length]
        if len(instruction) < length or instruction[0] not in (LD_IMM64, CALL):
            raise BpfObjectError(
                path,
                f"{section.name}+{offset:#x}: no instruction there that could use "
                f"extern '{extern.name}'",
            )
        uses.append(ExternUse(section.name, offset, extern.name, instruction))
    return tuple(uses)


# "clang version 19.1.7": in .comment, or only as DW_AT_producer.
def _compiler(elf: BpfElf) -> str | None:
    for name in (".comment", ".debug_str"):
        section = elf.section(name)
        found = _COMPILER.search(section.data) if section else None
        if found:
            return found[0].decode("ascii", "replace")
    return None
