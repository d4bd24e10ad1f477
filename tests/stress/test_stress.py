"""Many processes, a source that changes all the time, and how much of it stays behind.

The counts are small; with KSYMSFS_STRESS=1 they are as large as one could wish.
"""

from __future__ import annotations

import mmap
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksymsfs import mkksyms
from tests.conformance.program import compile_c
from tests.integration.server import BINDINGS, Server, serving

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(600)]

FULL = os.environ.get("KSYMSFS_STRESS") == "1"
VERSIONS = 7


def table_of(version: int, symbols: int) -> str:
    lines = (
        f"{0xFFFFFFFF81000000 + 64 * i:x} T function_{i}_of_version_{version}"
        for i in range(symbols)
    )
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TABLE, TABLE.0 and TABLE.0.image to TABLE.6 and TABLE.6.image."""
    table = tmp_path_factory.mktemp("tables") / "kallsyms"
    for version in range(VERSIONS):
        one = table.with_name(f"kallsyms.{version}")
        # Of other sizes, some within one page of each other.
        one.write_text(table_of(version, 1500 + (version * 7919) % 2000))
        image = one.with_name(f"{one.name}.image")
        assert mkksyms.main(["--kallsyms", str(one), "-o", str(image)]) == 0
    table.hardlink_to(table.with_name("kallsyms.0"))
    return table


@pytest.fixture(params=BINDINGS)
def server(
    request: pytest.FixtureRequest, tmp_path: Path, tables: Path
) -> Iterator[Server]:
    options = ["--kallsyms", str(tables)]
    with serving(tmp_path, options, binding=request.param) as running:
        yield running
    assert "Traceback" not in running.says()


def test_every_byte_is_right_while_the_source_changes_all_the_time(
    server: Server, tables: Path, tmp_path: Path
) -> None:
    program = compile_c([Path(__file__).with_name("changing.c")], tmp_path / "changing")
    opens = 200 if FULL else 25

    result = subprocess.run(
        [program, server.device, tables, str(VERSIONS), "8", str(opens)],
        capture_output=True,
        text=True,
        timeout=500,
    )

    assert result.returncode == 0, result.stderr
    counts = [int(word) for word in result.stdout.split() if word.isdigit()]
    assert counts[0] == 8 * opens
    assert counts[1] > opens  # it did change
    print(result.stdout)


def resident(pid: int) -> int:
    """Bytes of memory of its own that a process has."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * mmap.PAGESIZE


def kernel_inodes() -> int:
    """FUSE inodes that the kernel has, of all mounts."""
    for line in Path("/proc/slabinfo").read_text().splitlines():
        if line.startswith("fuse_inode "):
            return int(line.split()[1])
    pytest.skip("/proc/slabinfo tells nothing of FUSE")


def page_cache() -> int:
    """Bytes of file pages that the kernel has."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no Cached in /proc/meminfo")


def next_generation(server: Server, tables: Path, number: int) -> int:
    """Change the source, read all of the new generation, and return its size."""
    beside = tables.with_name("kallsyms.new")
    beside.hardlink_to(tables.with_name(f"kallsyms.{number % VERSIONS}"))
    beside.replace(tables)
    beside.unlink(missing_ok=True)
    with server.device.open("rb", buffering=0) as device:
        with mmap.mmap(device.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            assert b"_of_version_%d\0" % (number % VERSIONS) in mapped[:]
        return os.fstat(device.fileno()).st_size


def test_generations_come_and_go_and_leave_nothing(
    server: Server, tables: Path
) -> None:
    count = 1000 if FULL else 150
    for number in range(30):
        next_generation(server, tables, number)
    before = resident(server.pid), kernel_inodes(), page_cache()
    fds = len(os.listdir(f"/proc/{server.pid}/fd"))

    size = sum(next_generation(server, tables, n) for n in range(count))

    after = resident(server.pid), kernel_inodes(), page_cache()
    memory, inodes, cache = (b - a for a, b in zip(before, after, strict=True))
    print(f"{count} generations, {size >> 20} MB: {memory >> 10} KB, {inodes} inodes, ")
    assert memory < min(size // 4, 8 << 20)
    assert inodes < count // 3
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == fds
    assert len(os.listdir(server.mountpoint / "snapshots")) == 1
    if FULL:  # the rest of the machine uses it, too
        assert cache < size // 2
    assert int(os.readlink(server.mountpoint / "ksyms").split("/")[1]) > count


def test_a_day_of_opens_leaves_nothing(server: Server) -> None:
    # One a second: 86,400.
    count = 86_400 if FULL else 3000
    for _ in range(300):
        os.close(os.open(server.device, os.O_RDONLY))
    before = resident(server.pid), len(os.listdir(f"/proc/{server.pid}/fd"))

    for _ in range(count):
        os.close(os.open(server.device, os.O_RDONLY))

    assert resident(server.pid) - before[0] < 2 << 20
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == before[1]
    assert server.says() == ""
