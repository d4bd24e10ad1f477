"""What the sources write, the client reads: names, letters, modules, both layouts."""

from __future__ import annotations

import shutil
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


@pytest.mark.parametrize("flavor", ["netbsd", "illumos"])
def test_the_images_of_other_systems_are_read(tmp_path: Path, flavor: str) -> None:
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    source = ["--kallsyms", str(tmp_path / "kallsyms")]
    places = {(s.name, s.address) for s in table_of(tmp_path, *source)}

    table = table_of(tmp_path, *source, "--flavor", flavor)

    assert {(s.name, s.address) for s in table} == places
    assert table.lookup("nft_register").address == 0xFFFFFFFFC0A01040
    assert table.symbolize(0xFFFFFFFF81000104).symbol.name == "vfs_read"


C_SOURCE = """\
int jiffies = 1;
static int buffer[4];
static int helper(int a) { return a + buffer[0]; }
int vfs_read(int a) { return helper(a) + jiffies; }
int _stext(void) { return vfs_read(2); }
"""


@pytest.fixture
def toolchain(tmp_path: Path) -> Path:
    """A folder with a kernel and a module as a real compiler and linker make them."""
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    (tmp_path / "kernel.c").write_text(C_SOURCE)
    cc = ["cc", "-O0", "-g", "-ffreestanding", "-fno-pie", "-fno-pic"]
    subprocess.check_call([*cc, "-c", "-o", tmp_path / "m.ko", tmp_path / "kernel.c"])
    link = ["-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x1000000,-e,_stext"]
    files: list[str | Path] = ["-o", tmp_path / "vmlinux", tmp_path / "kernel.c"]
    subprocess.check_call([*cc, *link, *files])
    return tmp_path


def nm(path: Path) -> dict[str, int]:
    text = subprocess.check_output(["nm", path], text=True)
    lines = (line.split() for line in text.splitlines())
    return {name: int(address, 16) for address, _, name in lines}


def test_a_linked_kernel_moves_as_a_whole(toolchain: Path) -> None:
    table = table_of(
        toolchain, "--kernel", str(toolchain / "vmlinux"), "--relocate", "0x5000000"
    )

    found = {s.name: s.address for s in table}

    assert found == {n: a + 0x5000000 for n, a in nm(toolchain / "vmlinux").items()}


def test_an_object_file_is_placed_by_its_sections(toolchain: Path) -> None:
    places = {".text": 0xC0A01000, ".data": 0xC0B02000, ".bss": 0xC0C03000}
    (toolchain / "sections").write_text(
        "".join(f"m {name} {address:#x}\n" for name, address in places.items())
    )
    lines = subprocess.check_output(["nm", toolchain / "m.ko"], text=True).splitlines()
    bases = {"t": ".text", "d": ".data", "b": ".bss"}

    table = table_of(
        toolchain,
        *("--kernel", str(toolchain / "vmlinux"), "-m", str(toolchain / "m.ko")),
        *("--sections", str(toolchain / "sections")),
    )

    found = {(s.address, s.nm_type, s.name) for s in table if s.module == "m"}
    assert found == {
        (int(address, 16) + places[bases[letter.lower()]], letter, name)
        for address, letter, name in map(str.split, lines)
    }
