"""kallsyms text becomes linker files: grouping, order, letters, sizes, errors."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import (
    KsymsFSError,
    RestrictedError,
    SourceChangingError,
    SourceFormatError,
)
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import parse_modules, require_settled

FMT = ElfFormat()

TABLE = b"""\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000040 t do_one
ffffffff81000100 W weak_one
ffffffff81000180 r some_rodata
ffffffff81001000 B _end
ffffffffc0201100 t second\t[newest]
ffffffffc0201000 t first\t[newest]
ffffffffc0201040 d data\t[newest]
ffffffffc0101000 t init_old\t[oldest]
ffffffffc0301000 t ftrace_trampoline\t[__builtin__ftrace]
ffffffffc0401000 t bpf_prog_6deef7357e7b4530_x\t[bpf]
ffffffffc0101800 t old_init\t[oldest]
"""

MODULES = b"""\
newest 16384 0 - Live 0xffffffffc0201000
silent 8192 1 oldest, Live 0xffffffffc0151000
oldest 12288 2 newest,silent, Live 0xffffffffc0101000
"""


def linker_files(
    text: bytes = TABLE, modules: bytes | None = MODULES
) -> list[LinkerFile]:
    return kallsyms_linker_files(
        text, None if modules is None else parse_modules(modules), FMT, name="table"
    )


def symbols(file: LinkerFile) -> list[tuple[str, int, int, int, int, int]]:
    return [
        (
            file.strtab[
                s["st_name"] : file.strtab.index(b"\0", int(s["st_name"]))
            ].decode(errors="surrogateescape"),
            int(s["st_value"]),
            int(s["st_size"]),
            int(s["st_info"]),
            int(s["st_other"]),
            int(s["st_shndx"]),
        )
        for s in file.symtab
    ]


def test_the_kernel_comes_first_then_load_order_then_pseudo_modules() -> None:
    assert [f.name for f in linker_files()] == [
        "kernel",
        "oldest",
        "silent",
        "newest",
        "__builtin__ftrace",
        "bpf",
    ]


def test_without_proc_modules_the_tables_own_order_is_reversed() -> None:
    assert [f.name for f in linker_files(modules=None)] == [
        "kernel",
        "oldest",
        "newest",
        "__builtin__ftrace",
        "bpf",
    ]


def test_each_block_starts_with_a_null_and_a_linker_file_symbol() -> None:
    for file in linker_files():
        null, own = symbols(file)[:2]

        assert null == ("", 0, 0, 0, 0, 0)
        assert own == (file.name, file.address, file.size, 0x04, 0, 0xFFF1)


def test_ranges_are_those_of_proc_modules_and_of_text_and_end() -> None:
    ranges = {f.name: (f.address, f.size) for f in linker_files()}

    assert ranges["kernel"] == (0xFFFFFFFF81000000, 0x1000)
    assert ranges["oldest"] == (0xFFFFFFFFC0101000, 12288)
    assert ranges["silent"] == (0xFFFFFFFFC0151000, 8192)
    assert ranges["bpf"] == (0xFFFFFFFFC0401000, 4096)


def test_symbols_of_a_module_listed_in_two_places_are_merged_in_address_order() -> None:
    (oldest,) = [f for f in linker_files() if f.name == "oldest"]

    assert [s[:3] for s in symbols(oldest)[2:]] == [
        ("init_old", 0xFFFFFFFFC0101000, 0x800),
        ("old_init", 0xFFFFFFFFC0101800, 12288 - 0x800),
    ]


def test_a_size_reaches_the_next_different_address_and_aliases_keep_their_order() -> (
    None
):
    kernel = linker_files()[0]

    assert [s[:3] for s in symbols(kernel)[3:]] == [
        ("_stext", 0xFFFFFFFF81000000, 0x40),
        ("_text", 0xFFFFFFFF81000000, 0x40),
        ("do_one", 0xFFFFFFFF81000040, 0xC0),
        ("weak_one", 0xFFFFFFFF81000100, 0x80),
        ("some_rodata", 0xFFFFFFFF81000180, 0xE80),
        ("_end", 0xFFFFFFFF81001000, 0),
    ]


def test_without_kallsyms_all_a_mark_outside_the_text_covers_nothing() -> None:
    text = b"""\
0000000000001000 A percpu
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000040 t last
ffffffff81000080 T _etext
ffffffff82000000 D __start_rodata
ffffffff83000000 T _sinittext
ffffffff83000010 t init
ffffffff83000020 T _einittext
ffffffff84000000 R __stop_x
"""

    (kernel,) = linker_files(text, None)

    assert {s[0]: s[2] for s in symbols(kernel)[2:]} == {
        "percpu": 0,
        "_text": 0x40,
        "_stext": 0x40,
        "last": 0x40,
        "_etext": 0,
        "__start_rodata": 0,
        "_sinittext": 0x10,
        "init": 0x10,
        "_einittext": 0,
        "__stop_x": 0,
    }


@pytest.mark.parametrize(
    ("letter", "info", "other", "shndx"),
    [
        ("T", 0x12, 0, 1),
        ("t", 0x02, 0, 1),
        ("R", 0x11, 0, 2),
        ("r", 0x01, 0, 2),
        ("D", 0x11, 0, 3),
        ("d", 0x01, 0, 3),
        ("B", 0x11, 0, 4),
        ("b", 0x01, 0, 4),
        ("A", 0x10, 0, 0xFFF1),
        ("a", 0x00, 0, 0xFFF1),
        ("W", 0x22, 0, 1),
        ("w", 0x22, 2, 1),
        ("V", 0x21, 0, 3),
        ("v", 0x21, 2, 3),
        ("u", 0xA1, 0, 3),
        ("i", 0x0A, 0, 1),
        ("n", 0x00, 14 << 3, 0xFFF1),
        ("N", 0x10, 14 << 3, 0xFFF1),
        ("?", 0x00, 31 << 3, 0xFFF1),
    ],
)
def test_a_letter_becomes_binding_type_and_section(
    letter: str, info: int, other: int, shndx: int
) -> None:
    (file,) = linker_files(b"ffffffff81000000 %s x\n" % letter.encode(), None)

    assert symbols(file)[2][3:] == (info, other, shndx)


def test_a_table_of_zeros_is_refused_with_the_remedy() -> None:
    with pytest.raises(RestrictedError, match=r"CAP_SYSLOG.*kernel\.kptr_restrict"):
        linker_files(b"0000000000000000 T _text\n0000000000000000 t x\n")


@pytest.mark.parametrize(
    "line",
    [
        b"ffffffff8100000g T x",
        b"ffffffff81000000 T",
        b"ffffffff81000000 T ",
        b"ffffffff81000000  T x",
        b"ffffffff81000000 TT x",
        b"ffffffff81000000 1 x",
        b"ffffffff81000000 T x y",
        b"ffffffff81000000 T x\t[mod",
        b"ffffffff81000000 T x\tmod]",
        b"ffffffff81000000 T x\t[]",
        b"ffffffff81000000 T x\t[a]\t[b]",
        b"ffffffff81000000 T x\0y",
        b"fffffffff81000000 T x",
        b"\xff\xfe",
    ],
)
def test_a_malformed_line_is_named_by_file_number_and_text(line: bytes) -> None:
    text = b"ffffffff81000000 T _text\n" + line + b"\nffffffff81000002 T z\n"

    with pytest.raises(SourceFormatError, match=r"table: line 2: .*") as caught:
        linker_files(text)

    assert repr(line)[2:10].rstrip("'") in str(caught.value)


def test_lines_too_short_or_too_long_are_named_however_many() -> None:
    with pytest.raises(SourceFormatError, match="table: line 2: not an address"):
        linker_files(b"81000000 T _text\n" + b"81000000\n" * 30_000)

    with pytest.raises(SourceFormatError, match="table: line 2: longer than 256 KiB"):
        linker_files(b"81000000 T _text\n81000001 T " + b"x" * 300_000)


def test_an_empty_table_is_an_error() -> None:
    with pytest.raises(SourceFormatError, match="holds no symbols"):
        linker_files(b"")


def test_hand_written_addresses_and_a_missing_last_newline_are_understood() -> None:
    text = b"1000 T a\n0000000000001010 t b [m]\n2000 T c"

    file = linker_files(text, None)[0]

    assert [s[:2] for s in symbols(file)[2:]] == [("a", 0x1000), ("c", 0x2000)]


def test_symbols_may_be_as_far_apart_as_addresses_are() -> None:
    text = b"0000000000000000 t a\t[m]\nffffffffffffffff t b\t[m]\n"

    file = linker_files(text, None)[1]

    assert [s[1] for s in symbols(file)[2:]] == [0, 2**64 - 1]


def test_module_names_that_differ_only_in_the_middle_are_told_apart() -> None:
    text = b"".join(
        b"ffffffff8100%04x t s\t[abcdefgh%cijklmnop]\n" % (i, ord("x") + i % 2)
        for i in range(4)
    )

    files = linker_files(b"ffffffff80000000 T _text\n" + text, None)

    assert {f.name: len(f.symtab) for f in files} == {
        "kernel": 3,
        "abcdefghxijklmnop": 4,
        "abcdefghyijklmnop": 4,
    }


@pytest.mark.parametrize("state", ["Loading", "Unloading"])
def test_a_module_in_motion_is_reported(state: str) -> None:
    modules = parse_modules(f"x 1 0 - {state} 0xffffffffc0000000\n".encode())

    with pytest.raises(SourceChangingError, match=f"module x is {state}"):
        require_settled(modules, "/proc/modules")


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"x y 0 - Live 0x0",
        b"x 1 0 - Live zz",
        b"x -1 0 - Live 0xffffffffc0000000",
        b"x 99999999999999999999 0 - Live 0xffffffffc0000000",
        b"x 1 0 - Live -0x1",
    ],
)
def test_a_malformed_module_line_is_named(line: bytes) -> None:
    with pytest.raises(SourceFormatError, match="mods: line 1: "):
        parse_modules(line, "mods")


NAMES = st.text(string.ascii_letters + string.digits + "_.$", min_size=1, max_size=80)
LINES = st.tuples(
    st.integers(0, 2**64 - 1),
    st.sampled_from(string.ascii_letters + "?"),
    NAMES,
    st.one_of(st.none(), st.sampled_from(["a", "mod_b", "nf_conntrack_netlink"])),
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(LINES, min_size=1, max_size=40))
def test_every_line_of_any_table_is_one_symbol(
    lines: list[tuple[int, str, str, str | None]],
) -> None:
    text = b"".join(
        f"{a:016x} {c} {n}{f'{chr(9)}[{m}]' if m else ''}\n".encode()
        for a, c, n, m in lines
    )
    if not any(a for a, *_ in lines):
        return

    found = sorted(
        (s[1], s[0], "" if f.name == "kernel" else f.name)
        for f in linker_files(text, None)
        for s in symbols(f)[2:]
    )

    assert found == sorted((a, n, m or "") for a, _, n, m in lines)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_damaged_text_gives_an_answer_or_our_error(data: st.DataObject) -> None:
    text = bytearray(TABLE)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.integers(0, 255))

    try:
        files = linker_files(bytes(text[: data.draw(st.integers(0, len(text)))]))
    except KsymsFSError:
        return

    for file in files:
        symbols(file)
