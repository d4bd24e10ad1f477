"""Linux's files: vmlinux under KASLR, modules by the addresses of their sections."""

from __future__ import annotations

import gzip
import lzma
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import pytest

from ksymsfs.errors import (
    RestrictedError,
    SourceChangingError,
    SourceError,
    SourceFormatError,
)
from ksymsfs.linker import LinkerFile
from ksymsfs.mkksyms import main
from ksymsfs.options import add_source_arguments, source_from
from ksymsfs.sources.elf_files import module_name
from ksymsfs.sources.saved_tables import SavedTables
from tests.elf_writer import (
    ALLOC,
    ET_EXEC,
    EXEC,
    NOBITS,
    PROGBITS,
    WRITE,
    Elf,
    Sec,
    Sym,
    tables,
)

STEXT = 0xFFFFFFFF81000000
KASLR = 0x1A000000
SECTIONS = """\
/sys/module/dummy/sections/.text:0xffffffffc0a01000
/sys/module/dummy/sections/.init.text:0xffffffffc0a09000
/sys/module/dummy/sections/.data:0xffffffffc0b02000
/sys/module/nf_tables/sections/.text:0xffffffffc0c01000
"""


def vmlinux() -> Elf:
    sections = [
        Sec(".text", PROGBITS, ALLOC | EXEC, addr=STEXT, size=0x1000),
        Sec(".rodata", PROGBITS, ALLOC, addr=STEXT + 0x1000, size=0x1000),
        Sec(".data", PROGBITS, ALLOC | WRITE, addr=STEXT + 0x2000, size=0x1000),
        Sec(".bss", NOBITS, ALLOC | WRITE, addr=STEXT + 0x3000, size=0x1000),
        Sec(".data..percpu", PROGBITS, ALLOC | WRITE, addr=0, size=0x1000),
        Sec(".comment", PROGBITS, 0, size=0x20),
    ]
    symbols = [
        Sym("main.c", info=4, shndx=0xFFF1),
        Sym("", STEXT, info=3, shndx=1),
        Sym("vfs_read", STEXT + 0x40, 0x20, shndx=1),
        Sym("my_stext", STEXT + 0x60, info=2, shndx=1),
        Sym("_stext", STEXT, info=0x10, shndx=1),
        Sym("banner", STEXT + 0x1000, 8, info=0x11, shndx=2),
        Sym("jiffies", STEXT + 0x2000, 8, info=0x11, shndx=3),
        Sym("buffer", STEXT + 0x3000, 8, info=1, shndx=4),
        Sym("this_cpu_off", 0x40, 8, info=0x11, shndx=5),
        Sym("phys_base", 0x77, info=0x10, shndx=0xFFF1),
        Sym("in_comment", 3, shndx=6),
        Sym("undefined", shndx=0),
    ]
    return Elf([*sections, *tables(symbols, link=8)], ET_EXEC, osabi=0)


def dummy_ko() -> Elf:
    sections = [
        Sec(".text", PROGBITS, ALLOC | EXEC, size=0x100),
        Sec(".init.text", PROGBITS, ALLOC | EXEC, size=0x40),
        Sec(".data", PROGBITS, ALLOC | WRITE, size=0x80),
        Sec(".modinfo", PROGBITS, ALLOC, size=0x40),
        Sec(".gnu.linkonce.this_module", PROGBITS, ALLOC | WRITE, size=0x40),
    ]
    symbols = [
        Sym("dummy.c", info=4, shndx=0xFFF1),
        Sym("numdummies", 0x10, 4, info=1, shndx=3),
        Sym("dummy_xmit", 0x20, 0x30, info=2, shndx=1),
        Sym("dummy_setup", 0, 0x20, info=2, shndx=1),
        Sym("init_module", 0, 0x40, info=0x12, shndx=2),
        Sym("__mod_name", 4, 8, info=1, shndx=4),
        Sym("printk", info=0x10, shndx=0),
    ]
    return Elf([*sections, *tables(symbols, link=7)], osabi=0)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    vmlinux().write(tmp_path / "vmlinux")
    dummy_ko().write(tmp_path / "dummy.ko")
    (tmp_path / "sections").write_text(SECTIONS)
    return tmp_path


def linker_files(folder: Path, *options: str) -> list[LinkerFile]:
    parser = ArgumentParser()
    add_source_arguments(parser)
    words = [word.format(folder) for word in options]
    args = parser.parse_args(["--kernel", str(folder / "vmlinux"), *words])
    return list(source_from(args).linker_files())


def symbols(file: LinkerFile) -> list[tuple[str, int, int]]:
    """Name, st_value and st_shndx of the symbols behind the linker-file symbol."""
    records = file.symtab[2:]
    return [
        (
            file.strtab[s["st_name"] : file.strtab.index(0, s["st_name"])].decode(),
            int(s["st_value"]),
            int(s["st_shndx"]),
        )
        for s in records
    ]


def test_a_vmlinux_gives_what_is_in_memory_in_address_order(files: Path) -> None:
    (kernel,) = linker_files(files, "--relocate", hex(KASLR))

    base = STEXT + KASLR
    assert symbols(kernel) == [
        ("this_cpu_off", 0x40, 0xFFF1),
        ("phys_base", 0x77, 0xFFF1),
        ("_stext", base, 1),
        ("vfs_read", base + 0x40, 1),
        ("my_stext", base + 0x60, 1),
        ("banner", base + 0x1000, 2),
        ("jiffies", base + 0x2000, 3),
        ("buffer", base + 0x3000, 4),
    ]


def test_the_block_begins_with_a_null_and_a_linker_file_symbol(files: Path) -> None:
    (kernel,) = linker_files(files, "--relocate", hex(KASLR))

    null, file = kernel.symtab[:2]
    assert null.tobytes() == bytes(24)
    assert kernel.strtab[file["st_name"] :] == b"kernel\0"
    assert (file["st_info"], file["st_shndx"]) == (4, 0xFFF1)
    assert (file["st_value"], file["st_size"]) == (STEXT + KASLR, 0x4000)


def test_a_saved_kallsyms_tells_the_relocation_by_stext(files: Path) -> None:
    (files / "kallsyms").write_text(
        f"{STEXT + KASLR - 1:016x} T my_stext\n{STEXT + KASLR:016x} T _stext\n"
        f"{STEXT:016x} t _stext\t[dummy]\n"
    )

    found = linker_files(files, "--kallsyms", "{}/kallsyms")
    told = linker_files(files, "--relocate", hex(KASLR))

    assert symbols(found[0]) == symbols(told[0])


def test_a_kallsyms_saved_without_addresses_is_refused(
    files: Path,
) -> None:
    (files / "kallsyms").write_text("0000000000000000 T _stext\n")

    with pytest.raises(RestrictedError, match="the kernel hid them"):
        linker_files(files, "--kallsyms", "{}/kallsyms")


def test_a_kernel_may_have_been_moved_down(files: Path) -> None:
    (kernel,) = linker_files(files, "--relocate=-0x1000000")

    assert ("_stext", STEXT - 0x1000000, 1) in symbols(kernel)


def test_a_module_s_symbols_lie_where_its_sections_do(files: Path) -> None:
    files_ = linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")

    assert files_[1].name == "dummy"
    assert symbols(files_[1]) == [
        ("dummy_setup", 0xFFFFFFFFC0A01000, 1),
        ("dummy_xmit", 0xFFFFFFFFC0A01020, 1),
        ("numdummies", 0xFFFFFFFFC0B02010, 3),
    ]


def test_symbols_of_sections_without_an_address_are_left_out(files: Path) -> None:
    (files / "sections").write_text("dummy .text 0xffffffffc0a01000\n")

    files_ = linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")

    assert [name for name, *_ in symbols(files_[1])] == ["dummy_setup", "dummy_xmit"]


@pytest.mark.parametrize(
    "text",
    [
        "dummy .text 0xffffffffc0a01000\ndummy .data 0xffffffffc0b02000\n",
        "# saved\n\ndummy/sections/.text: 0xffffffffc0a01000\n"
        "dummy/sections/.data: 0xffffffffc0b02000\n",
    ],
    ids=["three columns", "relative paths"],
)
def test_sections_may_be_written_by_hand(files: Path, text: str) -> None:
    saved = linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")
    (files / "sections").write_text(text)

    by_hand = linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")

    assert symbols(by_hand[1]) == symbols(saved[1])


def test_sections_may_be_a_copy_of_sys_module(files: Path) -> None:
    saved = linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")
    for line in SECTIONS.splitlines():
        path, address = line.split(":")
        file = files / "copy" / path.removeprefix("/sys/module/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(address + "\n")

    copied = linker_files(files, "--sections", "{}/copy", "-m", "{}/dummy.ko")

    assert symbols(copied[1]) == symbols(saved[1])


def test_saved_modules_tell_address_and_size(files: Path) -> None:
    (files / "modules").write_text("dummy 16384 0 - Live 0xffffffffc0a01000\n")

    _, dummy = linker_files(
        files,
        *("--sections", "{}/sections", "--modules", "{}/modules"),
        *("-m", "{}/dummy.ko"),
    )

    assert (dummy.address, dummy.size) == (0xFFFFFFFFC0A01000, 16384)


def test_a_module_that_is_loading_is_no_consistent_state(files: Path) -> None:
    (files / "modules").write_text("dummy 16384 0 - Loading 0xffffffffc0a01000\n")

    with pytest.raises(SourceChangingError, match="dummy is Loading"):
        linker_files(files, "--modules", "{}/modules")


def test_a_linux_module_without_sections_is_refused(
    files: Path,
) -> None:
    (files / "sections").write_text("")

    with pytest.raises(SourceFormatError, match="no section addresses of module dummy"):
        linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("dummy .text 0xffffffffc0a01000\nnonsense\n", "line 2: not a section"),
        ("dummy .text 12zz\n", "line 1: not a section"),
        ("dummy .text 0x10\ndummy .text 0x20\n", "line 2: a second address of .text"),
    ],
    ids=["no address", "no number", "twice"],
)
def test_a_bad_line_of_sections_is_named(
    files: Path, capsys: pytest.CaptureFixture[str], text: str, where: str
) -> None:
    (files / "sections").write_text(text)
    options = ["--kernel", "vmlinux", "-m", "dummy.ko", "--sections", "sections"]
    args = [o if o.startswith("-") else str(files / o) for o in options]

    status = main([*args, "-o", str(files / "image")])

    assert status == 2
    assert f"mkksyms: {files / 'sections'}: {where}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("dummy.ko", "dummy"),
        ("nf-tables.ko.xz", "nf_tables"),
        ("e1000.ko.gz", "e1000"),
    ],
)
def test_a_module_is_called_as_the_kernel_calls_it(file: str, name: str) -> None:
    assert module_name(Path(file)) == name


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress], ids=["gz", "xz"])
def test_modules_may_be_compressed(files: Path, pack: Callable[[bytes], bytes]) -> None:
    plain = linker_files(files, "--sections", "{}/sections", "-m", "{}/dummy.ko")
    (files / "dummy.ko.packed").write_bytes(pack(dummy_ko().to_bytes()))

    packed = linker_files(
        files, "--sections", "{}/sections", "-m", "{}/dummy.ko.packed"
    )

    assert symbols(packed[1]) == symbols(plain[1])


def test_a_system_map_is_moved_by_the_relocation(tmp_path: Path) -> None:
    (tmp_path / "System.map").write_text(
        "0000000000000040 D per_cpu_offset\n0000000000000050 A absolute\n"
        f"{STEXT:016x} T _stext\n{STEXT:016x} T _text\n{STEXT + 64:016x} t f\n"
    )

    (kernel,) = SavedTables(tmp_path / "System.map", relocation=KASLR).linker_files()

    assert kernel.address == kernel.symtab["st_value"][1] == STEXT + KASLR
    assert [(name, value) for name, value, _ in symbols(kernel)] == [
        ("per_cpu_offset", 0x40),
        ("absolute", 0x50),
        ("_stext", STEXT + KASLR),
        ("_text", STEXT + KASLR),
        ("f", STEXT + KASLR + 64),
    ]


@pytest.mark.parametrize("offset", [-(2**63), 2**63], ids=["down", "up"])
def test_a_kernel_cannot_be_moved_out_of_the_address_space(
    files: Path, offset: int
) -> None:
    (files / "System.map").write_text(f"{STEXT:016x} T _text\n")

    with pytest.raises(SourceError, match=r"does not fit at|cannot be moved to"):
        linker_files(files, f"--relocate={offset * 2}")
    with pytest.raises(SourceError, match="cannot be moved to"):
        SavedTables(files / "System.map", relocation=offset * 2).linker_files()
