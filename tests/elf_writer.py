"""Writes ELF files for tests, from the gABI alone and with none of the project's code.

Sections without data take no room in the file, whatever size their header tells: what
the symbol sources never read need not be there.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, DYNSYM = 1, 2, 3, 4, 8, 11
INIT_ARRAY, X86_64_UNWIND = 14, 0x70000001
WRITE, ALLOC, EXEC = 1, 2, 4
ET_REL, ET_EXEC, ET_DYN = 1, 2, 3


@dataclass
class Sec:
    """A section header, with its data where it has some."""

    name: str = ""
    type: int = 0
    flags: int = 0
    addr: int = 0
    size: int = 0
    link: int = 0
    info: int = 0
    addralign: int = 0
    entsize: int = 0
    data: bytes | None = None


@dataclass
class Sym:
    """A symbol with its name."""

    name: str
    value: int = 0
    size: int = 0
    info: int = 0x12
    shndx: int = 1
    other: int = 0


@dataclass
class Elf:
    """An ELF file; *sections* without the null section that all have."""

    sections: Sequence[Sec]
    type: int = ET_REL
    bits: int = 64
    order: str = "<"
    machine: int = 62
    osabi: int = 9
    segments: Sequence[tuple[int, int]] = field(default=())
    """(p_vaddr, p_memsz) of each PT_LOAD."""

    def to_bytes(self) -> bytes:
        wide = self.bits == 64
        word = "Q" if wide else "I"
        ehsize, phentsize, shentsize = (64, 56, 64) if wide else (52, 32, 40)
        sections = [Sec(), *self.sections]
        names = b"\0"
        offsets = []
        for sec in sections:
            offsets.append(len(names) if sec.name else 0)
            names += sec.name.encode() + b"\0" if sec.name else b""
        shstrndx = next(
            (i for i, s in enumerate(sections) if s.name == ".shstrtab"), len(sections)
        )
        if shstrndx == len(sections):
            offsets.append(len(names))
            names += b".shstrtab\0"
            sections.append(Sec(".shstrtab", STRTAB, addralign=1))
        else:
            names = names.ljust(sections[shstrndx].size, b"\0")
        body = bytearray()
        start = ehsize + phentsize * len(self.segments)
        headers = []
        for i, (name, sec) in enumerate(zip(offsets, sections, strict=True)):
            data = names if i == shstrndx else sec.data
            size = sec.size if data is None else len(data)
            offset = 0 if i == 0 else start + len(body)
            body += data or b""
            headers.append(
                struct.pack(
                    f"{self.order}II4{word}II2{word}",
                    name, sec.type, sec.flags, sec.addr, offset, size,
                    sec.link, sec.info, sec.addralign, sec.entsize,
                )
            )  # fmt: skip
        ident = b"\x7fELF" + bytes(
            [2 if wide else 1, 1 if self.order == "<" else 2, 1, self.osabi]
        )
        ehdr = ident.ljust(16, b"\0") + struct.pack(
            f"{self.order}HHI3{word}I6H",
            self.type, self.machine, 1, 0, ehsize if self.segments else 0,
            start + len(body), 0, ehsize, phentsize, len(self.segments),
            shentsize, len(headers), shstrndx,
        )  # fmt: skip
        phdrs = b"".join(self._phdr(*segment) for segment in self.segments)
        return ehdr + phdrs + bytes(body) + b"".join(headers)

    def _phdr(self, vaddr: int, memsz: int) -> bytes:
        if self.bits == 64:
            return struct.pack(f"{self.order}II6Q", 1, 5, 0, vaddr, 0, 0, memsz, 0x1000)
        return struct.pack(f"{self.order}8I", 1, 0, vaddr, 0, 0, memsz, 5, 0x1000)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.to_bytes())
        return path


def tables(
    symbols: Sequence[Sym],
    *,
    link: int,
    bits: int = 64,
    order: str = "<",
    dynamic: bool = False,
) -> list[Sec]:
    """The symbol table (a null symbol first) and its strings, in section *link*."""
    strtab = b"\0"
    records = [Sym("", info=0, shndx=0), *symbols]
    data = b""
    for sym in records:
        name = len(strtab) if sym.name else 0
        strtab += sym.name.encode() + b"\0" if sym.name else b""
        if bits == 64:
            data += struct.pack(
                f"{order}IBBHQQ",
                name, sym.info, sym.other, sym.shndx, sym.value, sym.size,
            )  # fmt: skip
        else:
            data += struct.pack(
                f"{order}IIIBBH",
                name, sym.value, sym.size, sym.info, sym.other, sym.shndx,
            )  # fmt: skip
    entsize = 24 if bits == 64 else 16
    prefix = ".dyn" if dynamic else "."
    table = Sec(
        ".dynsym" if dynamic else ".symtab",
        DYNSYM if dynamic else SYMTAB,
        link=link,
        info=1,
        addralign=bits // 8,
        entsize=entsize,
        data=data,
    )
    return [table, Sec(f"{prefix}str" if dynamic else ".strtab", STRTAB, data=strtab)]


def write_recorded(folder: Path, path: Path) -> Path:
    """Write the ELF file whose section headers and tables were recorded in *folder*."""
    recorded = json.loads((folder / "sections.json").read_text())
    sections = [Sec(**s) for s in recorded["sections"][1:]]
    symtab = next(s for s in sections if s.type == SYMTAB)
    symtab.data = gzip.decompress((folder / "symtab.gz").read_bytes())
    sections[symtab.link - 1].data = gzip.decompress(
        (folder / "strtab.gz").read_bytes()
    )
    return Elf(
        sections,
        recorded["e_type"],
        machine=recorded["e_machine"],
        osabi=recorded["osabi"],
    ).write(path)
