"""FreeBSD's files give FreeBSD's image: recorded bytes, and the linker's rules."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ksymsfs.mkksyms import main
from ksymsfs.sources.elf_files import ElfFiles, ModuleFile
from tests.elf_writer import (
    ALLOC,
    ET_DYN,
    ET_EXEC,
    EXEC,
    INIT_ARRAY,
    NOBITS,
    PROGBITS,
    WRITE,
    X86_64_UNWIND,
    Elf,
    Sec,
    Sym,
    tables,
    write_recorded,
)

STATE_1 = "ecc33588718e8cab7ba1c1ab36a582f68fab19bd4f273a18a650cd1fcca1ffdb"
STATE_2 = "e1c350c9c7489768da0a5630ab780d16671a79f7b233031c7f7d5604ea37d886"

KSYMS = "ksyms.ko", "0xffffffff80f18000+0x2248"
FUSEFS = "fusefs.ko", "0xffffffff80f1b000+0x11cd8"


@pytest.fixture(scope="session")
def freebsd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the ELF files of the FreeBSD 13.2 that was recorded."""
    folder = tmp_path_factory.mktemp("freebsd")
    for name in ("kernel", "ksyms.ko", "fusefs.ko"):
        write_recorded(data / "freebsd-13.2" / name, folder / name)
    return folder


def image_of(folder: Path, *modules: tuple[str, str]) -> bytes:
    output = folder / "image"
    args = ["--kernel", str(folder / "kernel"), "-o", str(output)]
    for name, where in modules:
        args += ["-m", f"{folder / name}@{where}"]
    assert main(args) == 0
    return output.read_bytes()


@pytest.mark.parametrize(
    ("modules", "digest"),
    [
        pytest.param([KSYMS], STATE_1, id="kernel and ksyms"),
        pytest.param([KSYMS, FUSEFS], STATE_2, id="fusefs loaded"),
    ],
)
def test_the_image_is_the_one_that_freebsd_served(
    freebsd: Path, modules: list[tuple[str, str]], digest: str
) -> None:
    image = image_of(freebsd, *modules)

    assert hashlib.sha256(image).hexdigest() == digest


def test_the_image_equals_the_recorded_one_byte_for_byte(
    freebsd: Path, data: Path
) -> None:
    recorded = gzip.decompress((data / "freebsd-13.2/image-2.elf.gz").read_bytes())

    assert image_of(freebsd, KSYMS, FUSEFS) == recorded


BASE = 0xFFFFFFFF80F18000


def kernel_elf(
    symbols: Sequence[Sym] = (Sym("panic", 0xFFFFFFFF80200010, 8),),
    *,
    bits: Literal[32, 64] = 64,
    order: str = "<",
    machine: int = 62,
    base: int = 0xFFFFFFFF80200000,
    extra: Sequence[Sec] = (),
) -> Elf:
    text = Sec(".text", PROGBITS, ALLOC | EXEC, addr=base, size=0x1000, addralign=16)
    sections = [text, *extra]
    link = len(sections) + 2
    sections += tables(symbols, link=link, bits=bits, order=order)
    return Elf(
        sections,
        ET_EXEC,
        bits=bits,
        order=order,
        machine=machine,
        segments=[(base, 0x2000)],
    )


def module_elf(sections: Sequence[Sec], symbols: Sequence[Sym], **fields: Any) -> Elf:
    link = len(sections) + 2
    kind = {k: fields[k] for k in ("bits", "order") if k in fields}
    return Elf([*sections, *tables(symbols, link=link, **kind)], **fields)


def symbols_of(
    tmp_path: Path, kernel: Elf, module: Elf, where: str
) -> dict[str, tuple[int, int]]:
    """(st_value, st_shndx) of each named symbol of the module, as pyelftools reads."""
    kernel.write(tmp_path / "kernel")
    module.write(tmp_path / "module.ko")
    image = image_of(tmp_path, ("module.ko", where))
    table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    symbols = list(table.iter_symbols())
    nulls = [i for i, s in enumerate(symbols) if not s.name and not s["st_size"]]
    in_module = symbols[nulls[1] :]
    numbers = {"SHN_UNDEF": 0, "SHN_ABS": 0xFFF1, "SHN_COMMON": 0xFFF2}
    return {
        s.name: (s["st_value"], numbers.get(s["st_shndx"], s["st_shndx"]))
        for s in in_module
    }


def refusal(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, module: Elf, where: str
) -> str:
    """What mkksyms says when it does not take the module."""
    kernel_elf().write(tmp_path / "kernel")
    module.write(tmp_path / "module.ko")
    option = f"{tmp_path / 'module.ko'}@{where}"
    args = ["--kernel", str(tmp_path / "kernel"), "-m", option]
    assert main([*args, "-o", str(tmp_path / "image")]) == 2
    return capsys.readouterr().err


def progbits(name: str, size: int, align: int = 1, flags: int = ALLOC) -> Sec:
    return Sec(name, PROGBITS, flags, size=size, addralign=align)


def test_sections_are_loaded_in_header_order_at_their_alignment(
    tmp_path: Path,
) -> None:
    module = module_elf(
        [
            progbits(".text", 0x101, 16, ALLOC | EXEC),
            progbits(".data", 0x10, 64, ALLOC | WRITE),
            Sec(".bss", NOBITS, ALLOC | WRITE, size=8, addralign=8),
        ],
        [Sym("f", 1, shndx=1), Sym("d", 2, shndx=2), Sym("b", 3, shndx=3)],
    )

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}+0x158")

    assert symbols["f"] == (BASE + 1, 1)
    assert symbols["d"] == (BASE + 0x140 + 2, 2)
    assert symbols["b"] == (BASE + 0x150 + 3, 3)


@pytest.mark.parametrize(
    ("section", "machine", "takes_room"),
    [
        pytest.param(Sec("x", PROGBITS, ALLOC, size=0x40), 62, True, id="progbits"),
        pytest.param(Sec("x", PROGBITS, 0, size=0x40), 62, False, id="not allocated"),
        pytest.param(Sec("x", 7, ALLOC, size=0x40), 62, False, id="note"),
        pytest.param(Sec("x", X86_64_UNWIND, ALLOC, size=0x40), 62, True, id="unwind"),
        pytest.param(
            Sec("x", X86_64_UNWIND, ALLOC, size=0x40), 183, False, id="ARM exidx"
        ),
        pytest.param(
            Sec("x", INIT_ARRAY, ALLOC, size=0x40), 62, True, id="constructors"
        ),
        pytest.param(Sec("x", PROGBITS, ALLOC), 62, False, id="empty"),
    ],
)
def test_only_sections_that_the_kernel_loads_take_room(
    tmp_path: Path, section: Sec, machine: int, takes_room: bool
) -> None:
    module = module_elf(
        [section, progbits(".text", 0x10)],
        [Sym("in_x", 4, shndx=1), Sym("in_text", 4, shndx=2)],
        machine=machine,
    )
    kernel = kernel_elf(machine=machine)

    symbols = symbols_of(tmp_path, kernel, module, f"{BASE:#x}")

    # A symbol of what is not loaded keeps its value.
    assert symbols["in_x"][0] == (BASE + 4 if takes_room else 4)
    assert symbols["in_text"][0] == BASE + 4 + (0x40 if takes_room else 0)


def test_the_size_tells_that_an_older_kernel_did_not_load_constructors(
    tmp_path: Path,
) -> None:
    module = module_elf(
        [Sec("x", INIT_ARRAY, ALLOC, size=0x40), progbits(".text", 0x10)],
        [Sym("in_text", 4, shndx=2)],
    )

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}+0x10")

    assert symbols["in_text"][0] == BASE + 4


@pytest.mark.parametrize(
    ("vimage", "vnet"), [(False, BASE + 0x60 + 4), (True, 4)], ids=["without", "with"]
)
def test_per_cpu_and_vnet_data_take_room_but_lie_elsewhere(
    tmp_path: Path, vimage: bool, vnet: int
) -> None:
    module = module_elf(
        [
            progbits("set_pcpu", 0x60),
            progbits("set_vnet", 0x20),
            progbits(".data", 0x10),
        ],
        [Sym("p", 4, shndx=1), Sym("v", 4, shndx=2), Sym("d", 4, shndx=3)],
    )
    extra = [Sec("set_vnet", PROGBITS, ALLOC, BASE - 0x1000, 0x10)] if vimage else []

    symbols = symbols_of(tmp_path, kernel_elf(extra=extra), module, f"{BASE:#x}+0x90")

    assert symbols["p"][0] == 4
    assert symbols["v"][0] == vnet
    assert symbols["d"][0] == BASE + 0x80 + 4


def test_an_ifunc_stays_where_its_resolver_is(tmp_path: Path) -> None:
    module = module_elf([progbits(".text", 0x40)], [Sym("memcpy", 8, info=0x1A)])

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}+0x40")

    assert symbols["memcpy"][0] == BASE + 8


def test_undefined_bounds_of_a_link_set_become_its_bounds(tmp_path: Path) -> None:
    module = module_elf(
        [
            Sec(".rela.text", 4, 0x40, size=24),
            progbits(".text", 0x10),
            Sec(".note", 7, ALLOC, size=0x20),
            progbits("set_sysinit_set", 0x18, 8),
        ],
        [
            Sym("__start_set_sysinit_set", shndx=0),
            Sym("__stop_set_sysinit_set", shndx=0),
            Sym("__start_set_none", shndx=0),
            Sym("__stop_set_sysinit", shndx=0),
            Sym("printf", shndx=0),
        ],
    )

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}")

    # Its number among the loaded sections, .text being 0.
    assert symbols["__start_set_sysinit_set"] == (BASE + 0x10, 1)
    assert symbols["__stop_set_sysinit_set"] == (BASE + 0x28, 1)
    assert symbols["__start_set_none"] == (0, 0)
    assert symbols["__stop_set_sysinit"] == (0, 0)
    assert symbols["printf"] == (0, 0)


def test_absolute_common_and_file_symbols_keep_their_value(tmp_path: Path) -> None:
    module = module_elf(
        [progbits(".text", 0x10)],
        [
            Sym("fuse.c", info=4, shndx=0xFFF1),
            Sym("absolute", 0x77, shndx=0xFFF1),
            Sym("common", 8, shndx=0xFFF2),
        ],
    )

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}")

    assert symbols["fuse.c"] == (0, 0xFFF1)
    assert symbols["absolute"] == (0x77, 0xFFF1)
    assert symbols["common"] == (8, 0xFFF2)


def test_every_symbol_of_a_shared_object_module_moves_by_its_address(
    tmp_path: Path,
) -> None:
    module = module_elf(
        [Sec(".text", PROGBITS, ALLOC, addr=0x1000, size=0x100)],
        [Sym("f", 0x1010), Sym("printf", shndx=0), Sym("absolute", 5, shndx=0xFFF1)],
        type=ET_DYN,
        segments=[(0, 0x800), (0x1000, 0x2345)],
    )

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}+0x4000")

    assert symbols["f"] == (BASE + 0x1010, 1)
    assert symbols["printf"] == (BASE, 0)
    assert symbols["absolute"] == (BASE + 5, 0xFFF1)
    assert symbols[""] == (BASE, 0)


@pytest.mark.parametrize(
    "size", ["", "+0x2000", "+0x1100"], ids=["unsaid", "whole pages", "preloaded"]
)
def test_a_stripped_module_gives_its_dynamic_symbols(tmp_path: Path, size: str) -> None:
    text = Sec(".text", PROGBITS, ALLOC, addr=0x1000, size=0x100)
    dynamic = tables([Sym("exported", 0x1010)], link=3, dynamic=True)
    module = Elf([text, *dynamic], ET_DYN, segments=[(0, 0x1100)])

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}{size}")

    assert symbols["exported"] == (BASE + 0x1010, 1)


def test_the_full_table_is_preferred_to_the_dynamic_one(tmp_path: Path) -> None:
    text = Sec(".text", PROGBITS, ALLOC, addr=0x1000, size=0x100)
    dynamic = tables([Sym("exported", 0x1010)], link=3, dynamic=True)
    full = tables([Sym("exported", 0x1010), Sym("local", 0x1020, info=2)], link=5)
    module = Elf([text, *dynamic, *full], ET_DYN, segments=[(0, 0x1100)])

    symbols = symbols_of(tmp_path, kernel_elf(), module, f"{BASE:#x}")

    assert sorted(symbols) == ["", "exported", "local"]


@pytest.mark.parametrize(
    ("order", "machine"), [("<", 3), (">", 20)], ids=["i386", "powerpc"]
)
def test_32_bit_and_big_endian_kernels_give_images_of_their_own_kind(
    tmp_path: Path, order: str, machine: int
) -> None:
    kernel = kernel_elf(
        [Sym("panic", 0xC0200010, 8)],
        bits=32,
        order=order,
        machine=machine,
        base=0xC0200000,
    )
    module = module_elf(
        [progbits(".text", 0x10), progbits(".data", 0x10, 32)],
        [Sym("d", 4, shndx=2)],
        bits=32,
        order=order,
        machine=machine,
    )

    symbols = symbols_of(tmp_path, kernel, module, "0xc1000000+0x30")

    image = (tmp_path / "image").read_bytes()
    elf = ELFFile(io.BytesIO(image))
    assert (elf.elfclass, elf.little_endian) == (32, order == "<")
    table = elf.get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection)
    assert table["sh_offset"] == 304
    assert table.get_symbol(1)["st_value"] == 0xC0200010
    assert symbols["d"] == (0xC1000024, 2)


def test_a_preloaded_module_is_larger_by_its_tables(tmp_path: Path) -> None:
    module = module_elf(
        [progbits(".text", 0x10), Sec(".rela.text", 4, 0x40, size=48, info=1)],
        [Sym("f", 0)],
    )
    loaded = 0x10 + 2 * 24 + len("\0f\0")
    names = len("\0.text\0.rela.text\0.symtab\0.strtab\0.shstrtab\0")

    symbols = symbols_of(
        tmp_path, kernel_elf(), module, f"{BASE:#x}+{loaded + names + 48:#x}"
    )

    assert symbols["f"][0] == BASE


@pytest.mark.parametrize("size", [0xF, 0x11, 0x1000], ids=hex)
def test_a_file_of_another_size_is_not_the_one_that_was_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: int
) -> None:
    module = module_elf([progbits(".text", 0x10)], [Sym("f")])

    message = refusal(capsys, tmp_path, module, f"{BASE:#x}+{size:#x}")

    assert f"module.ko: takes 0x10 bytes when loaded, not {size:#x}" in message


@pytest.mark.parametrize(
    ("module", "where", "reason"),
    [
        pytest.param(
            module_elf([progbits(".text", 0x10)], [Sym("f")]),
            f"{BASE + 1:#x}",
            "not at the start of a page",
            id="unaligned address",
        ),
        pytest.param(
            module_elf([progbits(".text", 0x10, 3)], [Sym("f")]),
            f"{BASE:#x}",
            "section 1: alignment 3 is no power of two",
            id="odd alignment",
        ),
        pytest.param(
            module_elf([progbits(".text", 1 << 63)], [Sym("f")]),
            f"{BASE:#x}",
            "does not fit at",
            id="beyond the address space",
        ),
        pytest.param(
            Elf([progbits(".text", 0x10)]),
            f"{BASE:#x}",
            "has no symbol table",
            id="no symbols",
        ),
        pytest.param(
            module_elf([Sec(".note", 7, ALLOC, size=4)], [Sym("f")]),
            f"{BASE:#x}",
            "has nothing to load",
            id="nothing to load",
        ),
        pytest.param(
            module_elf([progbits(".text", 0x10)], [Sym("f")], type=ET_EXEC),
            f"{BASE:#x}",
            "is no module",
            id="an executable",
        ),
        pytest.param(
            module_elf([progbits(".text", 0x10)], [Sym("f")], machine=183),
            f"{BASE:#x}",
            "is ELF64 little-endian for machine 183, the kernel",
            id="another machine's",
        ),
    ],
)
def test_a_module_that_cannot_be_there_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    module: Elf,
    where: str,
    reason: str,
) -> None:
    message = refusal(capsys, tmp_path, module, where)

    assert message.startswith(f"mkksyms: {tmp_path / 'module.ko'}: ")
    assert reason in message


def test_a_module_needs_an_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel_elf().write(tmp_path / "kernel")
    module = module_elf([progbits(".text", 0x10)], [Sym("f")])
    module.write(tmp_path / "module.ko")
    args = ["--kernel", str(tmp_path / "kernel"), "-m", str(tmp_path / "module.ko")]

    status = main([*args, "-o", str(tmp_path / "image")])

    assert status == 2
    assert "module.ko: has no address: name it as FILE@ADDR" in capsys.readouterr().err


def test_a_file_that_is_edited_has_another_fingerprint(tmp_path: Path) -> None:
    kernel = kernel_elf().write(tmp_path / "kernel")
    module = module_elf([progbits(".text", 0x10)], [Sym("f")])
    path = module.write(tmp_path / "module.ko")
    source = ElfFiles(kernel, [ModuleFile(path, BASE)])
    before = source.fingerprint()

    module_elf([progbits(".text", 0x10)], [Sym("g2")]).write(path)

    assert source.fingerprint() != before
