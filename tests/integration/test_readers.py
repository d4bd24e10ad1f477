"""Other readers of the mounted device: libelf as lockstat uses it, pyelftools."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

import ksyms
from tests.integration.server import Server

pytestmark = [pytest.mark.fuse, pytest.mark.kernel]


@pytest.fixture(scope="module")
def lockstat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("bin") / "lockstat_sym"
    source = Path(__file__).with_name("lockstat_sym.c")
    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-O2", "-o", program, source, "-lelf"],
        check=True,
    )
    return program


def test_libelf_reads_it_as_lockstat_does(server: Server, lockstat: Path) -> None:
    table = ksyms.load(server.device)
    sized = [s for s in table if s.size]
    chosen = random.Random(3).sample(sized, 500)
    addresses = [s.address + s.size // 2 for s in chosen] + [sized[0].address]

    result = subprocess.run(
        [lockstat, server.device],
        input="\n".join(f"{a:x}" for a in addresses),
        capture_output=True,
        text=True,
        check=True,
    )

    expected = [
        f"{s.symbol.name} {s.offset} {s.symbol.size}"
        for s in map(table.symbolize, addresses)
    ]
    assert result.stdout.splitlines() == expected
    assert int(result.stderr.split()[0]) == len(sized)


def test_pyelftools_reads_every_symbol_of_it(server: Server) -> None:
    with server.device.open("rb") as device:
        section = ELFFile(device).get_section_by_name(".symtab")
        assert isinstance(section, SymbolTableSection)
        # Every hundredth: pyelftools takes 18 us a symbol.
        found = [section.get_symbol(i) for i in range(0, section.num_symbols(), 100)]

    table = ksyms.load(server.device)
    assert len(found) > 1000
    for symbol in found:
        # Null symbols and linker-file symbols are no symbols of the kernel.
        if not symbol.name or symbol["st_info"]["type"] == "STT_FILE":
            continue
        assert symbol["st_value"] in {s.address for s in table.lookup_all(symbol.name)}


def test_readelf_finds_the_layout_of_freebsd(server: Server) -> None:
    text = subprocess.run(
        ["readelf", "-hSl", server.device], capture_output=True, text=True, check=True
    ).stdout

    assert "OS/ABI:                            UNIX - FreeBSD" in text
    assert "Type:                              EXEC" in text
    assert text.count("LOAD") == 2
    assert ".symtab           SYMTAB           0000000000000000  000001d0" in text


# Prints the physical page behind each page of a mapping: /proc/PID/pagemap, proc(5).
# Frame numbers are the low 55 bits; bit 63 says that there is one.
FRAMES = """
import array, mmap, sys, ctypes
with open(sys.argv[1], "rb") as device:
    assert len(device.read()) > 1 << 20
    mapping = mmap.mmap(device.fileno(), 0, mmap.MAP_PRIVATE)
    sum(mapping[::mmap.PAGESIZE])
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        pages = -(-len(mapping) // mmap.PAGESIZE)
        entries = array.array("Q", pagemap.read(8 * pages))
    assert all(entry >> 63 for entry in entries)
    print(*(entry & (1 << 55) - 1 for entry in entries), flush=True)
    sys.stdin.read()
"""


def test_forty_readers_at_once_share_one_copy_in_the_page_cache(server: Server) -> None:
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", FRAMES, server.device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(40)
    ]
    try:
        frames = []
        for reader in readers:
            assert reader.stdout
            frames.append(reader.stdout.readline().split())  # and it stays mapped
    finally:
        for reader in readers:
            reader.communicate()

    assert len(set(frames[0])) == -(-server.device.stat().st_size // 4096)
    assert all(other == frames[0] for other in frames)
