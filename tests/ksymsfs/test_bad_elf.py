"""Damaged, huge and contradictory files: an error of ours, soon and without memory."""

from __future__ import annotations

import gzip
import io
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ksymsfs.debug_layout import build_debug_image
from ksymsfs.elf import ElfFormat
from ksymsfs.errors import KsymsFSError, SourceFormatError
from ksymsfs.illumos import build_illumos_image
from ksymsfs.image import build_image
from ksymsfs.netbsd import NameTable, build_netbsd_image
from ksymsfs.sources import Source
from ksymsfs.sources.elf_files import ElfFiles, LinuxFacts, ModuleFile
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.objectfile import MAX_TABLE, read_object
from ksymsfs.sources.saved_image import SavedImage
from ksymsfs.sources.section_addresses import section_addresses
from tests.elf_writer import (
    ALLOC,
    ET_DYN,
    ET_EXEC,
    EXEC,
    NOBITS,
    PROGBITS,
    STRTAB,
    SYMTAB,
    WRITE,
    Elf,
    Sec,
    Sym,
    tables,
)
from tests.ksymsfs.test_flavor_layouts import KALLSYMS
from tests.ksymsfs.test_freebsd_files import BASE, kernel_elf, module_elf, progbits
from tests.ksymsfs.test_linux_files import SECTIONS, dummy_ko, vmlinux

LAYOUTS = [build_image, build_debug_image, build_netbsd_image, build_illumos_image]

MODULE = module_elf(
    [
        progbits(".text", 0x101, 16, ALLOC | EXEC),
        progbits("set_sysinit_set", 0x18, 8),
        Sec(".bss", NOBITS, ALLOC | WRITE, size=8, addralign=8),
        Sec(".rela.text", 4, 0x40, size=48, info=1),
    ],
    [
        Sym("f", 1, 16, shndx=1),
        Sym("local", 2, 16, info=2, shndx=2),
        Sym("__start_set_sysinit_set", shndx=0),
        Sym("ifunc", 8, info=0x1A, shndx=1),
    ],
)
SHARED = Elf(
    [
        Sec(".text", PROGBITS, ALLOC, addr=0x1000, size=0x100),
        *tables([Sym("exported", 0x1010)], link=3, dynamic=True),
    ],
    ET_DYN,
    segments=[(0, 0x1100)],
)
BIG_ENDIAN = kernel_elf(
    [Sym("panic", 0x100010, 8)], bits=32, order=">", machine=20, base=0x100000
)

# What fields like to be damaged with.
NUMBERS = [0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0xFFF1, 0xFFFF, 0x10000, 2**31, 2**32 - 1]
NUMBERS += [2**40, 2**63, 2**64 - 1, 2**64 - 8]
DAMAGE = st.lists(
    st.tuples(
        st.floats(0, 0.9999),
        st.sampled_from(NUMBERS),
        st.sampled_from([1, 2, 4, 8]),
    ),
    max_size=5,
)


def damaged(
    data: bytes, damage: list[tuple[float, int, int]], length: float = 1.0
) -> bytes:
    out = bytearray(data)
    for place, number, width in damage:
        # Nearly always at the alignment of a field.
        at = int(place * len(out)) // width * width
        out[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(out[: int(len(out) * length)])


def exhaust(source: Source) -> None:
    """Read everything and lay it out in every way, or fail with an error of ours."""
    with suppress(KsymsFSError):
        files = source.linker_files()
        for layout in LAYOUTS:
            with suppress(KsymsFSError):
                layout(files, source.format)


bounded = settings(
    max_examples=200,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize(
    ("kernel", "module"),
    [
        pytest.param(kernel_elf(), MODULE, id="relocatable module"),
        pytest.param(kernel_elf(), SHARED, id="shared module"),
        pytest.param(BIG_ENDIAN, None, id="big-endian kernel"),
    ],
)
@given(kernel_damage=DAMAGE, module_damage=DAMAGE, length=st.floats(0.2, 1.2))
@bounded
def test_damaged_freebsd_files_give_errors_of_ours(
    tmp_path: Path,
    kernel: Elf,
    module: Elf | None,
    kernel_damage: list[tuple[float, int, int]],
    module_damage: list[tuple[float, int, int]],
    length: float,
) -> None:
    is_module = module is not None
    kernel_bytes = damaged(kernel.to_bytes(), kernel_damage if not is_module else [])
    (tmp_path / "kernel").write_bytes(kernel_bytes)
    modules = []
    if module is not None:
        data = damaged(module.to_bytes(), module_damage, min(length, 1))
        (tmp_path / "m.ko").write_bytes(data)
        modules = [ModuleFile(tmp_path / "m.ko", BASE)]

    exhaust(ElfFiles(tmp_path / "kernel", modules))


@given(kernel_damage=DAMAGE, module_damage=DAMAGE)
@bounded
def test_damaged_linux_files_give_errors_of_ours(
    tmp_path: Path,
    kernel_damage: list[tuple[float, int, int]],
    module_damage: list[tuple[float, int, int]],
) -> None:
    (tmp_path / "sections").write_text(SECTIONS)
    (tmp_path / "vmlinux").write_bytes(damaged(vmlinux().to_bytes(), kernel_damage))
    (tmp_path / "dummy.ko").write_bytes(damaged(dummy_ko().to_bytes(), module_damage))
    facts = LinuxFacts(relocation=0x1000000, sections=tmp_path / "sections")

    exhaust(ElfFiles(tmp_path / "vmlinux", [ModuleFile(tmp_path / "dummy.ko")], facts))


@pytest.mark.parametrize("layout", LAYOUTS)
@given(damage=DAMAGE)
@bounded
def test_a_damaged_image_is_served_or_refused(
    tmp_path: Path,
    layout: Callable[..., bytes],
    damage: list[tuple[float, int, int]],
) -> None:
    fmt = kernel_format()
    image = layout(kallsyms_linker_files(KALLSYMS.encode(), None, fmt), fmt)
    (tmp_path / "image").write_bytes(damaged(image, damage))
    source = SavedImage(tmp_path / "image")

    exhaust(source)
    with suppress(KsymsFSError):
        files = source.linker_files()
        NameTable(source.layout(files, source.format))


def kernel_format() -> ElfFormat:
    return ElfFormat(64, "little", 62)


@given(
    st.lists(
        st.sampled_from(["dummy", " ", ".text", "0x10", ":", "/sections/", "\n", "zz"])
        | st.text(max_size=4),
        max_size=8,
    ).map("".join)
)
@bounded
def test_any_text_is_a_list_of_sections_or_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "sections").write_text(text)

    with suppress(SourceFormatError):
        section_addresses(tmp_path / "sections", "dummy")


# -- every kind of contradiction, with its place


def with_field(offset: int, form: str, *values: int) -> bytes:
    data = bytearray(kernel_elf().to_bytes())
    struct.pack_into(form, data, offset, *values)
    return bytes(data)


KERNEL_SIZE = len(kernel_elf().to_bytes())
SHOFF = struct.unpack_from("<Q", kernel_elf().to_bytes(), 40)[0]
# Section 2 is .symtab, 3 .strtab, 4 .shstrtab.
SYMTAB_HEADER, STRTAB_HEADER = SHOFF + 2 * 64, SHOFF + 3 * 64


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        (b"", 0, "ELF identification of 0x10 bytes ends beyond the file's 0x0"),
        (b"\x7fELF" + bytes(60), 4, "unknown class 0"),
        (b"MZ" + bytes(100), 0, "not an ELF file"),
        (b"\x7fELF\x02\x01\x01" + bytes(20), 0x10, "ELF header"),
        (with_field(20, "<I", 2), 20, "ELF version 2"),
        (with_field(40, "<Q", KERNEL_SIZE), KERNEL_SIZE, "section header 0"),
        (with_field(40, "<Q", 2**64 - 1), 2**64 - 1, "section header 0"),
        (with_field(58, "<H", 63), SHOFF, "section headers of 63 bytes, not 64"),
        (with_field(60, "<H", 0xFF00), SHOFF, "65280 section headers"),
        (with_field(62, "<H", 77), SHOFF, "section names in section 77 of 5"),
        (with_field(62, "<H", 2), None, "section 2 is no string table"),
        (with_field(SHOFF + 64, "<I", 5000), SHOFF + 64, "section 1: name beyond"),
        (with_field(SYMTAB_HEADER + 56, "<Q", 16), None, "entries of 16, not of 24"),
        (with_field(SYMTAB_HEADER + 32, "<Q", 25), None, "0x19 bytes in entries"),
        (with_field(SYMTAB_HEADER + 32, "<Q", 24 << 20), None, "ends beyond"),
        (with_field(SYMTAB_HEADER + 32, "<Q", 24 << 40), None, "0x180000000000 bytes"),
        (with_field(SYMTAB_HEADER + 40, "<I", 99), None, "strings in section 99"),
        (with_field(SYMTAB_HEADER + 40, "<I", 0), None, "strings in section 0"),
        (with_field(SYMTAB_HEADER + 40, "<I", 1), None, "section 1 is no string table"),
        (with_field(STRTAB_HEADER + 32, "<Q", 2**62), None, "string table of 0x4"),
        (with_field(STRTAB_HEADER + 32, "<Q", 2), None, "without NUL at end"),
        (with_field(STRTAB_HEADER + 4, "<I", SYMTAB), None, "a second symbol table"),
        (with_field(54, "<H", 55), 64, "program headers of 55 bytes, not 56"),
        (with_field(56, "<H", 0xFFFF), 64, "65535 program headers"),
    ],
)
def test_a_contradiction_is_named_with_its_offset(
    tmp_path: Path, data: bytes, place: int | None, reason: str
) -> None:
    (tmp_path / "kernel").write_bytes(data)

    with pytest.raises(SourceFormatError) as caught:
        read_object(tmp_path / "kernel")

    assert reason in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'kernel'}: offset 0x")
    if place is not None:
        assert caught.value.where == f"offset {place:#x}"


def test_a_name_beyond_the_strings_is_named_with_its_symbol(tmp_path: Path) -> None:
    elf = kernel_elf([Sym("a", 1), Sym("b", 2)])
    data = bytearray(elf.to_bytes())
    table = next(s.data for s in elf.sections if s.type == SYMTAB)
    assert table is not None
    at = bytes(data).index(table) + 2 * 24
    struct.pack_into("<I", data, at, 0x1000)
    (tmp_path / "kernel").write_bytes(data)

    with pytest.raises(
        SourceFormatError, match="symbol 2 has its name beyond"
    ) as caught:
        read_object(tmp_path / "kernel")

    assert caught.value.where == f"offset {at:#x}"


def test_more_sections_than_the_header_can_count_are_read(tmp_path: Path) -> None:
    # gABI: e_shnum 0 and e_shstrndx SHN_XINDEX say to look at section header 0.
    count = 0xFF10
    sections = [Sec("s", PROGBITS) for _ in range(count)]
    text = Sec(".text", PROGBITS, ALLOC | EXEC, addr=0x1000, size=0x100)
    symbols = tables([Sym("f", 0x1000)], link=count + 3)
    data = bytearray(write_many([text, *sections, *symbols]))
    (tmp_path / "kernel").write_bytes(data)

    found = read_object(tmp_path / "kernel")

    assert len(found.sections) == count + 5
    assert found.section(".strtab") is not None
    assert len(found.symtab) == 2


def write_many(sections: list[Sec]) -> bytes:
    # The header's fields are 16 bits wide: written as 0, and put where they belong.
    names = b"\0" + b"".join(s.name.encode() + b"\0" for s in sections) + b".names\0"
    body, headers, at = b"", [], 1
    for section in sections:
        data = section.data or b""
        headers.append(
            struct.pack(
                "<IIQQQQIIQQ", at, section.type, section.flags, section.addr,
                64 + len(body), len(data) or section.size, section.link, section.info,
                section.addralign, section.entsize,
            )
        )  # fmt: skip
        at += len(section.name) + 1
        body += data
    headers.append(
        struct.pack(
            "<IIQQQQIIQQ", at, STRTAB, 0, 0, 64 + len(body), len(names), 0, 0, 1, 0
        )
    )
    body += names
    null = struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, len(headers) + 1, len(headers),
                       0, 0, 0)  # fmt: skip
    ehdr = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", ET_EXEC, 62, 1, 0, 0, 64 + len(body), 0, 64, 56, 0, 64, 0,
        0xFFFF,
    )  # fmt: skip
    return ehdr + body + null + b"".join(headers)


def test_a_torn_compressed_module_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(MODULE.to_bytes())
    (tmp_path / "m.ko.gz").write_bytes(packed[: len(packed) // 2])

    with pytest.raises(SourceFormatError, match="cannot be unpacked"):
        read_object(tmp_path / "m.ko.gz")


def test_zstd_is_told_from_nonsense(tmp_path: Path) -> None:
    (tmp_path / "m.ko.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))

    with pytest.raises(SourceFormatError, match="compressed by zstd: unpack it first"):
        read_object(tmp_path / "m.ko.zst")


@pytest.mark.parametrize("what", ["sparse", "bomb", "tails"])
def test_a_huge_file_costs_an_error_and_no_memory(tmp_path: Path, what: str) -> None:
    path = tmp_path / "kernel"
    if what == "sparse":
        # A symbol table of 1 TiB, all of it there, as a hole.
        with path.open("wb") as file:
            file.write(with_field(SYMTAB_HEADER + 24, "<QQ", KERNEL_SIZE, 24 << 36))
            file.truncate(KERNEL_SIZE + (24 << 36))
    elif what == "bomb":
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as packed:
            for _ in range(300):
                packed.write(bytes(1 << 20))
        path.write_bytes(buffer.getvalue())
    else:
        # 60,000 names, each a tail of one long string: 1.8 GB if written out.
        symbols = [Sym("x" * 60_000)]
        elf = kernel_elf(symbols)
        table, strings = elf.sections[1], elf.sections[2]
        assert strings.data is not None
        table.data = bytes(24) + b"".join(
            struct.pack("<IBBHQQ", 1 + i, 0x12, 0, 1, 0xFFFFFFFF80200000 + i, 1)
            for i in range(60_000)
        )
        path.write_bytes(elf.to_bytes())

    for flavor in ("freebsd", "netbsd", "illumos") if what == "tails" else ("freebsd",):
        command = [sys.executable, "-m", "ksymsfs.mkksyms", "--kernel", str(path)]
        run = subprocess.run(
            [*command, "--flavor", flavor, "-o", str(tmp_path / "image")],
            capture_output=True,
            text=True,
            preexec_fn=lambda: resource.setrlimit(
                resource.RLIMIT_AS, (MAX_TABLE * 6, MAX_TABLE * 6)
            ),
        )
        fits = what == "tails" and flavor == "freebsd"
        assert run.returncode == (0 if fits else 2), run.stderr
        assert "Traceback" not in run.stderr
        assert run.stderr.startswith("mkksyms: ") or fits
