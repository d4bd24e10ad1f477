"""The image reader: real files as binutils reads them, and damaged ones."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import struct
import subprocess
from contextlib import suppress
from pathlib import Path
from string import ascii_letters

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from hypothesis import given, settings
from hypothesis import strategies as st

import ksyms
from ksyms import SymbolTable
from ksyms.cli import main
from ksyms.image import Image
from ksymsfs.debug_layout import build_debug_image
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import parse_modules
from tests.elf_writer import (
    ALLOC,
    ET_REL,
    EXEC,
    PROGBITS,
    Elf,
    Sec,
    Sym,
    tables,
)
from tests.ksyms.images import (
    FORMATS,
    KALLSYMS,
    MODULES,
    NATIVE,
    bare_elf,
    kernel_image,
)

Captured = pytest.CaptureFixture[str]

needs_nm = pytest.mark.skipif(not shutil.which("nm"), reason="binutils' nm is missing")
needs_gcc = pytest.mark.skipif(
    not (shutil.which("nm") and shutil.which("gcc")), reason="needs gcc and nm"
)

SOURCE = """
int common, data = 3; static int bss; const int ro = 4; __thread int tls;
static const int local_ro = 5; extern int undefined; extern int none(void)
__attribute__((weak)); extern int no_object __attribute__((weak));
__attribute__((weak)) int weak_fn(void) { return 1; }
__attribute__((weak)) int weak_object = 3;
static int twin(int x) { static int twin_data = 1; return x + twin_data++ + local_ro; }
int used(void) { static int twin_data = 2; return twin(bss++) + twin_data++ + tls; }
static int (*resolve(void))(void) { return used; }
int ifunc(void) __attribute__((ifunc("resolve")));
int main(void) { return ifunc() + common + data + ro + (none ? none() : 0)
    + (&no_object ? no_object : 0); }
"""
NM_OPTIONS = [
    "", "-n", "-r", "-n -r", "-g", "-g -n", "-S", "-n -S", "--size-sort",
    "--size-sort -r", "--size-sort -S", "-t d", "-t o -S", "-f posix", "-f posix -t d",
    "-f just-symbols", "--no-sort",
]  # fmt: skip


def ours(path: Path, options: str, capsys: Captured) -> str:
    assert main(["-k", str(path), "nm", *options.split()]) == 0
    return capsys.readouterr().out


def binutils(path: Path, options: str) -> str:
    printed = subprocess.run(
        ["nm", *options.split(), path],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C"},
    ).stdout
    if "--size-sort" not in options:
        return printed
    # Newer ones give a symbol without a size that of the gap behind it.
    fields = map(str.split, binutils(path, "-S").splitlines())
    sized = {words[3] for words in fields if len(words) == 4}
    lines = printed.splitlines(keepends=True)
    return "".join(line for line in lines if line.split()[-1] in sized)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "source.c").write_text(SOURCE)
    found = {}
    for name, options in {
        "object": "-c -fcommon",
        "program": "-g -fcommon",
        "static": "-static -fcommon",
        "library": "-shared -fPIC",
        "object32": "-c -m32 -fcommon",
    }.items():
        found[name] = folder / name
        subprocess.run(
            ["gcc", *options.split(), "source.c", "-o", name], cwd=folder, check=True
        )
    return found


@needs_gcc
@pytest.mark.parametrize("options", NM_OPTIONS)
@pytest.mark.parametrize("name", ["object", "program", "static", "library", "object32"])
def test_nm_prints_what_binutils_nm_prints(
    compiled: dict[str, Path], name: str, options: str, capsys: Captured
) -> None:
    assert ours(compiled[name], options, capsys) == binutils(compiled[name], options)


@needs_gcc
def test_a_stripped_file_shows_its_dynamic_symbols(
    compiled: dict[str, Path], tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "stripped"
    subprocess.run(["strip", compiled["library"], "-o", path], check=True)

    assert ours(path, "-n", capsys) == binutils(path, "-D -n --without-symbol-versions")


@needs_gcc
def test_functions_of_a_program_are_found_where_readelf_says(
    compiled: dict[str, Path],
) -> None:
    listed = subprocess.run(
        ["readelf", "-sW", compiled["static"]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    rows = [line.split() for line in listed.splitlines()]
    functions = [
        (int(r[1], 16), int(r[2], 0), r[7])
        for r in rows
        if len(r) == 8 and r[3] == "FUNC" and r[6] != "UND" and int(r[2], 0)
    ]
    table = ksyms.load(compiled["static"])

    assert len(functions) > 500
    for address, size, name in functions:
        found = table.symbolize(address + size - 1).symbol
        assert found.address >= address
        assert found.size <= size or found.address > address
        assert table.lookup_all(name)
        assert (address, size) in {(s.address, s.size) for s in table.lookup_all(name)}


# -- images of kernels


@needs_nm
def test_letters_of_the_debug_layout_are_those_that_nm_prints(
    tmp_path: Path, capsys: Captured
) -> None:
    path = tmp_path / "debug"
    files = kallsyms_linker_files(KALLSYMS, parse_modules(MODULES), NATIVE)
    path.write_bytes(build_debug_image(files, NATIVE))

    lines = [line.partition("\t")[0] for line in ours(path, "-n", capsys).splitlines()]

    assert sorted(lines) == sorted(binutils(path, "-n").splitlines())


@pytest.mark.parametrize("letter", f"{ascii_letters}?")
def test_every_letter_of_kallsyms_comes_back(letter: str) -> None:
    kallsyms = b"81000000 T _text\n81000010 %c name\n" % ord(letter)

    table = SymbolTable.from_bytes(kernel_image(kallsyms=kallsyms))

    assert table.lookup("name").nm_type == letter


@pytest.fixture(scope="module")
def freebsd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("freebsd") / "image"
    packed = data / "freebsd-13.2" / "image-2.elf.gz"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    return path


@needs_nm
@pytest.mark.parametrize("options", ["-n", "-S -r"])
def test_nm_of_freebsds_image_is_that_of_binutils_but_for_null_symbols(
    freebsd: Path, options: str, capsys: Captured
) -> None:
    nulls = " " * 16 + " U \n"

    # Our lines name the module too.
    lines = [
        line.partition("\t")[0] for line in ours(freebsd, options, capsys).split("\n")
    ]

    assert "\n".join(lines) == binutils(freebsd, options).replace(nulls, "")


@pytest.mark.parametrize(
    ("name", "address", "size"),
    [
        ("kernbase", 0xFFFFFFFF80000000, 0),
        ("panic", 0xFFFFFFFF80426700, 67),
        ("cpu_idle", 0xFFFFFFFF80691060, 245),
    ],
)
def test_freebsds_image_says_what_kldsym_said(
    freebsd: Path, name: str, address: int, size: int
) -> None:
    symbol = ksyms.load(freebsd).lookup(name)

    assert (symbol.address, symbol.size) == (address, size)


def test_modules_of_freebsds_image_are_numbered_blocks(freebsd: Path) -> None:
    table = ksyms.load(freebsd)

    # kldstat: ksyms.ko 0xffffffff80f18000 0x2248, fusefs.ko 0xffffffff80f1b000 0x11cd8.
    assert [m.name for m in table.modules] == ["kernel", "#2", "#3"]
    assert table.lookup("fuse_internal_access").module == "#3"
    assert table.symbolize(0xFFFFFFFF80F18000).symbol.module == "#2"
    assert table.symbolize(0xFFFFFFFF80426710).symbol == table.lookup("panic")


def test_modules_of_a_mounted_foreign_image_are_named_after_the_listing_beside_it(
    freebsd: Path, tmp_path: Path
) -> None:
    (tmp_path / "snapshots").mkdir()
    shutil.copy(freebsd, tmp_path / "snapshots" / "7")
    (tmp_path / "device").symlink_to("snapshots/7")
    (tmp_path / "modules").write_text(
        "1 0xffffffff80200000 0xa00000 30851 kernel\n"
        "2 0xffffffff80f18000 0x2248 77 ksyms.ko\n"
        "3 0xffffffff80f1b000 0x11cd8 626 fusefs.ko\n"
    )

    table = ksyms.load(tmp_path / "device")

    assert [(m.name, m.address, m.size) for m in table.modules] == [
        ("kernel", 0xFFFFFFFF80200000, 0xA00000),
        ("ksyms.ko", 0xFFFFFFFF80F18000, 0x2248),
        ("fusefs.ko", 0xFFFFFFFF80F1B000, 0x11CD8),
    ]
    assert table.lookup("fuse_internal_access").module == "fusefs.ko"


@pytest.mark.parametrize(
    "listing",
    ["", "nonsense\n", "1 0x0 0x0 1 kernel\n", "1 0 0 30851 k\n2 0 0 9 a\n3 0 0 1 b\n"],
)
def test_a_listing_of_another_state_names_nothing(
    freebsd: Path, tmp_path: Path, listing: str
) -> None:
    (tmp_path / "snapshots").mkdir()
    shutil.copy(freebsd, tmp_path / "snapshots" / "7")
    (tmp_path / "modules").write_text(listing)

    table = ksyms.load(tmp_path / "snapshots" / "7")

    assert [m.name for m in table.modules] == ["kernel", "#2", "#3"]


# -- details


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_pyelftools_reads_the_same_symbols(bits: int, order: str) -> None:
    symbols = [
        Sym(f"s{i}", 0x1000 + 16 * i, i, (i % 3) << 4 | i % 3) for i in range(40)
    ]
    data = bare_elf(symbols, bits=bits, order=order)

    image = Image(data)

    section = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    assert isinstance(section, SymbolTableSection)
    for i, symbol in enumerate(section.iter_symbols()):
        assert image.name(i) == symbol.name
        assert image.st_value[i] == symbol["st_value"]
        assert image.st_size[i] == symbol["st_size"]
        assert image.st_other[i] == 0
        assert image.st_shndx[i] == (1 if i else 0)
    assert image.names() == [s.name for s in section.iter_symbols()]


def test_names_that_share_their_tails_are_found() -> None:
    # As linkers write them: one string, and a symbol that starts in the middle of it.
    text = Sec(".text", PROGBITS, ALLOC | EXEC, addr=0x1000, size=0x9000)
    symtab, strtab = tables([Sym("vfs_read", 0x1000, 8), Sym("x", 0x2000, 8)], link=3)
    assert symtab.data is not None
    record = bytearray(symtab.data)
    struct.pack_into("<I", record, 48, 1 + len("vfs_"))
    symtab.data = bytes(record)
    data = Elf([text, symtab, strtab], 2).to_bytes()

    table = SymbolTable.from_bytes(data)

    assert Image(data).names() == ["", "vfs_read", "read"]
    for _ in range(20):  # searched for, and then looked up in the index
        assert table.lookup("read").address == 0x2000
        assert table.lookup("vfs_read").address == 0x1000
        assert table.lookup_all("ead") == ()


def test_mapping_symbols_name_nothing() -> None:
    text = Sec(".text", PROGBITS, ALLOC | EXEC, addr=0x1000, size=0x9000)
    rows = [
        Sym("$x", 0x1000, 0, 0), Sym("start", 0x1000, 0, 0x10),
        Sym("$d.42", 0x1010, 0, 0), Sym("$xyz", 0x1020, 0, 0),
    ]  # fmt: skip
    data = Elf([text, *tables(rows, link=3)], 2, machine=183).to_bytes()

    table = SymbolTable.from_bytes(data)

    assert [s.name for s in table] == ["start", "$xyz"]
    assert table.symbolize(0x1018).symbol.name == "start"
    assert table.lookup_all("$x") == ()


def test_relocatable_thread_local_and_undefined_symbols_name_no_address() -> None:
    rows = [
        Sym("fn", 0x1000, 8), Sym("tls", 0x1000, 8, 0x16),
        Sym("undefined", 0x1000, 8, 0x12, 0), Sym("file", 0x1000, 0, 4, 0xFFF1),
        Sym("section", 0x1000, 0, 3), Sym("common", 0x1000, 8, 0x11, 0xFFF2),
    ]  # fmt: skip

    assert [s.name for s in SymbolTable.from_bytes(bare_elf(rows))] == ["fn"]


# -- damage


def damaged(section: int, **fields: int) -> bytes:
    """A small ELF file with fields of one section header overwritten."""
    data = bytearray(bare_elf([Sym("one", 0x1000, 8), Sym("two", 0x2000, 8)]))
    (shoff,) = struct.unpack_from("<Q", data, 40)
    names = ("name", "type", "flags", "addr", "offset", "size", "link", "info")
    offsets = dict(zip(names, (0, 4, 8, 16, 24, 32, 40, 44), strict=True))
    offsets["entsize"] = 56
    for name, value in fields.items():
        wide = name in ("flags", "addr", "offset", "size", "entsize")
        struct.pack_into(
            "<Q" if wide else "<I", data, shoff + 64 * section + offsets[name], value
        )
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (damaged(2, entsize=0), "sh_entsize"),
        (damaged(2, entsize=2**63), "sh_entsize"),
        (damaged(2, size=25), "no multiple"),
        (damaged(2, size=24 << 50), "beyond the end"),
        (damaged(2, offset=2**64 - 1), "beyond the end"),
        (damaged(2, link=99), "section 99"),
        (damaged(2, link=1), "no string table"),
        (damaged(2, type=1), "no symbol table"),
        (damaged(3, size=2**64 - 1), "beyond the end"),
        (damaged(3, type=8), "no string table"),
    ],
)
def test_contradictions_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(ksyms.ImageError, match=reason):
        SymbolTable.from_bytes(data, name="file")


@pytest.mark.parametrize("where", [100, 2**32 - 1])
def test_a_name_outside_the_strings_is_an_error_when_it_is_needed(where: int) -> None:
    data = bytearray(bare_elf([Sym("one", 0x1000, 8), Sym("two", 0x2000, 8)]))
    at = data.index(struct.pack("<IBBHQ", 5, 0x12, 0, 1, 0x2000))
    struct.pack_into("<I", data, at, where)
    table = SymbolTable.from_bytes(bytes(data))

    assert str(table.symbolize(0x1000)) == "one+0x0/0x8"
    with pytest.raises(ksyms.ImageError, match="symbol 2 has no name"):
        table.symbolize(0x2000)
    with pytest.raises(ksyms.ImageError, match="symbol 2 has no name"):
        list(table)


def test_names_that_overlap_without_end_take_no_memory() -> None:
    # 100,000 symbols, each named by what is left of one string.
    count, length = 100_000, 60_000
    records = bytearray(24)
    for i in range(count):
        records += struct.pack("<IBBHQQ", i % length, 0x12, 0, 1, 0x1000, 1)
    symtab = Sec(".symtab", 2, link=2, entsize=24, data=bytes(records))
    strtab = Sec(".strtab", 3, data=b"a" * length + b"\0")
    table = SymbolTable.from_bytes(Elf([symtab, strtab], 2).to_bytes())

    with pytest.raises(ksyms.ImageError, match="names overlap"):
        all(table.lookup_all("aa") for _ in range(20))


def use(data: bytes) -> None:
    """Ask an image for everything."""
    table = SymbolTable.from_bytes(data)
    for address in (0, 0x1000, 0x1004, 0x81000041, 2**64 - 1):
        for found in table.symbolize_all([address]):
            assert found is None or found.offset >= 0
    for name in ("one", "vfs_read", "two", ""):
        table.lookup_all(name)
    symbols = list(table)
    assert [s.address for s in symbols] == sorted(s.address for s in symbols)
    positions, _ = table.symbolize_array([0x1000, 0x81000041])
    assert all(p < len(symbols) for p in positions)
    assert len(table.modules) < 1000


SEEDS = [
    bare_elf([Sym("one", 0x1000, 8), Sym("two", 0x2000, 8)]),
    kernel_image(),
    *(kernel_image(FORMATS[f], b"81000000 T one\n81000010 t two\n") for f in FORMATS),
    Elf(tables([Sym("one", 0x1000, 8)], link=2, dynamic=True), ET_REL).to_bytes(),
]
INTERESTING = [0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF]


@settings(derandomize=True, max_examples=400, deadline=None)
@given(
    seed=st.integers(0, len(SEEDS) - 1),
    changes=st.lists(
        st.tuples(st.integers(0, 1 << 16), st.sampled_from(INTERESTING)), max_size=6
    ),
    cut=st.one_of(st.none(), st.integers(0, 2000)),
)
def test_a_damaged_image_gives_an_answer_or_an_error(
    seed: int, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(SEEDS[seed])
    # Headers are at both ends, and are where damage hurts.
    for at, value in changes:
        data[at % len(data)] = value
    with suppress(ksyms.ImageError, ksyms.RestrictedError):
        use(bytes(data[:cut]))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_byte_of_the_headers_can_be_wrong(seed: bytes) -> None:
    chance = random.Random(7)
    # An image of ksymsfs has its headers in front, the other files behind.
    headers = {*range(0, 464, 2), *range(16, 64), *range(len(seed) - 320, len(seed), 2)}
    for at in headers & set(range(len(seed))):
        data = bytearray(seed)
        data[at] = chance.choice(INTERESTING)
        with suppress(ksyms.ImageError, ksyms.RestrictedError):
            use(bytes(data))
