"""Where Linux puts a file's symbols: vmlinux under KASLR, and modules by section.

Pure. The blocks have the shape of those from kallsyms: the linker-file symbol, then
the symbols in address order, st_shndx an ImageSection. Left out is what the kernel
leaves out of its own table (kernel/module/kallsyms.c is_core_symbol, scripts/kallsyms):
undefined and nameless symbols, those of files and sections, and those of sections that
are not in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from ksymsfs.elf import ET, SHF, SHN, STT, ElfFormat, SymArray
from ksymsfs.linker import LinkerFile, linker_file_symbol, name_offsets
from ksymsfs.sources.objectfile import ObjectFile

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

# The sections that every Linux kernel or module has, and no other system's.
_MARKS = ("__ex_table", "__ksymtab", ".data..percpu", ".gnu.linkonce.this_module")


def is_linux(file: ObjectFile) -> bool:
    """Whether *file* is a vmlinux or a Linux module."""
    return any(section.name in _MARKS for section in file.sections)


def kernel_linker_file(kernel: ObjectFile, relocation: int = 0) -> LinkerFile:
    """The kernel, moved by *relocation* bytes from where it is linked (KASLR).

    What has no place in memory stays: absolute symbols, and per-CPU ones where they
    count from 0.
    """
    if kernel.type not in (ET.EXEC, ET.DYN):
        raise kernel.error(f"is no kernel: its e_type is {kernel.type}")
    known = np.zeros(len(kernel.sections) + 1, bool)
    fixed = known.copy()
    for number, section in enumerate(kernel.sections):
        known[number] = bool(section.flags & SHF.ALLOC)
        fixed[number] = section.name == ".data..percpu" and not section.addr
    known[-1] = fixed[-1] = True
    numbers = _numbers(kernel)
    keep = np.flatnonzero(known[numbers] & _named(kernel.symtab))
    symtab = _kept(kernel, keep)
    moves = ~fixed[numbers[keep]]
    symtab["st_value"][moves] += _word(kernel.format, relocation)
    symtab["st_shndx"][~moves] = SHN.ABS
    address, size = _kernel_range(symtab, kernel, relocation)
    return _block("kernel", address, size, symtab, kernel)


def module_linker_file(
    name: str,
    module: ObjectFile,
    sections: Mapping[str, int],
    where: tuple[int, int] | None = None,
) -> LinkerFile:
    """The module *name*, whose *sections* lie at these addresses.

    *where* is its address and size as /proc/modules has them; None takes the lowest
    section's address and the sum of the sections' sizes.
    """
    if module.type != ET.REL:
        raise module.error(f"is no module: its e_type is {module.type}")
    addresses = np.zeros(len(module.sections) + 1, module.symtab["st_value"].dtype)
    known = np.zeros(len(module.sections) + 1, bool)
    size = 0
    for number, section in enumerate(module.sections):
        # The kernel has given back the memory of these.
        if section.name.startswith(".init") or not section.flags & SHF.ALLOC:
            continue
        address = sections.get(section.name)
        if address is None:
            continue
        module.check_fit(address, section.size)
        addresses[number] = address
        known[number] = True
        size += section.size
    if not known.any():
        raise module.error(f"none of its sections has an address for module {name}")
    numbers = _numbers(module)
    keep = np.flatnonzero(known[numbers] & _named(module.symtab))
    symtab = _kept(module, keep)
    symtab["st_value"] += addresses[numbers[keep]]
    if where is None:
        where = int(addresses[known].min()), size
    return _block(name, *where, symtab, module)


def relocation_by(kernel: ObjectFile, symbol: bytes, address: int) -> int:
    """How far *kernel* was moved if its *symbol* is found at *address*."""
    names = name_offsets(kernel.strtab, symbol)
    found = np.flatnonzero(np.isin(kernel.symtab["st_name"], names))
    if len(found):
        return address - int(kernel.symtab["st_value"][found[0]])
    raise kernel.error(f"has no symbol {symbol.decode()} to find its relocation by")


def _numbers(file: ObjectFile) -> _Array:
    # The section of each symbol, or one past the last: absolute, common ...
    numbers: _Array = np.minimum(file.symtab["st_shndx"], len(file.sections))
    return numbers


def _named(symtab: SymArray) -> _Array:
    types = symtab["st_info"] & 15
    named: _Array = (symtab["st_name"] != 0) & (symtab["st_shndx"] != SHN.UNDEF)
    named &= (types != STT.FILE) & (types != STT.SECTION)
    return named


def _kept(file: ObjectFile, keep: _Array) -> SymArray:
    symtab: SymArray = file.symtab[keep]
    symtab["st_shndx"] = file.image_sections()[keep]
    return symtab


def _word(fmt: ElfFormat, value: int) -> np.unsignedinteger[Any]:
    return (np.uint64 if fmt.bits == 64 else np.uint32)(value % (1 << fmt.bits))


def _kernel_range(
    symtab: SymArray, kernel: ObjectFile, relocation: int
) -> tuple[int, int]:
    parts = [
        (s.addr, s.addr + s.size)
        for s in kernel.sections
        if s.flags & SHF.ALLOC and s.addr
    ]
    if not parts:
        raise kernel.error("has nothing to load")
    start, end = min(a for a, _ in parts), max(b for _, b in parts)
    kernel.check_fit(start + relocation, end - start)
    return start + relocation, end - start


def _block(
    name: str, address: int, size: int, symbols: SymArray, file: ObjectFile
) -> LinkerFile:
    order = np.argsort(symbols["st_value"], kind="stable")
    symtab: SymArray = np.zeros(len(symbols) + 2, file.format.sym_dtype)
    symtab[1:2] = linker_file_symbol(file.format, len(file.strtab), address, size)
    symtab[2:] = symbols[order]
    strtab = file.strtab + name.encode(errors="surrogateescape") + b"\0"
    return LinkerFile(name, address, size, symtab, strtab)
