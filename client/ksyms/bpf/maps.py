"""The maps of a BPF object: the older ones in section maps, and global data.

What libbpf makes of them at open (bpf_object__init_maps), without a kernel; for those
declared in section .maps see ksyms.bpf.declared_maps.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ksyms.bpf.elf import SHF_EXECINSTR, BpfElf, ElfSymbol, Section
from ksyms.btf import Btf
from ksyms.btf_types import EXTERN, STATIC, Kind, SectionVariable, Type
from ksyms.elf import STB_GLOBAL, STB_WEAK, STT_OBJECT, STV_HIDDEN, STV_INTERNAL

LEGACY = "maps"
BPF_MAP_TYPE_ARRAY = 2
BPF_F_RDONLY_PROG, BPF_F_MMAPABLE = 1 << 7, 1 << 10
FIXED = (STATIC, EXTERN)  # linkages that the symbol table has no say in


class BpfMap(NamedTuple):
    """A map as libbpf would create it."""

    name: str
    """The variable's name; the section's (".bss") for global data."""
    section: str
    type: int
    """BPF_MAP_TYPE_* of include/uapi/linux/bpf.h."""
    key_size: int
    """Bytes."""
    value_size: int
    """Bytes; the size of the section for global data."""
    max_entries: int
    map_flags: int
    """BPF_F_* of include/uapi/linux/bpf.h."""
    key_type_id: int
    """Id in the object's BTF, 0 for none."""
    value_type_id: int
    """Id in the object's BTF, 0 for none; a DATASEC for global data."""
    variables: tuple[SectionVariable, ...] = ()
    """Of global data: in offset order, offsets filled in from the symbol table."""
    inner: BpfMap | None = None
    """What a map of maps holds."""


def legacy_maps(elf: BpfElf, btf: Btf | None) -> Iterator[BpfMap]:
    """The maps in section "maps": struct bpf_map_def, as before libbpf 1.0."""
    section = elf.section(LEGACY)
    if section is None:
        return
    symbols = [s for s in elf.symbols if s.shndx == section.shndx and s.name]
    order = "<" if elf.byteorder == "little" else ">"
    for symbol in sorted(symbols, key=lambda symbol: symbol.value):
        definition = section.data[symbol.value : symbol.value + 20]
        if len(definition) == 20:
            type, key, value, entries, flags = struct.unpack(order + "5I", definition)
            types = _legacy_types(btf, symbol.name)
            yield BpfMap(symbol.name, LEGACY, type, key, value, entries, flags, *types)


# BPF_ANNOTATE_KV_PAIR leaves `struct ____btf_map_NAME { key; value; }`.
def _legacy_types(btf: Btf | None, name: str) -> tuple[int, int]:
    found = btf.lookup_all(f"____btf_map_{name}", Kind.STRUCT) if btf else ()
    if not btf or not found or found[0].vlen < 2:
        return 0, 0
    key, value, *_ = btf.members(found[0])
    return key.type_id, value.type_id


def global_data(elf: BpfElf, btf: Btf | None) -> Iterator[BpfMap]:
    """One map for each section of global data; raises BtfError."""
    objects = visible_objects(elf)
    for section in elf.sections:
        family = data_family(section)
        if not family or not section.size:
            continue
        flags = BPF_F_RDONLY_PROG if family == ".rodata" else 0
        variables: tuple[SectionVariable, ...] = ()
        type_id = 0
        for datasec in btf.lookup_all(section.name, Kind.DATASEC)[:1] if btf else ():
            assert btf is not None
            type_id = datasec.id
            variables = tuple(placed_variables(objects, btf, datasec))
            # map_is_mmapable(): somebody outside could want to see a variable.
            listed = (btf[variable.type_id] for variable in variables)
            if not all(is_static(objects, btf, var) for var in listed):
                flags |= BPF_F_MMAPABLE
        yield BpfMap(
            section.name,
            section.name,
            BPF_MAP_TYPE_ARRAY,
            4,
            section.size,
            1,
            flags,
            0,
            type_id,
            variables,
        )


def data_family(section: Section) -> str | None:
    """Which kind of global data is in a section: .data, .rodata, .bss, or none."""
    if section.type == "SHT_PROGBITS" and not section.flags & SHF_EXECINSTR:
        families: tuple[str, ...] = (".data", ".rodata")
    elif section.type == "SHT_NOBITS":
        families = (".bss",)
    else:
        return None
    for family in families:
        if section.name == family or section.name.startswith(family + "."):
            return family
    return None


def visible_objects(elf: BpfElf) -> dict[str, ElfSymbol]:
    """Symbols of the variables that are not static in C; of each name the first."""
    return {
        symbol.name: symbol
        for symbol in reversed(elf.symbols)
        if symbol.type == STT_OBJECT and symbol.binding in (STB_GLOBAL, STB_WEAK)
    }


def placed_variables(
    objects: dict[str, ElfSymbol], btf: Btf, datasec: Type
) -> list[SectionVariable]:
    """The variables of *datasec* in the order of their offsets: btf_fixup_datasec().

    The compiler leaves the offsets of global variables to the symbol table; those of
    static ones are in place, and static linkers have filled in all. Raises BtfError.
    """
    placed = []
    for variable in btf.variables(datasec):
        var = btf[variable.type_id]
        is_left = not datasec.size and var.kind is Kind.VAR
        if is_left and btf.linkage(var) not in FIXED and var.name in objects:
            # libbpf keeps 32 bits of an offset.
            offset = objects[var.name].value & 0xFFFFFFFF
            variable = variable._replace(offset=offset)
        placed.append(variable)
    return sorted(placed, key=lambda variable: variable.offset)


def is_static(objects: dict[str, ElfSymbol], btf: Btf, var: Type) -> bool:
    """Whether libbpf takes a VAR for static: also what is only hidden in ELF."""
    if var.kind is not Kind.VAR:
        return False
    linkage = btf.linkage(var)
    symbol = None if linkage in FIXED else objects.get(var.name)
    hidden = symbol is not None and symbol.visibility in (STV_INTERNAL, STV_HIDDEN)
    return linkage == STATIC or hidden
