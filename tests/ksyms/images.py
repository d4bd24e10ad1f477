"""Images for the client's tests: ksymsfs images from kallsyms text, and bare ELF."""

from __future__ import annotations

from collections.abc import Sequence

from ksymsfs.elf import ElfFormat
from ksymsfs.image import build_image
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import parse_modules
from tests.elf_writer import ALLOC, ET_EXEC, EXEC, PROGBITS, Elf, Sec, Sym, tables

NATIVE = ElfFormat(64, "little", 62)
FORMATS = {
    "elf64-little": NATIVE,
    "elf64-big": ElfFormat(64, "big", 22),
    "elf32-little": ElfFormat(32, "little", 3),
    "elf32-big": ElfFormat(32, "big", 20),
}

# A kernel from 0x81000000 with aliases, a gap (per-CPU, below _text), two modules that
# lie below it in memory, and BPF programs among them.
KALLSYMS = b"""\
00000010 A cpu_offset
81000000 T _text
81000000 T _stext
81000010 t do_one
81000040 T vfs_read
81000040 T alias_of_vfs_read
81000100 W weak_one
81000180 t static_one
81000200 t static_one
81001000 D jiffies
81001008 b counter
81002000 B _end
80002000 t new_init\t[new]
80002040 T new_end\t[new]
80001000 t old_probe\t[old]
80001080 t static_one\t[old]
80001800 t bpf_prog_a_first\t[bpf]
80003000 t bpf_prog_b_second\t[bpf]
"""
MODULES = b"""\
new 4096 0 - Live 0x80002000
old 4096 1 new, Live 0x80001000
"""


def kernel_image(
    fmt: ElfFormat = NATIVE, kallsyms: bytes = KALLSYMS, modules: bytes | None = MODULES
) -> bytes:
    """The ksymsfs image of a kallsyms table."""
    known = None if modules is None else parse_modules(modules)
    files = kallsyms_linker_files(kallsyms, known, fmt)
    return build_image(files, fmt)


def bare_elf(symbols: Sequence[Sym], *, bits: int = 64, order: str = "<") -> bytes:
    """An executable of another's making: .text at 0x1000-0x9fff, and its symbols."""
    text = Sec(".text", PROGBITS, ALLOC | EXEC, addr=0x1000, size=0x9000)
    sections = [text, *tables(symbols, link=3, bits=bits, order=order)]
    return Elf(sections, ET_EXEC, bits=bits, order=order).to_bytes()
