"""SymbolTable: what the kernel's %pS would say, and never a wrong neighbour."""

from __future__ import annotations

import numpy as np
import pytest

import ksyms
from ksyms import Symbol, SymbolTable
from tests.elf_writer import Sym
from tests.ksyms.images import FORMATS, bare_elf, kernel_image


@pytest.fixture(params=list(FORMATS.values()), ids=list(FORMATS), scope="module")
def table(request: pytest.FixtureRequest) -> SymbolTable:
    return SymbolTable.from_bytes(kernel_image(request.param))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (0x81000000, "_text+0x0/0x10"),
        (0x8100000F, "_text+0xf/0x10"),
        (0x81000041, "vfs_read+0x1/0xc0"),
        (0x810001FF, "static_one+0x7f/0x80"),
        (0x81001FFF, "counter+0xff7/0xff8"),
        (0x80002040, "new_end+0x0/0xfc0 [new]"),
        (0x80001000, "old_probe+0x0/0x80 [old]"),
    ],
)
def test_an_address_is_named_as_the_kernel_does(
    table: SymbolTable, address: int, text: str
) -> None:
    assert str(table.symbolize(address)) == text


@pytest.mark.parametrize(
    "address", [0, 0x10, 0x80000FFF, 0x80FFFFFF, 0x81002000, 2**64 - 1, 2**64, -1]
)
def test_an_address_outside_every_symbol_is_not_found(
    table: SymbolTable, address: int
) -> None:
    with pytest.raises(ksyms.AddressNotFoundError) as error:
        table.symbolize(address)

    assert error.value.address == address


def test_symbols_come_in_address_order_with_their_letters(table: SymbolTable) -> None:
    rows = [(s.address, s.nm_type, s.name, s.module) for s in table]

    assert [r[0] for r in rows] == sorted(r[0] for r in rows)
    assert (0x81000100, "W", "weak_one", None) in rows
    assert (0x80002000, "t", "new_init", "new") in rows
    assert len(rows) == len(table) == 18
    assert [table[i] for i in range(-18, 18)] == [*table, *table]
    assert table[3:5] == (table[3], table[4])


def test_a_name_gives_its_symbol(table: SymbolTable) -> None:
    assert table.lookup("vfs_read") == Symbol(
        "vfs_read", 0x81000040, 0xC0, 2, 1, "T", None
    )


def test_a_name_at_several_addresses_is_ambiguous(table: SymbolTable) -> None:
    with pytest.raises(ksyms.AmbiguousSymbolError) as error:
        table.lookup("static_one")

    found = table.lookup_all("static_one")
    assert error.value.candidates == found
    assert [s.address for s in found] == [0x81000180, 0x81000200, 0x80001080]


def test_a_module_limits_a_lookup(table: SymbolTable) -> None:
    assert table.lookup("static_one", module="old").address == 0x80001080
    assert len(table.lookup_all("static_one", module="kernel")) == 2
    with pytest.raises(ksyms.SymbolNotFoundError, match="in new"):
        table.lookup("static_one", module="new")


@pytest.mark.parametrize(
    "name", ["", "vfs_rea", "fs_read", "kernel", "old", "\0", "\ud800", "a\0b"]
)
def test_what_is_no_symbols_name_is_not_found(table: SymbolTable, name: str) -> None:
    with pytest.raises(ksyms.SymbolNotFoundError):
        table.lookup(name)

    assert table.lookup_all(name) == ()


def test_many_lookups_answer_as_the_first_ones_do(table: SymbolTable) -> None:
    names = [s.name for s in table] * 3

    assert [s.name for n in names for s in table.lookup_all(n)[:1]] == names


def test_modules_are_the_linker_files_in_load_order(table: SymbolTable) -> None:
    assert [(m.name, m.address, m.size) for m in table.modules][:3] == [
        ("kernel", 0x81000000, 0x2000),
        ("old", 0x80001000, 0x1000),
        ("new", 0x80002000, 0x1000),
    ]
    assert [m.name for m in table.modules][3:] == ["bpf"]


def test_a_batch_does_not_stop_at_an_unknown_address(table: SymbolTable) -> None:
    found = list(table.symbolize_all([0x81000000, 0x10, 0x81000001]))

    assert [f and f.symbol.name for f in found] == ["_text", None, "_text"]


def test_an_array_of_addresses_gives_positions_and_offsets(table: SymbolTable) -> None:
    addresses = [0x81000041, 0x10, 0x80002040]

    positions, offsets = table.symbolize_array(np.array(addresses, np.uint64))

    assert table[int(positions[0])].name == "vfs_read"
    assert table[int(positions[2])].name == "new_end"
    assert positions[1] == -1
    assert offsets.tolist() == [1, 0, 0]


@pytest.mark.parametrize("bad", [[-1], [2**64], ["x"], [1.5], np.array([1.5])])
def test_an_array_of_anything_else_is_refused(table: SymbolTable, bad: object) -> None:
    with pytest.raises(ValueError, match="no array of addresses"):
        table.symbolize_array(bad)  # type: ignore[arg-type]


def sizes_of(*rows: tuple[str, int, int]) -> SymbolTable:
    return SymbolTable.from_bytes(bare_elf([Sym(n, v, s) for n, v, s in rows]))


def test_where_symbols_nest_the_innermost_has_the_address() -> None:
    table = sizes_of(("outer", 0x1000, 0x100), ("inner", 0x1010, 0x10))

    named = [str(table.symbolize(a)) for a in (0x100F, 0x1010, 0x101F, 0x1020)]

    assert named == [
        "outer+0xf/0x100",
        "inner+0x0/0x10",
        "inner+0xf/0x10",
        "outer+0x20/0x100",
    ]


def test_a_size_of_0_reaches_to_the_next_symbol_and_is_shown_as_0() -> None:
    table = sizes_of(("label", 0x1000, 0), ("next", 0x1100, 0x10))

    assert str(table.symbolize(0x10FF)) == "label+0xff/0x0"
    with pytest.raises(ksyms.AddressNotFoundError):
        table.symbolize(0x1110)


def test_a_stated_size_comes_before_a_guessed_one() -> None:
    table = sizes_of(("label", 0x1000, 0), ("real", 0x1000, 0x20), ("in", 0x1010, 0))

    assert str(table.symbolize(0x1000)) == "real+0x0/0x20"
    assert str(table.symbolize(0x1018)) == "real+0x18/0x20"
    assert str(table.symbolize(0x1020)) == "in+0x10/0x0"


def test_a_size_of_0_ends_with_its_section() -> None:
    table = sizes_of(("last", 0x9000, 0), ("etext", 0xA000, 0))

    assert str(table.symbolize(0x9FFF)) == "last+0xfff/0x0"
    assert str(table.symbolize(0xA000)) == "etext+0x0/0x0"
    with pytest.raises(ksyms.AddressNotFoundError):
        table.symbolize(0xA001)


def test_the_last_byte_of_the_address_space_can_be_named() -> None:
    table = sizes_of(("top", 2**64 - 16, 0x100), ("zero", 0, 8))

    assert str(table.symbolize(2**64 - 1)) == "top+0xf/0x100"
    assert str(table.symbolize(7)) == "zero+0x7/0x8"
    with pytest.raises(ksyms.AddressNotFoundError):
        table.symbolize(8)


def test_a_table_can_be_made_of_symbols() -> None:
    first = Symbol("b", 0x2000, 0x10, 2, 1, "T", None)
    second = Symbol("a", 0x1000, 0x10, 2, 1, "T", "mod")

    table = SymbolTable([first, second])

    assert list(table) == [second, first]
    assert table.symbolize(0x1001).symbol is second
    assert table.lookup("b") is first
    assert [m.name for m in table.modules] == ["kernel", "mod"]


def test_symbols_with_addresses_beyond_64_bits_are_refused() -> None:
    with pytest.raises(ksyms.ImageError, match="64 bits"):
        SymbolTable([Symbol("b", 2**64, 0, 2, 1, "T", None)])


def test_addresses_that_the_kernel_hid_are_refused() -> None:
    hidden = bare_elf([Sym("vfs_read", 0), Sym("vfs_write", 0)])

    with pytest.raises(ksyms.RestrictedError, match=r"CAP_SYSLOG.*kptr_restrict"):
        SymbolTable.from_bytes(hidden)
