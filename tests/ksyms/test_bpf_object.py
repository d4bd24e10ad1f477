"""A BPF object as libbpf sees it at open: externs, their uses, maps."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms import BpfObjectError, KsymsError
from ksyms.bpf.externs import Extern, Failure, essential_name
from ksyms.bpf.maps import BPF_F_MMAPABLE, BPF_F_RDONLY_PROG, BpfMap
from ksyms.bpf.object import BpfObject
from ksyms.btf_types import Kind, SectionVariable
from tests.ksyms import bpf_cases


def load(name: str) -> BpfObject:
    return BpfObject.from_bytes(bpf_cases.object_bytes(name), name=name)


def load_extra(name: str) -> BpfObject:
    return BpfObject.from_bytes(bpf_cases.archive()[f"extra/{name}"], name=name)


@pytest.mark.parametrize("name", bpf_cases.object_names())
def test_every_recorded_object_is_read(name: str) -> None:
    found = load(name)

    assert found.btf is not None
    assert found.compiler == "clang version 19.1.7"
    assert {use.extern for use in found.uses} <= {e.name for e in found.externs}


def test_externs_are_typeless_typed_or_functions_sorted_by_name() -> None:
    found = load("s29_many.o")

    assert [(e.name, e.kind, e.is_weak) for e in found.externs] == [
        ("_etext", "typeless", False),
        ("_stext", "typeless", False),
        ("bpf_task_acquire", "func", False),
        ("bpf_task_release", "func", False),
        ("kfree", "typeless", False),
        ("schedule", "typeless", False),
        ("schedule_timeout", "typeless", False),
        ("synchronize_rcu", "typeless", False),
        ("vprintk", "typeless", False),
    ]


def test_a_typed_variable_has_the_type_without_modifiers() -> None:
    found = load("s06_typed_percpu_struct.o")
    (extern,) = found.externs

    assert found.btf is not None
    assert (extern.kind, extern.is_weak) == ("var", False)
    assert found.btf[extern.btf_id].name == "runqueues"
    assert found.btf[extern.type_id].kind is Kind.STRUCT


@pytest.mark.parametrize(
    "name", ["s01_typeless_func.o", "s01c_typeless_typedef_void.o"]
)
def test_const_void_and_a_typedef_of_void_are_typeless(name: str) -> None:
    assert [(e.kind, e.type_id) for e in load(name).externs] == [("typeless", 0)]


def test_weak_binding_makes_an_extern_weak() -> None:
    assert [e.is_weak for e in load("s03_typeless_missing_weak.o").externs] == [True]


def test_kconfig_externs_come_first_and_are_recognised() -> None:
    found = load("s27_kconfig_and_ksym.o")

    assert [(e.name, e.kind) for e in found.externs] == [
        ("CONFIG_BPF_SYSCALL", "kconfig"),
        ("LINUX_KERNEL_VERSION", "kconfig"),
        ("_stext", "typeless"),
        ("schedule", "typeless"),
    ]


def test_a_kconfig_extern_is_a_bool_an_integer_a_tristate_or_a_string() -> None:
    found = load_extra("kconfig.o")

    assert {e.name for e in found.externs} == {
        "CONFIG_BOOL",
        "CONFIG_LONG",
        "CONFIG_STRING",
        "CONFIG_TRISTATE",
    }
    assert set(found.failures) == {
        Failure(
            "-EINVAL", "failed to resolve size of extern (kcfg) 'CONFIG_VOID': -22"
        ),
        *(
            Failure("-ENOTSUP", f"extern (kcfg) '{name}': type is unsupported")
            for name in ("CONFIG_STRUCT", "CONFIG_ENUM", "CONFIG_INTS", "CONFIG_WIDE")
        ),
    }


@pytest.mark.parametrize(
    ("name", "essential"),
    [
        ("plain", "plain"),
        ("f___v2", "f"),
        ("f___v2___v3", "f___v2"),
        ("f____v2", "f____v2"),
        ("f___", "f___"),
        ("___v2", "___v2"),
        ("f_____x", "f_____x"),
        ("a___b_", "a"),
        ("", ""),
    ],
)
def test_the_essential_name_ends_before_the_last_flavour(
    name: str, essential: str
) -> None:
    assert essential_name(name) == essential


def test_only_functions_lose_their_flavour() -> None:
    assert Extern("f___v2", "func", False, 1, 1, 1).essential_name == "f"
    assert Extern("v___v2", "var", False, 1, 1, 1).essential_name == "v___v2"


def test_uses_are_the_instructions_of_the_relocations() -> None:
    found = load("s28_subprog_uses.o")

    assert [u[:3] for u in found.uses] == [
        (".text", 24, "bpf_task_acquire"),
        (".text", 48, "bpf_task_release"),
        (".text", 88, "schedule"),
        ("tp_btf/sys_exit", 16, "schedule"),
    ]
    assert {len(u.instruction) for u in found.uses if u.extern == "schedule"} == {16}
    assert found.uses[0].instruction.hex() == "85100000ffffffff"


def test_an_extern_outside_ksyms_is_what_libbpf_would_not_open() -> None:
    found = load("s19b_extern_without_section_func.o")

    assert found.externs == ()
    assert found.failures == (
        Failure(
            "-ENOENT", "failed to find BTF for extern 'plain_extern' [6] section: -2"
        ),
    )


def test_all_externs_that_libbpf_refuses_are_reported_in_symbol_order() -> None:
    found = load_extra("bad_externs.o")

    assert found.failures == (
        Failure(
            "-ENOTSUP", "extern function kfunc is unsupported under .kconfig section"
        ),
        Failure("-ENOTSUP", "unrecognized extern section '.elsewhere'"),
        Failure("-ENOENT", "failed to find BTF for extern 'plain' [12] section: -2"),
    )
    assert [e.name for e in found.externs] == ["schedule"]


def test_declared_maps_have_their_numbers_and_types() -> None:
    found = load("k49_two_maps.o")
    assert found.btf is not None

    assert [
        (m.name, m.type, m.key_size, m.value_size, m.max_entries) for m in found.maps
    ] == [("m", 2, 4, 8, 1), ("m2", 1, 4, 24, 1), ("m3", 2, 4, 8, 1)]
    assert found.btf[found.maps[1].value_type_id].name == "w"
    assert found.btf[found.maps[1].key_type_id].name == "int"


def test_map_flags_are_read() -> None:
    assert [m.map_flags for m in load("k26b_wronly_prog.o").maps] == [1 << 8]
    assert [m.map_flags for m in load("k26d_no_prealloc_hash.o").maps] == [1]


def test_a_map_of_maps_has_the_inner_map() -> None:
    inner, outer = load_extra("map_of_maps.o").maps

    assert (outer.type, outer.value_size, outer.map_flags) == (12, 4, 1 << 7)
    assert outer.inner is not None
    assert outer.inner._replace(name="in") == inner


def test_legacy_maps_are_read_with_the_types_of_their_annotation() -> None:
    found = load_extra("legacy_map.o")
    assert found.btf is not None
    other, old, *_ = found.maps

    assert other == BpfMap("other", "maps", 2, 4, 8, 7, 0, 0, 0)
    assert old[:7] == ("old", "maps", 1, 4, 16, 9, 1)
    assert found.btf[old.value_type_id].name == "v"


def test_global_data_becomes_a_map_a_section_with_every_variable_placed() -> None:
    found = load_extra("data_sections.o")
    btf = found.btf
    assert btf is not None

    def named(variables: tuple[SectionVariable, ...]) -> list[tuple[str, int]]:
        return [(btf[v.type_id].name, v.offset) for v in variables]

    maps = {m.name: m for m in found.maps}
    assert list(maps) == [".data", ".data.aside", ".rodata", ".rodata.quiet", ".bss"]
    assert named(maps[".data"].variables) == [
        ("first", 0),
        ("second", 4),
        ("hidden", 8),
    ]
    assert named(maps[".bss"].variables) == [("zero", 0), ("nothing", 8)]
    assert {name: (m.type, m.key_size, m.value_size) for name, m in maps.items()} == {
        ".data": (2, 4, 12),
        ".data.aside": (2, 4, 8),
        ".rodata": (2, 4, 8),
        ".rodata.quiet": (2, 4, 8),
        ".bss": (2, 4, 16),
    }
    assert {name: m.map_flags for name, m in maps.items()} == {
        ".data": BPF_F_MMAPABLE,
        ".data.aside": BPF_F_MMAPABLE,
        ".rodata": BPF_F_RDONLY_PROG | BPF_F_MMAPABLE,
        ".rodata.quiet": BPF_F_RDONLY_PROG,  # static variables alone
        ".bss": BPF_F_MMAPABLE,
    }
    for data_map in maps.values():
        assert btf[data_map.value_type_id].name == data_map.name


@pytest.mark.parametrize(
    "path", sorted(p for p in bpf_cases.archive() if p.startswith("objects-eb/"))
)
def test_a_big_endian_object_is_read_as_its_little_endian_twin(path: str) -> None:
    big = BpfObject.from_bytes(bpf_cases.archive()[path])
    little = load(path.removeprefix("objects-eb/"))
    assert big.btf is not None
    assert little.btf is not None

    assert (big.byteorder, little.byteorder) == ("big", "little")
    assert list(big.btf) == list(little.btf)
    assert [e[:5] for e in big.externs] == [e[:5] for e in little.externs]
    assert [u[:3] for u in big.uses] == [u[:3] for u in little.uses]
    assert big.maps == little.maps


def test_a_statically_linked_object_is_read_as_any_other() -> None:
    found = load_extra("linked.o")  # by bpftool gen object
    assert found.btf is not None

    # The strong declaration of runqueues wins over the weak one.
    assert [(e.name, e.kind, e.is_weak) for e in found.externs] == [
        ("bpf_task_release", "func", False),
        ("nowhere", "typeless", True),
        ("runqueues", "var", False),
        ("schedule", "typeless", False),
    ]
    assert [m.name for m in found.maps] == ["ma", "mb", ".bss", ".data"]
    static = found.maps[3].variables
    assert [(found.btf[v.type_id].name, v.offset) for v in static] == [
        ("inner", 0),
        ("inner", 8),
    ]


GOOD = bpf_cases.object_bytes("s12_func_ok.o")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a whole ELF file"),
        (b"\x7fELF", "not a whole ELF file"),
        (b"#include", "not a whole ELF file"),
        (GOOD[:1000], "not a whole ELF file|runs past the end"),
        (GOOD[:4] + b"\1" + GOOD[5:], "not a whole ELF file|64-bit"),
        (GOOD[:16] + b"\2" + GOOD[17:], "ET_EXEC for EM_BPF, not ET_REL"),
        (GOOD[:18] + b"\x3e\0" + GOOD[20:], "ET_REL for EM_X86_64, not ET_REL"),
    ],
)
def test_what_is_no_bpf_object_is_refused_with_the_reason(
    data: bytes, reason: str
) -> None:
    with pytest.raises(BpfObjectError, match=reason):
        BpfObject.from_bytes(data, name="x.o")


def test_an_object_without_btf_has_no_type_for_its_externs() -> None:
    found = BpfObject.from_bytes(GOOD.replace(b".BTF\0", b".XTF\0"))

    assert found.failures[0] == Failure(
        "-ESRCH", "failed to find BTF for extern 'bpf_task_acquire': -3"
    )


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_a_mutated_object_gives_answers_or_our_errors(data: st.DataObject) -> None:
    paths = ["objects/s27_kconfig_and_ksym.o", "objects/k49_two_maps.o"]
    path = data.draw(st.sampled_from([*paths, "extra/legacy_map.o"]))
    content = bytearray(bpf_cases.archive()[path])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(
            st.one_of(
                st.integers(0, 63),
                st.integers(0, len(content) - 1),
                st.integers(len(content) - 2000, len(content) - 1),
            )
        )
        content[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(content), len(content) // 2, 100]))

    with contextlib.suppress(KsymsError):
        BpfObject.from_bytes(bytes(content[:cut]))
