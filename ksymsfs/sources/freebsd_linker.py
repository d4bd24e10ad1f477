"""Where FreeBSD's kernel linker puts a file's symbols, from the file and its address.

Pure: sys/kern/link_elf_obj.c (relocatable modules, ET_REL), sys/kern/link_elf.c (the
kernel and shared-object modules, ET_DYN) and stand/common/load_elf_obj.c (modules that
the boot loader loads) as rules. What only the running kernel knows stays as the file
has it: STT_GNU_IFUNC symbols name their resolver, and the symbols of per-CPU and
per-vnet data (set_pcpu, set_vnet) stay relative to their section.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksymsfs.elf import ET, SHF, SHN, SHT, ElfFormat
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.objectfile import ObjectFile, Section

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PAGE = 4096
_PAGES = (PAGE, 4 * PAGE, 16 * PAGE)  # those of the architectures
EM_X86_64 = 62


# The sections that have a place of their own, and where it is.
_Elsewhere: TypeAlias = Mapping[str, int | None]


class _Layout(NamedTuple):
    loaded: list[tuple[int, Section, int | None]]  # number, section, its address
    start: int
    end: int


def kernel_linker_file(kernel: ObjectFile, relocation: int = 0) -> LinkerFile:
    """The kernel itself: its symbols as they are in the file, moved by *relocation*.

    Only kernels built relocatable are moved; then each symbol is, whatever it is.
    """
    if kernel.type not in (ET.EXEC, ET.DYN):
        raise kernel.error(f"is no kernel: its e_type is {kernel.type}")
    symtab = kernel.symtab.copy()
    _move(symtab["st_value"], relocation, kernel.format)
    start, end = _bounds(kernel)
    kernel.check_fit(start + relocation, end - start)
    return LinkerFile(
        "kernel",
        start + relocation,
        end - start,
        symtab,
        kernel.strtab,
        kernel.image_sections(),
    )


def module_linker_file(
    module: ObjectFile,
    address: int,
    size: int | None = None,
    *,
    vimage: bool = True,
    elsewhere: Mapping[str, int] = MappingProxyType({}),
) -> LinkerFile:
    """The module loaded at *address*, where it takes *size* bytes as kldstat(8) says.

    *vimage* says whether the kernel has VIMAGE, and so its own place for set_vnet;
    *elsewhere* where set_pcpu and set_vnet are, if that is known.
    Raises SourceFormatError when the file cannot be what was loaded there: the size
    differs, or there is no room for it.
    """
    if address % PAGE:
        raise module.error(f"address {address:#x} is not at the start of a page")
    if module.type == ET.REL:
        own_places = {"set_pcpu", "set_vnet"} if vimage else {"set_pcpu"}
        return _relocatable(
            module, address, size, {name: elsewhere.get(name) for name in own_places}
        )
    if module.type == ET.DYN:
        return _shared(module, address, size)
    raise module.error(f"is no module: its e_type is {module.type}")


def has_vimage(kernel: ObjectFile) -> bool:
    """Whether *kernel* was built with VIMAGE: then it has a set_vnet of its own."""
    return kernel.section("set_vnet") is not None


def _relocatable(
    module: ObjectFile, address: int, size: int | None, elsewhere: _Elsewhere
) -> LinkerFile:
    if not _has_symtab(module):
        raise module.error("has no symbol table, which a module must have")
    # Kernels before 14 do not load constructors; only the size tells which it was.
    layouts = [
        _lay_out(module, address, elsewhere, arrays=arrays) for arrays in (True, False)
    ]
    layout = layouts[0]
    if size is not None:
        fitting = [
            candidate
            for candidate in layouts
            if size in (candidate.end - address, _preloaded_size(module, candidate))
        ]
        if not fitting:
            raise module.error(
                f"takes {layout.end - address:#x} bytes when loaded, not {size:#x}: "
                "it is not the file that was loaded",
            )
        layout = fitting[0]
    symtab = module.symtab.copy()
    places = module.image_sections()
    moves = np.zeros(len(module.sections) + 1, symtab["st_value"].dtype)
    for number, _section, where in layout.loaded:
        moves[number] = (where or 0) % (1 << module.format.bits)
    # SHN_UNDEF is section 0, which is never loaded; the special ones are no section.
    shndx = symtab["st_shndx"]
    symtab["st_value"] += moves[np.minimum(shndx, len(module.sections))]
    _fix_link_sets(symtab, places, module, layout)
    return LinkerFile(
        module.path.name,
        address,
        layout.end - address if size is None else size,
        symtab,
        module.strtab,
        places,
    )


def _has_symtab(module: ObjectFile) -> bool:
    return any(s.type == SHT.SYMTAB for s in module.sections)


def _lay_out(
    module: ObjectFile, address: int, elsewhere: _Elsewhere, *, arrays: bool
) -> _Layout:
    loaded: list[tuple[int, Section, int | None]] = []
    cursor = address
    for number, section in enumerate(module.sections):
        if not _is_loaded(section, module.format, arrays=arrays):
            continue
        cursor = _align(module, cursor, number)
        # What lies elsewhere takes its room here all the same.
        loaded.append((number, section, elsewhere.get(section.name, cursor)))
        cursor += section.size
    if not loaded:
        raise module.error("has nothing to load")
    module.check_fit(address, cursor - address)
    return _Layout(loaded, address, cursor)


def _is_loaded(section: Section, fmt: ElfFormat, *, arrays: bool) -> bool:
    types = {int(SHT.PROGBITS), int(SHT.NOBITS)}
    if fmt.machine == EM_X86_64:
        types.add(SHT.X86_64_UNWIND)
    if arrays:
        types |= {SHT.INIT_ARRAY, SHT.FINI_ARRAY}
    return bool(section.size and section.type in types and section.flags & SHF.ALLOC)


def _align(module: ObjectFile, cursor: int, number: int) -> int:
    align = module.sections[number].addralign or 1
    if align & (align - 1):
        raise module.error(f"section {number}: alignment {align} is no power of two")
    return (cursor + align - 1) & -align


def _preloaded_size(module: ObjectFile, layout: _Layout) -> int:
    # The boot loader loads and counts the tables too: symbols, their strings, section
    # names, then the relocations of loaded sections (obj_loadimage).
    sections = module.sections
    symtab = next(i for i, s in enumerate(sections) if s.type == SHT.SYMTAB)
    tables = [symtab, sections[symtab].link, module.shstrndx]
    tables += [
        i
        for i, s in enumerate(sections)
        if s.type in (SHT.RELA, SHT.REL)
        and s.info < len(sections)
        and sections[s.info].flags & SHF.ALLOC
    ]
    cursor = layout.end
    for number in tables:
        cursor = _align(module, cursor, number) + sections[number].size
    return cursor - layout.start


def _fix_link_sets(
    symtab: _Array, places: _Array, module: ObjectFile, layout: _Layout
) -> None:
    # Undefined __start_X and __stop_X become the bounds of section X; their st_shndx
    # becomes X's number among the loaded sections (link_elf_fix_link_set).
    first: dict[str, tuple[int, Section, int | None]] = {}
    for index, (_number, section, where) in enumerate(layout.loaded):
        first.setdefault(section.name, (index, section, where))
    undefined = np.flatnonzero(symtab["st_shndx"][1:] == SHN.UNDEF) + 1
    undefined = undefined[np.argsort(symtab["st_name"][undefined], kind="stable")]
    names = symtab["st_name"][undefined]
    for offset, is_start, name in _link_set_names(module.strtab):
        if name not in first:
            continue
        index, section, where = first[name]
        if where is None:
            continue
        left, right = np.searchsorted(names, [offset, offset + 1])
        symbols = undefined[left:right]
        value = where if is_start else where + section.size
        symtab["st_value"][symbols] = value % (1 << module.format.bits)
        symtab["st_shndx"][symbols] = index
        places[symbols] = section.image_section


def _link_set_names(strtab: bytes) -> Iterator[tuple[int, bool, str]]:
    for prefix in (b"__start_", b"__stop_"):
        at = strtab.find(prefix)
        while at >= 0:
            start = at + len(prefix)
            # Section names of link sets are C identifiers: none is longer than this.
            end = strtab.find(b"\0", start, start + 256)
            if end >= 0:
                name = strtab[start:end].decode(errors="backslashreplace")
                yield at, prefix == b"__start_", name
            at = strtab.find(prefix, at + 1)


def _shared(module: ObjectFile, address: int, size: int | None) -> LinkerFile:
    # The symbols move by the address itself: a module is linked at 0.
    start, end = _bounds(module)
    sizes = [-(-end // page) * page - start // page * page for page in _PAGES]
    module.check_fit(address, sizes[0])
    # The boot loader counts the tables that it loads, too: a stripped file has none.
    preloaded = end - start
    if _has_symtab(module):
        preloaded += module.symtab.nbytes + len(module.strtab)
    if size is not None and size not in sizes and size < preloaded:
        raise module.error(
            f"takes {sizes[0]:#x} bytes when loaded, not {size:#x}: "
            "it is not the file that was loaded"
        )
    symtab = module.symtab.copy()
    _move(symtab["st_value"], address, module.format)
    return LinkerFile(
        module.path.name,
        address,
        sizes[0] if size is None else size,
        symtab,
        module.strtab,
        module.image_sections(),
    )


def _move(values: _Array, distance: int, fmt: ElfFormat) -> None:
    values += values.dtype.type(distance % (1 << fmt.bits))


def _bounds(file: ObjectFile) -> tuple[int, int]:
    # Where the file's memory begins and ends, as it is linked.
    parts = [(s.vaddr, s.memsz) for s in file.segments]
    if not parts:
        parts = [(s.addr, s.size) for s in file.sections if s.flags & SHF.ALLOC]
    if not parts:
        raise file.error("has nothing to load")
    start = min(address for address, _ in parts) // PAGE * PAGE
    end = max(address + size for address, size in parts)
    return start, end
