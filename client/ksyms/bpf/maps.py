"""The maps of a BPF object: declared in .maps, in the older maps, or as global data.

What libbpf makes of them at open (bpf_object__init_maps), without a kernel.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from ksyms.bpf.elf import SHF_EXECINSTR, BpfElf, Section
from ksyms.btf import Btf
from ksyms.btf_types import STATIC, Kind, SectionVariable, Type
from ksyms.elf import STB_GLOBAL, STB_WEAK, STT_OBJECT
from ksyms.errors import BtfError

BPF_MAP_TYPE_ARRAY = 2
BPF_F_RDONLY_PROG, BPF_F_MMAPABLE = 1 << 7, 1 << 10


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


def find_maps(elf: BpfElf, btf: Btf | None) -> tuple[BpfMap, ...]:
    """All maps, in libbpf's order: declared ones, then global data by section.

    Raises BtfError where a declaration in BTF cannot be followed.
    """
    return (
        *_legacy_maps(elf, btf),
        *(_declared_maps(btf) if btf else ()),
        *_global_data(elf, btf),
    )


def _declared_maps(btf: Btf) -> Iterator[BpfMap]:
    for section in btf.lookup_all(".maps", Kind.DATASEC)[:1]:
        for variable in btf.variables(section):
            var = btf[variable.type_id]
            declaration = btf.skip_modifiers(var.type_id)
            if var.kind is Kind.VAR and declaration.kind is Kind.STRUCT:
                yield _declared_map(btf, var.name, declaration)


# parse_btf_map_def(): every member of the anonymous struct says one thing of the map.
def _declared_map(btf: Btf, name: str, declaration: Type, depth: int = 0) -> BpfMap:
    numbers: dict[str, int] = {}
    types: dict[str, int] = {}
    inner = None
    for member in btf.members(declaration):
        type = btf[member.type_id]
        if member.name in ("key", "value"):
            if type.kind is Kind.PTR:
                types[member.name] = type.type_id
                numbers[f"{member.name}_size"] = btf.size_of(type.type_id) or 0
        elif member.name == "values":
            numbers["value_size"] = 4
            found = _inner_declaration(btf, type)
            if found is not None and depth == 0:
                inner = _declared_map(btf, f"{name}.inner", found, depth + 1)
        else:
            numbers[member.name] = _number(btf, member.type_id)
    return BpfMap(
        name,
        ".maps",
        numbers.get("type", 0),
        numbers.get("key_size", 0),
        numbers.get("value_size", 0),
        numbers.get("max_entries", 0),
        numbers.get("map_flags", 0),
        types.get("key", 0),
        types.get("value", 0),
        inner=inner,
    )


# __uint(name, n) is `int (*name)[n]`, __ulong(name, n) an enum64 of one enumerator.
def _number(btf: Btf, type_id: int) -> int:
    type = btf.skip_modifiers(type_id)
    if type.kind is Kind.PTR:
        target = btf[type.type_id]
        return btf.array(target).nelems if target.kind is Kind.ARRAY else 0
    if type.kind in (Kind.ENUM, Kind.ENUM64):
        return next((value for _, value in btf.enumerators(type)), 0)
    return 0


# __array(values, struct inner) is an array of pointers to the inner declaration.
def _inner_declaration(btf: Btf, type: Type) -> Type | None:
    if type.kind is not Kind.ARRAY:
        return None
    pointer = btf.skip_modifiers(btf.array(type).type_id)
    if pointer.kind is not Kind.PTR:
        return None
    target = btf.skip_modifiers(pointer.type_id)
    return target if target.kind is Kind.STRUCT else None


# `struct bpf_map_def` in section "maps", as before libbpf 1.0.
def _legacy_maps(elf: BpfElf, btf: Btf | None) -> Iterator[BpfMap]:
    section = elf.section("maps")
    if section is None:
        return
    symbols = [s for s in elf.symbols if s.shndx == section.shndx and s.name]
    order = "<" if elf.byteorder == "little" else ">"
    for symbol in sorted(symbols, key=lambda symbol: symbol.value):
        definition = section.data[symbol.value : symbol.value + 20]
        if len(definition) == 20:
            type, key, value, entries, flags = struct.unpack(order + "5I", definition)
            types = _legacy_types(btf, symbol.name)
            yield BpfMap(symbol.name, "maps", type, key, value, entries, flags, *types)


# BPF_ANNOTATE_KV_PAIR leaves `struct ____btf_map_NAME { key; value; }`.
def _legacy_types(btf: Btf | None, name: str) -> tuple[int, int]:
    found = btf.lookup_all(f"____btf_map_{name}", Kind.STRUCT) if btf else ()
    if not btf or not found or found[0].vlen < 2:
        return 0, 0
    key, value, *_ = btf.members(found[0])
    return key.type_id, value.type_id


def _global_data(elf: BpfElf, btf: Btf | None) -> Iterator[BpfMap]:
    for section in elf.sections:
        family = _data_family(section)
        if not family or not section.size:
            continue
        flags = BPF_F_RDONLY_PROG if family == ".rodata" else 0
        variables: tuple[SectionVariable, ...] = ()
        type_id = 0
        for datasec in btf.lookup_all(section.name, Kind.DATASEC)[:1] if btf else ():
            assert btf is not None
            type_id = datasec.id
            variables = tuple(placed_variables(elf, btf, datasec))
            # map_is_mmapable(): somebody outside could want to see a variable.
            if any(_is_visible(btf, variable) for variable in variables):
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


def _data_family(section: Section) -> str | None:
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


def _is_visible(btf: Btf, variable: SectionVariable) -> bool:
    var = btf[variable.type_id]
    return var.kind is Kind.VAR and btf.linkage(var) != STATIC


# btf_fixup_datasec(): the compiler leaves the offsets of global variables to the
# symbol table; those of static ones are in place.
def placed_variables(elf: BpfElf, btf: Btf, datasec: Type) -> list[SectionVariable]:
    # libbpf keeps 32 bits of an offset.
    values = {
        symbol.name: symbol.value & 0xFFFFFFFF
        for symbol in reversed(elf.symbols)
        if symbol.type == STT_OBJECT and symbol.binding in (STB_GLOBAL, STB_WEAK)
    }
    placed = []
    for variable in btf.variables(datasec):
        var = btf[variable.type_id]
        if var.kind is not Kind.VAR:
            raise BtfError(btf.name, 0, f"{datasec.name} lists a {var.kind.word}")
        if btf.linkage(var) != STATIC and var.name in values:
            variable = variable._replace(offset=values[var.name])
        placed.append(variable)
    return sorted(placed, key=lambda variable: variable.offset)
