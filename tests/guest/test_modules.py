"""Modules come and go while the device is open: what each open sees."""

from __future__ import annotations

import mmap
import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

import ksyms
from ksymsfs.generation import take_snapshot
from ksymsfs.image import build_image
from ksymsfs.sources.running import RunningKernel
from tests.guest.kernel_modules import (
    file_symbols,
    kallsyms,
    load,
    loaded,
    loading,
    section_addresses,
    unload,
)
from tests.integration.server import Server
from tests.oracle import Oracle

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]


# The bridge and the modules it needs, which unloading it may leave loaded.
BRIDGE = ("bridge", "stp", "llc")


def table_now() -> ksyms.SymbolTable:
    """The symbols of this moment; how they would be mounted makes no difference."""
    source = RunningKernel()
    try:
        image = build_image(take_snapshot(source)[1], source.format)
    finally:
        source.close()
    return ksyms.SymbolTable.from_bytes(image)


def generation(server: Server) -> str:
    return os.readlink(server.mountpoint / "ksyms")


def elsewhere(server: Server) -> bytes:
    """The image as another process sees it: this one has its open."""
    return subprocess.run(
        ["cat", server.device], capture_output=True, check=True
    ).stdout


def modules_of(image: bytes) -> list[str]:
    return [file.name for file in ksyms.SymbolTable.from_bytes(image).modules]


def test_an_open_snapshot_outlives_a_load_and_the_next_open_is_fresh(
    server: Server,
) -> None:
    unload("dummy")
    with server.device.open("rb", buffering=0) as held:
        half = os.fstat(held.fileno()).st_size // 2
        before = os.read(held.fileno(), half)
        mapped = mmap.mmap(held.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        with mapped, loading("dummy"):
            after = elsewhere(server)
            old = before + held.readall()

            assert os.fstat(held.fileno()).st_size == len(old)
            assert mapped[:] == old
    assert "dummy" not in modules_of(old)
    assert "dummy" in modules_of(after)


def test_an_open_snapshot_outlives_an_unload_and_the_next_open_is_fresh(
    server: Server,
) -> None:
    with loading("dummy"):
        held = server.device.open("rb", buffering=0)
    with held:
        after = elsewhere(server)
        old = held.readall()

    assert "dummy" in modules_of(old)
    assert "dummy" not in modules_of(after)


def test_linker_files_stand_in_load_order_with_the_kernels_ranges(
    server: Server,
) -> None:
    # bridge needs stp, which needs llc: loaded in that order, listed in the reverse.
    unload(*BRIDGE)
    with loading("dummy"), loading(*BRIDGE):
        table = ksyms.load(server.device)
        modules = loaded()

    names = [file.name for file in table.modules]
    assert names[0] == "kernel"
    assert names[1 : len(modules) + 1] == [m.name for m in modules]
    assert names.index("dummy") < names.index("llc") < names.index("stp")
    assert names.index("stp") < names.index("bridge")
    ranges = {file.name: (file.address, file.size) for file in table.modules}
    assert {m.name: ranges[m.name] for m in modules} == {
        m.name: (m.address, m.size) for m in modules
    }


def test_the_listing_beside_the_device_says_what_the_image_says(
    server: Server,
) -> None:
    with loading("dummy"):
        listing = (server.mountpoint / "modules").read_text().splitlines()
        table = ksyms.load(server.device)

    rows = [line.split() for line in listing]
    assert [row[4] for row in rows] == [file.name for file in table.modules]
    assert [int(row[1], 16) for row in rows] == [f.address for f in table.modules]


def test_a_module_loaded_again_is_a_new_generation(server: Server) -> None:
    with loading("dummy"):
        first = generation(server)
        same = generation(server)
        unload("dummy")
        load("dummy")
        second = generation(server)

    assert first == same
    assert first != second


def test_module_symbols_equal_kallsyms() -> None:
    with loading("dummy"), loading("bridge"):
        table = table_now()
        lines = [line for line in kallsyms() if line.module]

    ours = Counter((s.address, s.nm_type, s.name, s.module) for s in table if s.module)
    assert {line.module for line in lines} >= {"dummy", "bridge", "stp", "llc"}
    assert ours == Counter(lines)


def test_text_symbols_of_modules_are_named_and_sized_as_the_kernel_does() -> None:
    with loading("dummy"), loading("bridge"):
        table = table_now()
        text = [s for s in table if s.module and s.nm_type in "tT" and s.size]
        # The first and the last byte of each, and what is behind each module's text.
        asked = {a for s in text for a in (s.address, s.address + s.size - 1)}
        try:
            with Oracle() as oracle:
                kernels = {a: oracle(a) for a in sorted(asked)}
        except OSError:
            pytest.skip("this kernel is too old to be asked: no BPF syscall programs")

    # Of the pages of ftrace and kprobes it knows no names.
    known = {a: said for a, said in kernels.items() if not said.startswith("0x")}
    assert len(known) > 1000
    assert {a: str(table.symbolize(a)) for a in known} == known


def test_data_symbols_lie_where_their_sections_are_and_hold_what_they_hold(
    tmp_path: Path,
) -> None:
    checked = 0
    for module in ("dummy", "bridge"):
        with loading(module):
            table = table_now()
            sections = section_addresses(module)
        for symbol in file_symbols(module, tmp_path):
            found = table.lookup_all(symbol.name, module=module)
            if symbol.type != "OBJECT" or len(found) != 1:
                continue
            if symbol.section not in sections:
                continue
            ours = found[0]
            assert ours.address == sections[symbol.section] + symbol.value, symbol
            assert ours.size >= symbol.size, symbol
            assert ours.nm_type.lower() == letter_of(symbol.section), symbol
            last = table.symbolize(ours.address + max(symbol.size, 1) - 1)
            assert ours in table.aliases(last.address), symbol
            checked += 1
    assert checked > 50


def letter_of(section: str) -> str:
    if section.startswith((".bss", ".sbss")):
        return "b"
    read_only = (".rodata", "__param", "__ksymtab", ".note", "__bug", ".orc", "__jump")
    return "r" if section.startswith(read_only) else "d"


def test_the_pages_of_ftrace_follow_the_modules_and_leave_with_the_tracer(
    server: Server,
) -> None:
    tracing = Path("/sys/kernel/tracing")
    (tracing / "set_ftrace_filter").write_text("schedule")
    (tracing / "current_tracer").write_text("function")
    try:
        with_tracer = modules_of(server.device.read_bytes())
    finally:
        (tracing / "current_tracer").write_text("nop")
        (tracing / "set_ftrace_filter").write_text("")

    assert "__builtin__ftrace" in with_tracer[len(loaded()) + 1 :]
