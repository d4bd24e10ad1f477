"""On FreeBSD: the client on the real /dev/ksyms, and ksymsfs compared with it."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import ksyms
from ksymsfs.image import build_image
from ksymsfs.sources.running_freebsd import RunningFreeBSD
from tests.integration.server import MFUSEPY, environment, serving

pytestmark = pytest.mark.freebsd

DEVICE = Path("/dev/ksyms")
KIOCGSIZE = 0x40086C01  # _IOR('l', 1, size_t)
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
    with serving(tmp_path, binding=MFUSEPY) as server:
        ours = server.device.read_bytes()

    assert ours == DEVICE.read_bytes()


def test_a_mount_of_a_running_server_sees_a_module_at_the_next_open(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, binding=MFUSEPY) as server:
        before = server.device.read_bytes()
        with loading(MODULE):
            assert server.device.read_bytes() == DEVICE.read_bytes()
        assert server.device.read_bytes() == before


def test_the_mount_of_a_killed_server_is_cleaned_at_the_next_start(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, binding=MFUSEPY) as first:
        first.process.kill()
        first.process.wait()
        with pytest.raises(OSError) as caught:
            os.listdir(first.mountpoint)
        assert caught.value.errno == errno.ENXIO

        with serving(tmp_path, binding=MFUSEPY) as second:
            assert second.device.read_bytes() == DEVICE.read_bytes()


def test_a_server_is_not_mounted_over(tmp_path: Path) -> None:
    with serving(tmp_path, binding=MFUSEPY) as server:
        done = subprocess.run(
            [sys.executable, "-m", "ksymsfs", "-f", str(server.mountpoint)],
            capture_output=True,
            text=True,
            env=environment(),
        )

    assert done.returncode == 1
    assert f"end it with: umount {server.mountpoint}" in done.stderr


def test_umount_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path, binding=MFUSEPY) as server:
        subprocess.run(["umount", server.mountpoint], check=True)

        assert server.process.wait(20) == 0
        assert not server.device.is_symlink()


def test_a_signal_unmounts_at_once_even_while_it_is_open(tmp_path: Path) -> None:
    with (
        serving(tmp_path, binding=MFUSEPY) as server,
        server.device.open("rb", buffering=0) as device,
    ):
        server.process.terminate()

        assert server.process.wait(20) == 0
        assert not server.mountpoint.exists()
        with pytest.raises(OSError):
            device.read(1)


def test_the_mount_differs_from_the_device_as_the_manual_says(tmp_path: Path) -> None:
    with serving(tmp_path, binding=MFUSEPY) as server:
        with server.device.open("rb") as first, server.device.open("rb") as second:
            assert first.read(4) == second.read(4) == b"\x7fELF"
            with pytest.raises(OSError) as caught:
                fcntl.ioctl(first, KIOCGSIZE, bytearray(8))
            assert caught.value.errno == errno.ENOTTY
            busy = subprocess.run(["umount", server.mountpoint], capture_output=True)
            assert busy.returncode != 0
        with pytest.raises(PermissionError):
            os.open(server.device, os.O_RDWR)


def test_the_command_line_reads_the_device() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ksyms", "-k", DEVICE, "sym2addr", "panic"],
        env=environment(),
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == "panic"
