"""What the sources write, the client reads: names, letters, modules, both layouts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import ksyms
from ksymsfs.mkksyms import main
from tests.elf_writer import write_recorded
from tests.ksymsfs.test_debug_layout import KALLSYMS

EXAMPLES = Path(__file__).parent.parent.parent / "ksymsfs/examples"
LAYOUTS = pytest.mark.parametrize("layout", ["freebsd", "debug"])


def table_of(folder: Path, *options: str) -> ksyms.SymbolTable:
    image = folder / "image"
    assert main([*options, "-o", str(image)]) == 0
    return ksyms.load(image)


@LAYOUTS
def test_kallsyms_comes_back_line_for_line(tmp_path: Path, layout: str) -> None:
    (tmp_path / "kallsyms").write_text(KALLSYMS)

    table = table_of(
        tmp_path, "--kallsyms", str(tmp_path / "kallsyms"), "--layout", layout
    )

    lines = [
        f"{s.address:016x} {s.nm_type} {s.name}" + f"\t[{s.module}]" * bool(s.module)
        for s in table
    ]
    assert sorted(lines) == sorted(KALLSYMS.splitlines())


@LAYOUTS
@pytest.mark.parametrize("example", sorted(EXAMPLES.iterdir()), ids=lambda p: p.stem)
def test_a_described_module_names_its_symbols(
    tmp_path: Path, example: Path, layout: str
) -> None:
    table = table_of(tmp_path, "--manifest", str(example), "--layout", layout)
    name, module = {
        "linux": ("dummy_xmit", "dummy"),
        "freebsd": ("ksyms_open", "ksyms.ko"),
    }[example.stem]

    symbol = table.lookup(name)

    assert symbol.module == module
    assert str(table.symbolize(symbol.address + 1)).startswith(f"{name}+0x1/0x")
    assert table.lookup(name, module=module) == symbol


@pytest.fixture(scope="module")
def freebsd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("freebsd")
    for name in ("kernel", "ksyms.ko", "fusefs.ko"):
        write_recorded(data / "freebsd-13.2" / name, folder / name)
    return [
        *("--kernel", str(folder / "kernel")),
        *("-m", f"{folder / 'ksyms.ko'}@0xffffffff80f18000+0x2248"),
        *("-m", f"{folder / 'fusefs.ko'}@0xffffffff80f1b000+0x11cd8"),
    ]


@pytest.mark.parametrize(
    ("layout", "module"), [("freebsd", "#3"), ("debug", "fusefs.ko")]
)
def test_freebsd_s_symbols_are_found_both_ways(
    tmp_path: Path, freebsd: list[str], layout: str, module: str
) -> None:
    table = table_of(tmp_path, *freebsd, "--layout", layout)

    # What kldsym(2) answered on that machine.
    panic = table.lookup("panic")
    assert (panic.address, panic.size, panic.module) == (0xFFFFFFFF80426700, 67, None)
    assert table.lookup("cpu_idle").address == 0xFFFFFFFF80691060
    read = table.lookup("fuse_device_read")
    assert (read.address, read.module) == (0xFFFFFFFF80F1D4F0, module)
    assert table.symbolize(read.address + 4).symbol == read


def test_the_letters_of_freebsd_s_kernel_are_nm_s(
    tmp_path: Path, freebsd: list[str]
) -> None:
    table = table_of(tmp_path, *freebsd, "--layout", "debug")
    nm = subprocess.check_output(["nm", tmp_path / "image"], text=True).splitlines()

    ours = {f"{s.address:016x} {s.nm_type} {s.name}" for s in table}

    assert ours == {line for line in nm if line[0] != " "}
