"""The debug layout, as nm, readelf, addr2line, gdb and llvm-symbolizer read it."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ksymsfs.debug_layout import build_debug_image
from ksymsfs.elf import ElfFormat
from ksymsfs.image import build_image
from ksymsfs.mkksyms import main
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import Module
from tests.elf_writer import write_recorded

# Far apart and interleaved, as a kernel's are; every letter that nm(1) can show.
KALLSYMS = """\
0000000000000040 A per_cpu_offset
0000000000000050 a local_absolute
ffffffff81000000 T _stext
ffffffff81000100 t vfs_read
ffffffff81000180 T vfs_read_alias
ffffffff81000180 W weak_function
ffffffff81000200 i resolver
ffffffff82000000 R linux_banner
ffffffff82000100 r read_only
ffffffff83000000 D jiffies
ffffffff83000100 d local_data
ffffffff83000180 V weak_object
ffffffff830001c0 u unique_object
ffffffff84000000 B buffer
ffffffff84001000 b local_buffer
ffffffff84002000 T late_text
ffffffffc0a01000 t nft_init\t[nf_tables]
ffffffffc0a01040 T nft_register\t[nf_tables]
ffffffffc0b02000 d nft_ops\t[nf_tables]
ffffffffc0d00000 t dummy_xmit\t[dummy]
ffffffffc0e00000 t bpf_prog_1\t[bpf]
"""
MODULES = [
    Module("dummy", 0x1000, "Live", 0xFFFFFFFFC0D00000),
    Module("nf_tables", 0x200000, "Live", 0xFFFFFFFFC0A01000),
]


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def output(*command: str | Path) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fmt = ElfFormat()
    files = kallsyms_linker_files(KALLSYMS.encode(), MODULES, fmt)
    path = tmp_path_factory.mktemp("debug") / "image"
    path.write_bytes(build_debug_image(files, fmt))
    return path


def test_nm_gives_the_letters_of_kallsyms(image: Path) -> None:
    lines = {line.split("\t")[0] for line in KALLSYMS.splitlines()}

    assert set(output(tool("nm"), image).splitlines()) == lines


@pytest.mark.parametrize("options", ["-hSWs", "-aW"])
def test_readelf_finds_nothing_to_complain_about(image: Path, options: str) -> None:
    output(tool("readelf"), options, image)


ADDRESSES = [
    ("0xffffffff81000000", "_stext", "_stext"),
    ("0xffffffff81000104", "vfs_read", "vfs_read + 4"),
    ("0xffffffff84002010", "late_text", "late_text + 16"),
    ("0xffffffffc0a01050", "nft_register", "nft_register + 16"),
    ("0xffffffffc0d00001", "dummy_xmit", "dummy_xmit + 1"),
    ("0xffffffffc0e00000", "bpf_prog_1", "bpf_prog_1"),
]
DATA = [
    ("0xffffffff82000000", "linux_banner"),
    ("0xffffffff82000101", "read_only + 1"),
    ("0xffffffff83000004", "jiffies + 4"),
    ("0xffffffff84001001", "local_buffer + 1"),
    ("0xffffffffc0b02000", "nft_ops"),
]


@pytest.mark.parametrize(("address", "name", "_"), ADDRESSES)
def test_addr2line_names_functions(
    image: Path, address: str, name: str, _: str
) -> None:
    found = output(tool("addr2line"), "-f", "-e", image, address)

    assert found.splitlines()[0] == name


def test_freebsd_s_layout_defeats_addr2line(tmp_path: Path) -> None:
    image = tmp_path / "image"
    files = kallsyms_linker_files(KALLSYMS.encode(), MODULES, ElfFormat())
    image.write_bytes(build_image(files, ElfFormat()))

    found = output(tool("addr2line"), "-f", "-e", image, ADDRESSES[0][0])

    assert found.splitlines()[0] == "??"


@pytest.mark.parametrize(("address", "name", "_"), ADDRESSES)
def test_llvm_symbolizer_names_functions(
    image: Path, address: str, name: str, _: str
) -> None:
    found = output(tool("llvm-symbolizer"), f"--obj={image}", address)

    assert found.splitlines()[0] == name


def test_gdb_names_functions_and_data(image: Path) -> None:
    wanted = [(address, text) for address, _, text in ADDRESSES] + DATA
    commands = [f"--ex=info symbol {address}" for address, _ in wanted]

    found = output(tool("gdb"), "-nx", "-batch", *commands, image).splitlines()

    assert [line.split(" in section ")[0] for line in found] == [
        text for _, text in wanted
    ]


def test_local_symbols_come_first_and_sh_info_counts_them(image: Path) -> None:
    table = ELFFile(io.BytesIO(image.read_bytes())).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    bindings = [s["st_info"]["bind"] for s in table.iter_symbols()]

    first = table["sh_info"]
    assert set(bindings[:first]) == {"STB_LOCAL"}
    assert "STB_LOCAL" not in bindings[first:]


def test_both_parts_name_the_linker_files_in_order(image: Path) -> None:
    table = ELFFile(io.BytesIO(image.read_bytes())).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    files = [
        (s["st_info"]["bind"], s.name, s["st_value"])
        for s in table.iter_symbols()
        if s["st_info"]["type"] == "STT_FILE"
    ]

    kernel = ("kernel", 0xFFFFFFFF81000000)
    named = [("nf_tables", 0xFFFFFFFFC0A01000), ("dummy", 0xFFFFFFFFC0D00000)]
    named = [kernel, *named, ("bpf", 0xFFFFFFFFC0E00000)]
    assert files == [("STB_LOCAL", *f) for f in named] + [
        ("STB_GLOBAL", *f) for f in named
    ]


def test_sections_cover_the_symbols_that_are_in_them(image: Path) -> None:
    elf = ELFFile(io.BytesIO(image.read_bytes()))
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    sections = list(elf.iter_sections())
    names = [".text", ".rodata", ".data", ".bss"]

    for symbol in table.iter_symbols():
        number = symbol["st_shndx"]
        if isinstance(number, int):
            section = sections[number]
            start, size = section["sh_addr"], section["sh_size"]
            assert start <= symbol["st_value"] < start + size
            assert section.name == names[(number - 1) % 4]


def test_a_kernel_larger_than_its_tables_gets_several_sections(
    tmp_path: Path,
) -> None:
    # 3 MB of data in steps of 64 KB: without gaps, but more than the image holds.
    text = "".join(f"{0xFFFFFFFF83000000 + (i << 16):x} D d{i}\n" for i in range(48))
    fmt = ElfFormat()
    image = tmp_path / "image"

    image.write_bytes(
        build_debug_image(kallsyms_linker_files(text.encode(), None, fmt), fmt)
    )

    gdb = [tool("gdb"), "-nx", "-batch", "--ex=info symbol 0xffffffff83050000"]
    assert output(*gdb, image) == "d5 in section .data\n"
    assert output(tool("nm"), "-n", image) == text


def test_freebsd_s_files_get_the_letters_of_their_sections(
    tmp_path: Path, data: Path
) -> None:
    for name in ("kernel", "ksyms.ko"):
        write_recorded(data / "freebsd-13.2" / name, tmp_path / name)
    module = f"{tmp_path / 'ksyms.ko'}@0xffffffff80f18000+0x2248"
    kernel = ["--kernel", str(tmp_path / "kernel"), "-m", module]

    main([*kernel, "--layout", "debug", "-o", str(tmp_path / "image")])

    lines = set(output(tool("nm"), tmp_path / "image").splitlines())
    assert {
        "ffffffff80426700 T panic",
        "ffffffff80abebbc B hz",
        "ffffffff808dab20 D version",
        "ffffffff80000000 A kernbase",
        "ffffffff80f18090 t ksyms_open",
        "                 U make_dev",
    } <= lines
    # What the kernel's own sections say, nm says of them.
    direct = subprocess.check_output(
        ["nm", tmp_path / "kernel"], stderr=subprocess.DEVNULL, text=True
    )
    assert set(direct.splitlines()) - lines == set()


@pytest.mark.parametrize(
    "fmt",
    [ElfFormat(32, "little", 3), ElfFormat(32, "big", 20), ElfFormat(64, "big", 21)],
    ids=["elf32-little", "elf32-big", "elf64-big"],
)
def test_other_classes_and_byte_orders_are_read_by_nm(
    tmp_path: Path, fmt: ElfFormat
) -> None:
    text = "c0100000 T _stext\nc0100010 t f\nc0200000 D d\nfffffff0 B last\n"
    files = kallsyms_linker_files(text.encode(), None, fmt)
    image = tmp_path / "image"

    image.write_bytes(build_debug_image(files, fmt))

    width = fmt.bits // 4
    expected = [line.zfill(len(line) + width - 8) for line in text.splitlines()]
    assert output(tool("nm"), "-n", image).splitlines() == expected
