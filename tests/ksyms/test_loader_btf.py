"""The BTF that libbpf loads for an object; byte for byte in test_kptrs_live."""

from __future__ import annotations

import struct
from io import BytesIO

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ksyms.bpf.btf_load import btf_load
from ksyms.bpf.kernel_rules import RULES_6_18
from ksyms.bpf.object import BpfObject
from ksyms.bpf.targets import AnyTypes
from ksyms.btf import Btf
from ksyms.btf_types import GLOBAL, Kind, Type
from tests.ksyms import bpf_cases


def objects(name: str) -> tuple[Btf, Btf]:
    """The BTF of a recorded object: as the compiler wrote it, and as it is loaded."""
    obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
    assert obj.btf is not None
    assert obj.loader_btf is not None
    return obj.btf, Btf.from_bytes(obj.loader_btf)


def section(btf: Btf, name: str) -> Type:
    return btf.lookup(name, Kind.DATASEC)


def test_ksyms_become_ints_and_functions_get_names() -> None:
    before, after = objects("s28_subprog_uses.o")
    ksyms = section(after, ".ksyms")
    variables = after.variables(ksyms)

    assert ksyms.size == 4 * len(variables)
    assert [(v.offset, v.size) for v in variables] == [
        (4 * number, 4) for number in range(len(variables))
    ]
    dummy = after[before.end_id]
    assert (dummy.name, dummy.kind) == ("dummy_ksym", Kind.VAR)
    assert len(after) == len(before) + 1
    for variable, original in zip(
        variables, before.variables(section(before, ".ksyms")), strict=True
    ):
        was = before[original.type_id]
        assert after.linkage(after[was.id]) == GLOBAL
        if was.kind is Kind.FUNC:
            assert variable.type_id == dummy.id
            params = after.params(after[was.type_id])
            assert {p.name for p in params} <= {"dummy_ksym"}
        else:
            assert variable.type_id == was.id
            assert after[after[was.id].type_id].kind is Kind.INT


def test_kconfig_variables_are_laid_out_by_alignment() -> None:
    _, after = objects("s27_kconfig_and_ksym.o")
    kconfig = section(after, ".kconfig")
    variables = after.variables(kconfig)

    assert kconfig.size == max(v.offset + v.size for v in variables)
    assert [v.offset for v in variables] == sorted(v.offset for v in variables)
    for variable in variables:
        assert after.linkage(after[variable.type_id]) == GLOBAL


def test_sections_get_the_size_and_layout_of_the_elf_file() -> None:
    name = "s29_many.o"
    before, after = objects(name)
    (map,) = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name).maps

    assert section(before, ".bss").size == 0
    assert section(after, ".bss").size == map.value_size
    assert after.variables(section(after, ".bss")) == map.variables
    assert section(after, "license").size == 4


def test_offsets_and_sizes_of_any_width_keep_their_32_bits() -> None:
    data = bytearray(bpf_cases.object_bytes("y07_isra_suffix.o"))
    elf = ELFFile(BytesIO(bytes(data)))
    symtab = elf.get_section_by_name(".symtab")
    assert isinstance(symtab, SymbolTableSection)
    (number,) = (i for i, s in enumerate(symtab.iter_symbols()) if s.name == "out")
    (bss,) = (i for i, s in enumerate(elf.iter_sections()) if s.name == ".bss")
    for at, value in (
        (symtab["sh_offset"] + 24 * number + 8, 16),  # st_value
        (elf["e_shoff"] + 64 * bss + 0x20, 24),  # sh_size
    ):
        struct.pack_into("<Q", data, at, (7 << 32) + value)
    loaded = BpfObject.from_bytes(bytes(data)).loader_btf

    assert loaded is not None
    after = Btf.from_bytes(loaded)
    (variable,) = after.variables(section(after, ".bss"))
    assert (variable.offset, section(after, ".bss").size) == (16, 24)


@pytest.mark.parametrize("name", bpf_cases.object_names())
def test_types_keep_their_ids_and_the_kernel_takes_them(name: str) -> None:
    obj = BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)
    if obj.failures:
        return  # libbpf would not come to load it.
    assert obj.loader_btf is not None
    before, after = objects(name)

    for type in before:
        assert after[type.id].name == type.name
        assert after[type.id].kind is type.kind
    refusal = btf_load(obj.loader_btf, RULES_6_18, AnyTypes())
    assert refusal is None or refusal.result in ("-E2BIG", "-EINVAL")
    assert (refusal is None) == (name not in REFUSED_ALONE)


REFUSED_ALONE = {
    "k09g_nested_deep33.o",
    "k09h_nested_deep32.o",
    "k19e_unknown_tag_only.o",
}


@pytest.mark.parametrize(
    "path", [p for p in bpf_cases.archive() if p.startswith("objects-eb/")]
)
def test_the_byte_order_stays_what_it_is(path: str) -> None:
    obj = BpfObject.from_bytes(bpf_cases.archive()[path], name=path)
    assert obj.loader_btf is not None

    assert obj.loader_btf[:2] == b"\xeb\x9f"
    assert btf_load(obj.loader_btf, RULES_6_18, AnyTypes()) is None
