"""On FreeBSD: the client on the real /dev/ksyms, and ksymsfs compared with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ksyms
from ksymsfs.image import build_image
from ksymsfs.sources.running_freebsd import RunningFreeBSD
from tests.integration.server import LIBFUSE3, environment, serving

pytestmark = pytest.mark.freebsd

DEVICE = Path("/dev/ksyms")
# Can be unloaded, which an accept filter for one cannot; its one variable is static and
# per vnet.
MODULE = "if_disc"


@contextmanager
def loading(module: str) -> Iterator[None]:
    subprocess.run(["kldload", module], check=True)
    try:
        yield
    finally:
        subprocess.run(["kldunload", module], check=True)


def our_image() -> bytes:
    source = RunningFreeBSD()
    try:
        return build_image(source.linker_files(), source.format)
    finally:
        source.close()


def test_our_image_is_the_kernels_own_byte_for_byte() -> None:
    assert our_image() == DEVICE.read_bytes()


# linux64 brings the modules that it needs, and has ifuncs.
@pytest.mark.parametrize("module", [MODULE, "linux64"])
def test_our_image_follows_a_module_as_the_kernels_own_does(module: str) -> None:
    before = DEVICE.read_bytes()
    with loading(module):
        loaded = DEVICE.read_bytes()
        ours = our_image()

    assert loaded != before
    assert ours == loaded
    assert our_image() == DEVICE.read_bytes()


def test_the_client_knows_the_kernels_symbols_as_nm_does() -> None:
    nm = subprocess.run(
        ["nm", "/boot/kernel/kernel"], capture_output=True, text=True, check=True
    ).stdout
    table = ksyms.load(DEVICE)
    rows = [line.split() for line in nm.splitlines()[::50]]

    placed = [(int(row[0], 16), row[2]) for row in rows if len(row) == 3]
    assert len(placed) > 500
    for address, name in placed:
        assert address in {s.address for s in table.lookup_all(name)}, name


def test_the_client_names_an_address_of_a_module() -> None:
    with loading(MODULE):
        table = ksyms.load(DEVICE)
        symbol = table.lookup("discoutput")

    assert table.symbolize(symbol.address).symbol == symbol


def test_a_fuse_mount_serves_what_the_device_serves(tmp_path: Path) -> None:
    with serving(tmp_path, binding=LIBFUSE3) as server:
        ours = server.device.read_bytes()

    assert ours == DEVICE.read_bytes()


def test_a_mount_of_a_running_server_sees_a_module_at_the_next_open(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, binding=LIBFUSE3) as server:
        before = server.device.read_bytes()
        with loading(MODULE):
            assert server.device.read_bytes() == DEVICE.read_bytes()
        assert server.device.read_bytes() == before


def test_the_command_line_reads_the_device() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ksyms", "-k", DEVICE, "sym2addr", "panic"],
        env=environment(),
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == "panic"
