"""The images of NetBSD and illumos: headers to the byte, tables in their order."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import TypeAlias

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import SourceError
from ksymsfs.illumos import build_illumos_image
from ksymsfs.linker import LinkerFile
from ksymsfs.mkksyms import main
from ksymsfs.netbsd import build_netbsd_image
from ksymsfs.sources.elf_files import ElfFiles, ModuleFile
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import Module
from tests.bsd.record import recorded
from tests.elf_writer import write_recorded

KALLSYMS = """\
0000000000000040 A per_cpu_offset
ffffffff81000000 T _stext
ffffffff81000100 t vfs_read
ffffffff81000180 W weak_function
ffffffff81000200 T a_global
ffffffff82000000 R linux_banner
ffffffff83000000 D jiffies
ffffffff84000000 b buffer
ffffffffc0a01000 t nft_init\t[nf_tables]
ffffffffc0a01040 T Nft_register\t[nf_tables]
"""
MODULES = [Module("nf_tables", 0x4000, "Live", 0xFFFFFFFFC0A01000)]

Record: TypeAlias = tuple[bytes, int, int, int, int]

FORMATS = [
    pytest.param(ElfFormat(64, "little", 62), id="elf64-little"),
    pytest.param(ElfFormat(64, "big", 22), id="elf64-big"),
    pytest.param(ElfFormat(32, "little", 3), id="elf32-little"),
    pytest.param(ElfFormat(32, "big", 20), id="elf32-big"),
]


def files_of(fmt: ElfFormat) -> list[LinkerFile]:
    text = KALLSYMS
    if fmt.bits == 32:
        text = text.replace("ffffffff", "").replace("00000000", "", 1)
    modules = [m._replace(address=m.address % (1 << fmt.bits)) for m in MODULES]
    return kallsyms_linker_files(text.encode(), modules, fmt)


def symtab_of(image: bytes) -> SymbolTableSection:
    table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    return table


@pytest.fixture(scope="module")
def freebsd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[LinkerFile]:
    """Tables of a real kernel and module, with all that real tables have in them."""
    folder = tmp_path_factory.mktemp("freebsd")
    for name in ("kernel", "fusefs.ko"):
        write_recorded(data / "freebsd-13.2" / name, folder / name)
    module = ModuleFile(folder / "fusefs.ko", 0xFFFFFFFF80F1B000, 0x11CD8)
    return list(ElfFiles(folder / "kernel", [module]).linker_files())


def records(file: LinkerFile) -> list[Record]:
    """Name, st_value, st_size, st_info and st_shndx of every symbol, one by one."""
    found = []
    for name, *rest in file.symtab[
        ["st_name", "st_value", "st_size", "st_info", "st_shndx"]
    ].tolist():
        value, size, info, shndx = rest
        text = file.strtab[name : file.strtab.index(0, name)]
        found.append((text, value, size, info, shndx))
    return found


def image_records(image: bytes) -> list[Record]:
    symtab = symtab_of(image)
    strings = symtab.stringtable["sh_offset"]
    found = []
    for i in range(symtab.num_symbols()):
        name, info, _, shndx, value, size = struct.unpack_from(
            "<IBBHQQ", image, symtab["sh_offset"] + 24 * i
        )
        start = strings + name
        found.append((image[start : image.index(0, start)], value, size, info, shndx))
    return found


# -- NetBSD


@pytest.mark.parametrize("fmt", FORMATS)
def test_netbsd_s_header_lies_where_struct_ksyms_hdr_has_it(fmt: ElfFormat) -> None:
    image = build_netbsd_image(files_of(fmt), fmt)

    headers = recorded("x86_64-netbsd.10.1" if fmt.bits == 64 else "x86-netbsd.10.1")
    at = {
        field: headers[f"ksyms_hdr.{field}"][0]
        for field in ("kh_phdr", "kh_shdr", "kh_strtab", "kh_note")
    }
    size = headers["ksyms_hdr"][1]
    elf = ELFFile(io.BytesIO(image))
    ones = 2**fmt.bits - 1
    assert elf["e_type"] == "ET_EXEC"
    assert (elf["e_phoff"], elf["e_shoff"]) == (at["kh_phdr"], at["kh_shdr"])
    assert (elf["e_phnum"], elf["e_shnum"], elf["e_shstrndx"]) == (1, 7, 4)
    (segment,) = elf.iter_segments()
    assert segment.header.p_type == "PT_LOAD"
    assert (segment["p_vaddr"], segment["p_memsz"], segment["p_flags"]) == (0, ones, 7)
    symtab, strtab = symtab_of(image), elf.get_section(headers["STRTAB"][0])
    end = strtab["sh_offset"] + strtab["sh_size"]
    rows = [
        (s.name, s["sh_name"], s["sh_type"], s["sh_offset"], s["sh_size"],
         s["sh_link"], s["sh_addralign"], s["sh_flags"])
        for s in list(elf.iter_sections())[1:]
    ]  # fmt: skip
    assert rows == [
        (".note.netbsd.ident", 1, "SHT_NOTE", at["kh_note"], 24, 0, 4, 0),
        (".symtab", 20, "SHT_SYMTAB", size, symtab["sh_size"], 3,
         fmt.bits // 8, 0),
        (".strtab", 28, "SHT_STRTAB", size + symtab["sh_size"],
         strtab["sh_size"], 0, 1, 0),
        (".shstrtab", 36, "SHT_STRTAB", at["kh_strtab"], 64, 0, 1, 0),
        (".bss", 46, "SHT_NOBITS", 0, ones, 0, 4096, 6),
        (".SUNW_ctf", 51, "SHT_PROGBITS", end, 0, 2, 1, 0),
    ]  # fmt: skip
    assert symtab["sh_info"] == symtab.num_symbols() == 10
    assert end == len(image)
    order = "<" if elf.little_endian else ">"
    note = struct.unpack_from(f"{order}III8sI", image, at["kh_note"])
    assert note == (7, 4, 1, b"NetBSD\0\0", 1000000000)


@pytest.mark.parametrize("fmt", FORMATS)
def test_netbsd_sorts_each_table_by_name_with_globals_first(fmt: ElfFormat) -> None:
    symtab = symtab_of(build_netbsd_image(files_of(fmt), fmt))

    rows = [(s.name, s["st_shndx"]) for s in symtab.iter_symbols()]

    assert rows == [
        ("_stext", 5),
        ("a_global", 5),
        ("jiffies", 5),
        ("linux_banner", 5),
        ("per_cpu_offset", "SHN_ABS"),
        ("buffer", 5),
        ("vfs_read", 5),
        ("weak_function", 5),
        ("Nft_register", 5),
        ("nft_init", 5),
    ]


def test_netbsd_keeps_what_has_a_name_and_a_place(freebsd: list[LinkerFile]) -> None:
    expected = []
    for file in freebsd:
        kept = [
            (name, value, size, info, 0xFFF1 if shndx == 0xFFF1 else 5)
            for name, value, size, info, shndx in records(file)
            if name and shndx and info & 15 != 4
        ]
        expected += sorted(kept, key=lambda r: (r[3] >> 4 != 1, r[0]))

    found = image_records(build_netbsd_image(freebsd, ElfFormat(64, "little", 62)))

    assert [r[0] for r in found] == [r[0] for r in expected]
    assert sorted(found) == sorted(expected)


def test_netbsd_drops_the_leavings_of_old_tools() -> None:
    fmt = ElfFormat()
    text = "0000000000000000 A *ABS*\n0000000000000010 n gcc2_compiled.\n"
    text += "0000000000001000 T main\n0000000000002000 A *ABS*\n"

    symtab = symtab_of(
        build_netbsd_image(kallsyms_linker_files(text.encode(), [], fmt), fmt)
    )

    assert [s.name for s in symtab.iter_symbols()] == ["*ABS*", "main"]


def test_netbsd_without_symbols_has_no_image() -> None:
    fmt = ElfFormat()
    (file, *_) = kallsyms_linker_files(KALLSYMS.encode(), [], fmt)
    empty = LinkerFile("kernel", 0, 1, file.symtab[:2], file.strtab)

    with pytest.raises(SourceError, match="no symbols are loaded"):
        build_netbsd_image([empty], fmt)


# -- illumos


@pytest.mark.parametrize("fmt", FORMATS)
def test_illumos_s_header_is_freebsd_s_but_for_what_it_knows(fmt: ElfFormat) -> None:
    image = build_illumos_image(files_of(fmt), fmt)

    elf = ELFFile(io.BytesIO(image))
    wide = fmt.bits == 64
    base = 0xFFFFFFFF00000000 if wide else 0
    symtab, strtab = symtab_of(image), elf.get_section(2)
    assert (elf["e_phoff"], elf["e_shoff"]) == ((64, 176) if wide else (52, 116))
    assert (elf["e_phnum"], elf["e_shnum"], elf["e_shstrndx"]) == (2, 4, 3)
    text, data = elf.iter_segments()
    assert (text["p_vaddr"], text["p_flags"]) == (base | 0x81000000, 5)
    assert text["p_memsz"] == 0x1000000
    assert (data["p_vaddr"], data["p_flags"]) == (base | 0x83000000, 7)
    assert symtab["sh_offset"] == (464 if wide else 304)
    assert symtab["sh_addralign"] == fmt.bits // 8
    assert (strtab["sh_addralign"], elf.get_section(3)["sh_addralign"]) == (1, 1)
    assert elf.get_section(3)["sh_size"] == 28
    bindings = [s["st_info"]["bind"] for s in symtab.iter_symbols()]
    assert bindings.index("STB_GLOBAL") == symtab["sh_info"]
    assert "STB_LOCAL" not in bindings[symtab["sh_info"] :]
    assert strtab["sh_offset"] + strtab["sh_size"] == len(image)


@pytest.mark.parametrize("fmt", FORMATS)
def test_illumos_puts_the_locals_of_all_files_first(fmt: ElfFormat) -> None:
    symtab = symtab_of(build_illumos_image(files_of(fmt), fmt))

    rows = [(s.name, s["st_shndx"]) for s in symtab.iter_symbols()]

    assert rows[0] == ("", "SHN_UNDEF")
    assert rows[1:] == [
        (name, "SHN_ABS")
        for name in (
            *("vfs_read", "buffer", "nft_init"),
            *("per_cpu_offset", "_stext", "weak_function", "a_global"),
            *("linux_banner", "jiffies", "Nft_register"),
        )
    ]


def test_illumos_writes_each_symbol_s_name_anew(freebsd: list[LinkerFile]) -> None:
    kept = [record for file in freebsd for record in records(file)[1:]]
    ordered = [r for r in kept if r[3] >> 4 == 0] + [r for r in kept if r[3] >> 4]
    fmt = ElfFormat(64, "little", 62)

    image = build_illumos_image(freebsd, fmt)

    assert image_records(image) == [
        (b"", 0, 0, 0, 0),
        *((*record[:4], 0xFFF1) for record in ordered),
    ]
    strtab = ELFFile(io.BytesIO(image)).get_section(2).data()
    assert strtab == b"\0" + b"".join(record[0] + b"\0" for record in kept)


@pytest.mark.parametrize("flavor", ["netbsd", "illumos"])
def test_a_flavor_s_image_is_served_again_unchanged(
    tmp_path: Path, flavor: str
) -> None:
    image = tmp_path / "image"
    (tmp_path / "kallsyms").write_text(KALLSYMS)

    source = ["--kallsyms", str(tmp_path / "kallsyms"), "--flavor", flavor]
    main([*source, "-o", str(image)])
    main(["--image", str(image), "-o", str(tmp_path / "again")])

    assert (tmp_path / "again").read_bytes() == image.read_bytes()
    assert len(symtab_of(image.read_bytes()).data()) > 0
