"""BTF as include/uapi/linux/btf.h defines it, and what becomes of everything else."""

from __future__ import annotations

import contextlib
import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms import BtfError, TypeNotFoundError
from ksyms.bpf.elf import read_elf
from ksyms.btf import Btf
from ksyms.btf_types import (
    EXTERN,
    GLOBAL,
    STATIC,
    Array,
    Encoding,
    Enumerator,
    Kind,
    Member,
    Param,
    SectionVariable,
    Type,
)
from tests.ksyms import bpf_cases
from tests.ksyms.btf_writer import BtfWriter

ORDERS = pytest.mark.parametrize("order", ["<", ">"])


@ORDERS
def test_every_kind_is_decoded_in_either_byte_order(order: str) -> None:
    writer = BtfWriter(order)
    integer = writer.integer()
    pointer = writer.pointer(integer)
    array = writer.array(integer, 7, integer)
    struct_ = writer.composite("s", 16, ("a", integer, 0), ("b", pointer, 64))
    union = writer.composite("u", 4, ("x", integer, 0), kind=Kind.UNION)
    enum = writer.add(
        Kind.ENUM,
        "e",
        kflag=True,
        vlen=2,
        value=4,
        words=[0, -1, writer.string("B"), 3],
    )
    fwd = writer.add(Kind.FWD, "later", kflag=True)
    typedef = writer.add(Kind.TYPEDEF, "t", value=integer)
    volatile = writer.add(Kind.VOLATILE, value=typedef)
    const = writer.add(Kind.CONST, value=volatile)
    restrict = writer.add(Kind.RESTRICT, value=const)
    proto = writer.proto(integer, ("first", pointer), ("", 0))
    func = writer.func("f", proto, EXTERN)
    var = writer.var("v", integer, GLOBAL)
    datasec = writer.datasec(".data", 8, (var, 4, 4))
    real = writer.add(Kind.FLOAT, "double", value=8)
    decl = writer.add(Kind.DECL_TAG, "note", value=struct_, words=[-1])
    param = writer.add(Kind.DECL_TAG, "note", value=func, words=[1])
    tag = writer.add(Kind.TYPE_TAG, "kptr", value=struct_)
    wide = writer.add(
        Kind.ENUM64, "w", kflag=True, vlen=2, value=8, words=[0, -2, -1, 0, 1, 2]
    )
    btf = Btf.from_bytes(writer.to_bytes())

    assert btf.byteorder == ("little" if order == "<" else "big")
    assert len(btf) == wide
    assert btf[0] == Type(0, Kind.VOID, "", False, 0, 0, 0)
    assert btf[integer] == Type(integer, Kind.INT, "int", False, 0, 4, 0)
    assert btf.encoding(btf[integer]) == Encoding(32, 0, True, False, False)
    assert btf[pointer].type_id == integer
    assert btf.array(btf[array]) == Array(integer, integer, 7)
    assert btf.members(btf[struct_]) == (
        Member("a", integer, 0, 0),
        Member("b", pointer, 64, 0),
    )
    assert btf.members(btf[union]) == (Member("x", integer, 0, 0),)
    assert btf.enumerators(btf[enum]) == (Enumerator("", -1), Enumerator("B", 3))
    assert btf[fwd] == Type(fwd, Kind.FWD, "later", True, 0, 0, 0)
    assert [btf[i].kind for i in (typedef, volatile, const, restrict)] == [
        Kind.TYPEDEF,
        Kind.VOLATILE,
        Kind.CONST,
        Kind.RESTRICT,
    ]
    assert btf.skip_modifiers(restrict) == btf[integer]
    assert btf[proto].type_id == integer
    assert btf.params(btf[proto]) == (Param("first", pointer), Param("", 0))
    assert btf.linkage(btf[func]) == EXTERN
    assert btf[func].type_id == proto
    assert btf.linkage(btf[var]) == GLOBAL
    assert btf.variables(btf[datasec]) == (SectionVariable(var, 4, 4),)
    assert btf[real] == Type(real, Kind.FLOAT, "double", False, 0, 8, 0)
    assert btf.component(btf[decl]) == -1
    assert btf.component(btf[param]) == 1
    assert btf[tag] == Type(tag, Kind.TYPE_TAG, "kptr", False, 0, 0, struct_)
    assert btf.enumerators(btf[wide]) == (
        Enumerator("", -2),
        Enumerator("", 2 << 32 | 1),
    )


def test_without_kflag_enumerators_are_unsigned() -> None:
    writer = BtfWriter()
    enum = writer.add(Kind.ENUM, "e", vlen=1, value=4, words=[0, 0xFFFFFFFF])
    wide = writer.add(Kind.ENUM64, "w", vlen=1, value=8, words=[0, 1, 0x80000000])
    btf = Btf.from_bytes(writer.to_bytes())

    assert btf.enumerators(btf[enum]) == (Enumerator("", 0xFFFFFFFF),)
    assert btf.enumerators(btf[wide]) == (Enumerator("", 1 << 63 | 1),)


def test_with_kflag_a_member_offset_carries_the_size_of_its_bit_field() -> None:
    writer = BtfWriter()
    integer = writer.integer()
    bits = writer.composite(
        "bits", 4, ("a", integer, 3 << 24 | 0), ("b", integer, 5 << 24 | 3), kflag=True
    )
    btf = Btf.from_bytes(writer.to_bytes())

    assert btf.members(btf[bits]) == (
        Member("a", integer, 0, 3),
        Member("b", integer, 3, 5),
    )


def test_a_struct_of_more_than_65535_members_is_read_as_linux_7_writes_it() -> None:
    writer = BtfWriter()
    integer = writer.integer()
    words = [0, integer, 0] * 0x10001
    wide = writer.add(Kind.STRUCT, "s", vlen=0x10001, value=4, words=words)
    after = writer.pointer(wide)
    btf = Btf.from_bytes(writer.to_bytes())

    assert len(btf.members(btf[wide])) == 0x10001
    assert btf[after].type_id == wide


@ORDERS
def test_the_layout_section_lets_an_unknown_kind_be_passed_over(order: str) -> None:
    writer = BtfWriter(order)
    integer = writer.integer()
    writer.add(20, "new", vlen=2, words=[1, 2, 3, 4, 5])
    after = writer.pointer(integer)
    known = [(0, 0)] * 20
    btf = Btf.from_bytes(writer.to_bytes(layout=[*known, (4, 8)]))

    assert [type.kind for type in btf] == [Kind.INT, Kind.OTHER, Kind.PTR]
    assert btf[after].type_id == integer


def test_without_a_layout_an_unknown_kind_is_an_error_that_names_it() -> None:
    writer = BtfWriter()
    writer.integer()
    writer.add(20, "new")

    with pytest.raises(
        BtfError, match=r"offset 0x28: type \[2\]: kind 20 is not known"
    ):
        Btf.from_bytes(writer.to_bytes())


@ORDERS
def test_split_btf_continues_the_ids_and_strings_of_its_base(order: str) -> None:
    below = BtfWriter(order)
    integer = below.integer()
    shared = below.composite("shared", 4, ("x", integer, 0))
    base = Btf.from_bytes(below.to_bytes(), name="vmlinux")
    above = BtfWriter(order, first_id=base.end_id, start=len(below.strings))
    own = above.composite("own", 8, ("y", shared, 0))
    # A split BTF's names may lie in the base's strings.
    above.types += struct.pack(order + "3I", below.strings.index(b"int"), 8 << 24, own)
    btf = Btf.from_bytes(above.to_bytes(), base=base, name="module")

    assert own == base.end_id
    assert btf[integer].name == "int"
    assert btf.members(btf[shared]) == base.members(base[shared])
    assert btf.members(btf[own]) == (Member("y", shared, 0, 0),)
    assert btf[own + 1].name == "int"
    assert list(btf) == [btf[own], btf[own + 1]]
    assert btf.lookup_all("int") == (base[integer], btf[own + 1])
    assert btf.lookup_all("int", own=True) == (btf[own + 1],)
    assert btf.lookup("shared", Kind.STRUCT) == base[shared]
    with pytest.raises(TypeNotFoundError, match="struct 'own' not found in the BTF of"):
        base.lookup("own", Kind.STRUCT)


def test_lookup_gives_the_first_of_exactly_that_kind() -> None:
    writer = BtfWriter()
    integer = writer.integer("x")
    first = writer.composite("x", 4)
    second = writer.composite("x", 8)
    btf = Btf.from_bytes(writer.to_bytes())

    assert btf.lookup("x", Kind.STRUCT).id == first
    assert [type.id for type in btf.lookup_all("x")] == [integer, first, second]
    assert btf.lookup_all("") == ()


def test_lookup_finds_a_name_in_the_tail_of_another_and_in_a_repeated_string() -> None:
    writer = BtfWriter()
    integer = writer.integer("a_name")
    writer.strings += b"name\0"
    start = writer.string("a_name")
    for offset in (start + 2, start + 7):
        writer.types += struct.pack("<3I", offset, Kind.TYPEDEF << 24, integer)
    btf = Btf.from_bytes(writer.to_bytes())

    assert [type.id for type in btf.lookup_all("name")] == [2, 3]


@ORDERS
def test_lookup_finds_the_same_types_however_often_it_is_asked(order: str) -> None:
    # Of many types the first names are searched for, the others found in an index.
    writer = BtfWriter(order)
    writer.integer()
    strings = bytearray(writer.strings)
    starts = []
    for number in range(20_000):
        if number % 50 == 0:
            # Offsets whose lowest byte is 0, too.
            strings += b"\0" * (-len(strings) % 256)
        starts.append(len(strings))
        strings += b"name_%d\0" % (number % 15_000)
    # Tails of another name, and what is no name.
    starts += [starts[7], starts[7] + 4, starts[7] + 5, 1 << 30]
    writer.strings = bytes(strings)
    writer.types += b"".join(
        struct.pack(order + "3I", start, Kind.TYPEDEF << 24, 1) for start in starts
    )
    btf = Btf.from_bytes(writer.to_bytes())
    expected = {
        **{f"name_{n}": [n + 2, n + 15_002] for n in range(5, 5_000, 250)},
        **{f"name_{n}": [n + 2] for n in range(5_000, 15_000, 500)},
        **{"name_7": [9, 15_009, 20_002], "_7": [20_003], "7": [20_004]},
        **{"": [], "name_": [], "name_15000": [], "name_7\0name_8": [], "\ud800": []},
    }

    for _ in range(2):
        for name, ids in expected.items():
            assert [type.id for type in btf.lookup_all(name)] == ids


def test_size_of_counts_as_libbpf_resolves_sizes() -> None:
    writer = BtfWriter()
    integer = writer.integer()
    pointer = writer.pointer(0)
    inner = writer.array(pointer, 3)
    array = writer.array(inner, 5)
    const = writer.add(Kind.CONST, value=array)
    proto = writer.proto(integer)
    btf = Btf.from_bytes(writer.to_bytes())

    assert btf.size_of(const) == 120
    assert btf.size_of(const, pointer_size=4) == 60
    assert btf.size_of(proto) is None
    assert btf.size_of(0) is None


def test_elements_are_asked_of_the_kind_that_has_them() -> None:
    writer = BtfWriter()
    integer = writer.integer()
    btf = Btf.from_bytes(writer.to_bytes())

    with pytest.raises(ValueError, match=r"type \[1\] is int, not struct or union"):
        btf.members(btf[integer])


def test_modifiers_in_a_circle_are_an_error() -> None:
    writer = BtfWriter()
    writer.add(Kind.CONST, value=2)
    writer.add(Kind.VOLATILE, value=1)
    btf = Btf.from_bytes(writer.to_bytes())

    with pytest.raises(BtfError, match="circle"):
        btf.skip_modifiers(1)
    assert btf.size_of(1) is None


def good() -> bytearray:
    writer = BtfWriter()
    integer = writer.integer()
    writer.composite("s", 4, ("a", integer, 0))
    return bytearray(writer.to_bytes())


def changed(offset: int, fmt: str, value: int) -> bytes:
    data = good()
    struct.pack_into(fmt, data, offset, value)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"", 0, "ends inside the header"),
        (good()[:20], 20, "ends inside the header"),
        (changed(0, "<H", 0x1234), 0, "magic is 3412"),
        (changed(2, "<B", 2), 2, "version 2"),
        (changed(3, "<B", 1), 3, "flags 0x1"),
        (changed(4, "<I", 8), 4, "a header of 8 bytes"),
        (changed(4, "<I", 1 << 31), 4, "a header of"),
        (changed(8, "<I", 2), 8, "not aligned"),
        (changed(12, "<I", 0xFFFFFFFC), 12, "runs past its end or into the strings"),
        (changed(12, "<I", 15), 12, "ends inside a word"),
        (changed(20, "<I", 0x1000), 20, "the string section runs past the end"),
        (changed(20, "<I", 0), 64, "do not end with NUL"),
        (good()[:-1] + b"x", 64, "do not end with NUL"),
        (changed(64, "<B", 65), 64, "do not begin with NUL"),
        (changed(12, "<I", 12), 24, "[1]: runs past the end of the type section"),
        (changed(44, "<I", Kind.STRUCT << 24 | 2), 40, "[2]: runs past the end"),
        (changed(28, "<I", 99 << 24), 24, "[1]: kind 99 is not known"),
        (changed(28, "<I", 0), 24, "[1]: kind 0 is not known"),
    ],
)
def test_malformed_btf_is_an_error_with_offset_and_reason(
    data: bytes, offset: int, reason: str
) -> None:
    with pytest.raises(BtfError) as caught:
        Btf.from_bytes(data, name="bad.btf")

    assert (caught.value.offset, caught.value.name) == (offset, "bad.btf")
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (changed(40, "<I", 1 << 20), "name offset 0x100000 is outside the strings"),
        (changed(52, "<I", 1 << 20), "name offset 0x100000 is outside the strings"),
        (changed(56, "<I", 77), "type [2] refers to [77]"),
    ],
)
def test_validate_follows_names_and_references(data: bytes, reason: str) -> None:
    with pytest.raises(BtfError) as caught:
        Btf.from_bytes(data).validate()

    assert (caught.value.offset, caught.value.reason[: len(reason)]) == (40, reason)


def test_validate_wants_a_function_to_have_a_prototype() -> None:
    writer = BtfWriter()
    number = writer.add(Kind.INT, "int", value=4, words=[32])
    writer.add(Kind.FUNC, "f", value=number)
    btf = Btf.from_bytes(writer.to_bytes())

    with pytest.raises(
        BtfError, match=r"\[2\] is of type \[1\], which is no func_proto"
    ):
        btf.validate()


def exercise(btf: Btf) -> None:
    for type in btf:
        btf.size_of(type.id)
        btf.skip_modifiers(type.id)
        btf.lookup_all(type.name)
    btf.validate()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.data())
def test_mutated_btf_gives_answers_or_a_btf_error(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["s29_many.o", "k09e_nested_deep8.o"]))
    section = bytearray(object_btf(name))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(section) - 1))
        section[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(section), len(section) // 2, 30]))

    with contextlib.suppress(BtfError):
        exercise(Btf.from_bytes(bytes(section[:cut])))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_answers_or_a_btf_error(body: bytes) -> None:
    header = struct.pack("<HBBI4I", 0xEB9F, 1, 0, 24, 0, len(body) & ~3, len(body), 0)
    for data in (body, header + body, header[:20] + b"\1\0\0\0" + body + b"\0"):
        with contextlib.suppress(BtfError):
            exercise(Btf.from_bytes(data))


def object_btf(name: str) -> bytes:
    section = read_elf(bpf_cases.object_bytes(name), name).section(".BTF")
    assert section is not None
    return section.data


def test_the_btf_of_a_whole_kernel_is_decoded() -> None:
    btf = bpf_cases.vmlinux()

    assert len(btf) == 126585
    assert btf.linkage(btf.lookup("schedule", Kind.FUNC)) == STATIC
    task = btf.lookup("task_struct", Kind.STRUCT)
    assert "pid" in {member.name for member in btf.members(task)}
    assert len(btf.ids(Kind.FUNC)) == 56265


def as_bpftool(btf: Btf, type: Type) -> dict[str, Any]:
    """A type in the JSON of `bpftool btf dump`."""
    kinds: dict[Kind, Callable[[], dict[str, Any]]] = {
        Kind.FWD: lambda: {"fwd_kind": "union" if type.kflag else "struct"},
        Kind.ENUM: lambda: {
            "size": type.size,
            "values": [
                {"name": n or "(anon)", "val": v} for n, v in btf.enumerators(type)
            ],
        },
        Kind.STRUCT: lambda: {
            "size": type.size,
            "members": [
                {
                    "name": m.name or "(anon)",
                    "type_id": m.type_id,
                    "bits_offset": m.bit_offset,
                    **(
                        {"bitfield_size": m.bit_size}
                        if type.kflag and m.bit_size
                        else {}
                    ),
                }
                for m in btf.members(type)
            ],
        },
        Kind.ARRAY: lambda: dict(
            zip(("type_id", "index_type_id", "nr_elems"), btf.array(type), strict=True)
        ),
        Kind.FUNC_PROTO: lambda: {
            "ret_type_id": type.type_id,
            "params": [
                {"name": p.name or "(anon)", "type_id": p.type_id}
                for p in btf.params(type)
            ],
        },
        Kind.VAR: lambda: {
            "type_id": type.type_id,
            "linkage": ("static", "global", "extern")[btf.linkage(type)],
        },
        Kind.FUNC: lambda: {
            "type_id": type.type_id,
            "linkage": ("static", "global", "extern")[btf.linkage(type)],
        },
        Kind.DATASEC: lambda: {
            "size": type.size,
            "vars": [
                {"type_id": v.type_id, "offset": v.offset, "size": v.size}
                for v in btf.variables(type)
            ],
        },
        Kind.INT: lambda: {
            "size": type.size,
            "bits_offset": btf.encoding(type).bit_offset,
            "nr_bits": btf.encoding(type).bits,
        },
        Kind.FLOAT: lambda: {"size": type.size},
        Kind.DECL_TAG: lambda: {
            "type_id": type.type_id,
            "component_idx": btf.component(type),
        },
    }
    kinds[Kind.UNION], kinds[Kind.ENUM64] = kinds[Kind.STRUCT], kinds[Kind.ENUM]
    return {
        "id": type.id,
        "kind": type.kind.name,
        "name": type.name or "(anon)",
        **kinds.get(type.kind, lambda: {"type_id": type.type_id})(),
    }


@pytest.mark.bpf
def test_bpftool_reads_the_same_types_out_of_the_btf_of_a_kernel(
    tmp_path: Path,
) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(bpf_cases.table("vmlinux.btf"))
    dump = subprocess.run(
        ["/usr/sbin/bpftool", "-j", "btf", "dump", "file", path],
        check=True,
        capture_output=True,
    ).stdout
    btf = bpf_cases.vmlinux()

    for theirs, type in zip(json.loads(dump)["types"], btf, strict=True):
        ours = as_bpftool(btf, type)
        if type.kind is Kind.ENUM:  # bpftool widens even unsigned ones as signed.
            for value in theirs["values"]:
                value["val"] &= 0xFFFFFFFF
            for value in ours["values"]:
                value["val"] &= 0xFFFFFFFF
        if type.kind is Kind.DATASEC:  # bpftool repeats more of each variable.
            theirs["vars"] = [
                {key: v[key] for key in ("type_id", "offset", "size")}
                for v in theirs["vars"]
            ]
        assert {key: theirs.get(key) for key in ours} == ours
