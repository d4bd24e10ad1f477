"""Who owns an address, by the rule written out, however often and however it is asked.

The rule: of the symbols that cover the address those that state a size come first, then
those that start last, then the first of the table. A symbol that states no size reaches
to the next one of its linker file, and to the end of its section.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ksyms
import ksyms.addresses
from ksyms import SymbolTable
from ksyms.elf import SHN_ABS
from ksyms.flat import flat_bounds
from ksyms.image import Image
from ksyms.ranges import image_ranges
from ksymsfs.debug_layout import build_debug_image
from ksymsfs.elf import SymArray
from ksymsfs.image import build_image
from ksymsfs.linker import LinkerFile, linker_file_symbol
from tests.elf_writer import Sym
from tests.ksyms.images import NATIVE, bare_elf, kernel_image

TOP = 2**64 - 1
STT_FILE = 4


@pytest.fixture(autouse=True, scope="module")
def soon_indexed() -> Iterator[None]:
    """Let the index be made in the second round, and have room for few pages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ksyms.addresses, "_FIRST_ADDRESSES", 3 * len(PROBES) // 2)
        patch.setattr(ksyms.addresses, "_MOST_PAGES", 2)
        patch.setattr(ksyms.table, "_FIRST_SYMBOLS", 3)
        yield


class Row(NamedTuple):
    value: int
    size: int
    place: bool = True
    group: int = 0


# Few addresses, so that symbols meet, nest and overlap; and both ends of memory.
VALUES = st.sampled_from([0, 1, *range(0x8FF8, 0x9008), 0xA000, TOP - 2, TOP - 1, TOP])
SIZES = st.sampled_from([0, 0, 1, 2, 3, 4, 8, 16, TOP - 1, TOP])
ROWS = st.lists(
    st.builds(Row, VALUES, SIZES, st.sampled_from([True] * 5 + [False]), st.just(0)),
    max_size=9,
)
PROBES = sorted({v + d for v in (0, 8, 0x9000, 0xA000, TOP) for d in range(-3, 12)})


def reach(rows: Sequence[Row], row: Row, *, has_sections: bool) -> int:
    """The last address of a row that states no size; .text is 0x1000-0x9fff."""
    limits = [
        r.value - 1
        for r in rows
        if r.place and r.group == row.group and r.value > row.value
    ]
    if has_sections:
        limits.append(0x9FFF if 0x1000 <= row.value <= 0x9FFF else row.value)
    return min(limits, default=row.value)


def owner(
    rows: Sequence[Row], address: int, *, extend: bool, has_sections: bool
) -> int | None:
    """The index of the row that owns *address*."""
    found: list[tuple[bool, int, int]] = []
    for i, row in enumerate(rows):
        last = min(row.value + row.size - 1, TOP)
        if not row.size:
            last = reach(rows, row, has_sections=has_sections) if extend else -1
        if row.place and row.value <= address <= last:
            found.append((row.size == 0, -row.value, i))
    return min(found)[2] if found else None


def expected(
    rows: Sequence[Row], *, extend: bool, has_sections: bool = True
) -> list[int | None]:
    return [owner(rows, p, extend=extend, has_sections=has_sections) for p in PROBES]


def answers(table: SymbolTable) -> Iterator[list[int | None]]:
    def number(found: ksyms.Symbolized | None) -> int | None:
        return int(found.symbol.name[1:]) if found else None

    def one(address: int) -> ksyms.Symbolized | None:
        try:
            return table.symbolize(address)
        except ksyms.AddressNotFoundError:
            return None

    # At first, then from the index, one by one, and all at once.
    for _ in range(3):
        yield [number(f) for f in table.symbolize_all(PROBES)]
        table._memo.clear()
    yield [number(one(p)) for p in PROBES]
    inside = [p for p in PROBES if 0 <= p <= TOP]
    positions, offsets = table.symbolize_array(inside)
    array: list[int | None] = [None] * len(PROBES)
    for probe, position, offset in zip(inside, positions, offsets, strict=True):
        if position >= 0:
            symbol = table[int(position)]
            assert probe - symbol.address == offset
            array[PROBES.index(probe)] = int(symbol.name[1:])
    yield array


@settings(derandomize=True, max_examples=150, deadline=None)
@given(rows=ROWS)
def test_a_file_of_anybodys_keeps_the_rule(rows: list[Row]) -> None:
    # The all-zero table is another matter: RestrictedError.
    rows = [*rows, Row(0x5000, 1)]
    symbols = [
        Sym(f"s{i}", r.value, r.size, shndx=1 if r.place else 0)
        for i, r in enumerate(rows)
    ]

    table = SymbolTable.from_bytes(bare_elf(symbols))

    for found in answers(table):
        assert found == expected(rows, extend=True)


def linker_files(files: Sequence[Sequence[Row]]) -> list[LinkerFile]:
    found, number = [], 0
    for n, rows in enumerate(files):
        name = b"kernel" if n == 0 else b"module%d" % n
        strtab = b"\0" + name + b"\0"
        syms: SymArray = np.zeros(len(rows) + 2, NATIVE.sym_dtype)
        syms[1:2] = linker_file_symbol(NATIVE, 1, 0x1000, 0x1000)
        for i, row in enumerate(rows, 2):
            syms[i] = (len(strtab), 0x12, 0, row.place, row.value, row.size)
            strtab += b"s%d\0" % number
            number += 1
        found.append(LinkerFile(name.decode(), 0x1000, 0x1000, syms, strtab))
    return found


@pytest.mark.parametrize("build", [build_image, build_debug_image])
@settings(derandomize=True, max_examples=100, deadline=None)
@given(files=st.lists(ROWS, min_size=1, max_size=4))
def test_an_image_of_ksymsfs_keeps_the_rule(
    build: object, files: list[list[Row]]
) -> None:
    files = [sorted([*rows, Row(0x5000, 1)], key=lambda r: r.value) for rows in files]
    make = build_image if build is build_image else build_debug_image

    table = SymbolTable.from_bytes(make(linker_files(files), NATIVE))

    # A size of 0 in the kernel's own table covers nothing.
    rows = [row for file in files for row in file]
    for found in answers(table):
        assert found == expected(rows, extend=False)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(rows=ROWS)
def test_symbols_from_anywhere_keep_the_rule(rows: list[Row]) -> None:
    rows = [r._replace(place=True, group=i % 2) for i, r in enumerate(rows)]
    symbols = [
        ksyms.Symbol(f"s{i}", r.value, r.size, 2, 1, "T", "mod" if r.group else None)
        for i, r in enumerate(rows)
    ]

    table = SymbolTable(symbols)

    for found in answers(table):
        assert found == expected(rows, extend=True, has_sections=False)


def cuts(files: Sequence[Sequence[Row]]) -> tuple[object, tuple[object, object]]:
    image = Image(build_image(linker_files(files), NATIVE))
    ranges = image_ranges(image)
    owners = [int(ranges.order[i]) if i >= 0 else -1 for i in ranges.owners]
    return flat_bounds(image), (ranges.bounds.tolist(), owners)


def test_symbols_that_do_not_overlap_are_cut_as_those_that_may() -> None:
    kernel = [Row(0, 16), Row(16, 16), Row(16, 16), Row(40, 1), Row(41, 0), Row(64, 4)]
    module = [Row(32, 8), Row(TOP - 1, 2)]

    flat, general = cuts([kernel, module])

    assert flat == general


@pytest.mark.parametrize("second", [Row(8, 4), Row(8, 16), Row(0, 8), Row(8, 8)])
def test_symbols_that_overlap_are_left_to_the_general_rule(second: Row) -> None:
    flat, _ = cuts([[Row(0, 16), second]])

    assert flat is None


def test_a_damaged_name_is_no_concern_of_other_symbols() -> None:
    rows = [Row(16 * i, 16) for i in range(1, 40)]
    (file,) = linker_files([rows])
    file.symtab["st_name"][-1] = 10**6
    table = SymbolTable.from_bytes(build_image([file], NATIVE))

    for _ in range(5):
        found = [table.symbolize(row.value).symbol.address for row in rows[:-1]]

        assert found == [row.value for row in rows[:-1]]
    with pytest.raises(ksyms.ImageError, match="has no name"):
        table.symbolize(rows[-1].value)


def test_symbols_before_the_first_linker_file_are_found_from_the_start() -> None:
    image = bytearray(kernel_image())
    first = Image(bytes(image)).linker_files[0]
    (mark,) = (
        at
        for at in range(len(image) - 23)
        if struct.unpack_from("<BBHQQ", image, at)
        == (STT_FILE, 0, SHN_ABS, first.address, first.size)
    )
    image[mark] = 0  # the kernel's own: its symbols stand in no run
    table = SymbolTable.from_bytes(bytes(image))

    assert table.symbolize(0x81000041).symbol.name == "vfs_read"
    assert table.symbolize(0x81000041).symbol.name == "vfs_read"


def test_symbols_made_together_are_those_made_one_by_one() -> None:
    one_by_one, together = (SymbolTable.from_bytes(kernel_image()) for _ in range(2))

    together._make_all()

    assert list(map(one_by_one._symbol, range(len(together._symbols)))) == [
        symbol for symbol in together._symbols if symbol
    ]
