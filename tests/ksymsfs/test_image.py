"""The image's layout: offsets and fields of FreeBSD's struct ksyms_hdr."""

from __future__ import annotations

import io

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ksymsfs.elf import ElfFormat
from ksymsfs.image import build_image, header_size, image_size
from ksymsfs.linker import LinkerFile

FORMATS = [
    pytest.param(ElfFormat(64, "little", 62), 464, id="elf64-little"),
    pytest.param(ElfFormat(64, "big", 21), 464, id="elf64-big"),
    pytest.param(ElfFormat(32, "little", 3), 304, id="elf32-little"),
    pytest.param(ElfFormat(32, "big", 20), 304, id="elf32-big"),
]


def linker_file(fmt: ElfFormat, *names: str) -> LinkerFile:
    strtab = b"\0" + b"".join(n.encode() + b"\0" for n in names)
    symtab = np.zeros(len(names) + 1, fmt.sym_dtype)
    for i, name in enumerate(names, 1):
        symtab["st_name"][i] = strtab.index(name.encode() + b"\0")
        symtab["st_value"][i] = 0x1000 * i
        symtab["st_size"][i] = i
        symtab["st_info"][i] = 0x12
        symtab["st_shndx"][i] = 7
    return LinkerFile("kernel", 0x1000, 0x2000, symtab, strtab)


@pytest.mark.parametrize(("fmt", "symoff"), FORMATS)
def test_pyelftools_reads_back_what_was_laid_out(fmt: ElfFormat, symoff: int) -> None:
    files = [linker_file(fmt, "panic", "vfs_read"), linker_file(fmt, "nf_init")]

    image = build_image(files, fmt)

    elf = ELFFile(io.BytesIO(image))
    assert header_size(fmt) == symoff
    assert len(image) == image_size(files, fmt)
    assert elf.header["e_type"] == "ET_EXEC"
    assert elf.header["e_ident"]["EI_OSABI"] == "ELFOSABI_FREEBSD"
    assert elf.elfclass == fmt.bits
    assert elf.little_endian == (fmt.byteorder == "little")
    assert [s.name for s in elf.iter_sections()] == [
        "",
        ".symtab",
        ".strtab",
        ".shstrtab",
    ]
    assert [p["p_flags"] for p in elf.iter_segments()] == [5, 7]
    symtab = elf.get_section_by_name(".symtab")
    assert isinstance(symtab, SymbolTableSection)
    assert symtab["sh_offset"] == symoff
    assert symtab["sh_info"] == symtab.num_symbols() == 5
    assert [s.name for s in symtab.iter_symbols()] == [
        "",
        "panic",
        "vfs_read",
        "",
        "nf_init",
    ]
    assert symtab.get_symbol(2)["st_value"] == 0x2000
    assert symtab.get_symbol(4)["st_shndx"] == 7


def test_equal_input_gives_equal_bytes() -> None:
    fmt = ElfFormat()

    assert build_image([linker_file(fmt, "a")], fmt) == build_image(
        [linker_file(fmt, "a")], fmt
    )
