"""NetBSD's and illumos's devices on a real mount."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksymsfs.mkksyms import main
from tests.integration.server import BINDINGS, Server, serving

pytestmark = pytest.mark.fuse

EXAMPLE = Path(__file__).parent.parent.parent / "ksymsfs/examples/linux.toml"


@pytest.fixture(scope="module", params=BINDINGS)
def netbsd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("netbsd")
    options = ["--flavor", "netbsd", "--manifest", str(EXAMPLE)]
    with serving(folder, options, binding=request.param) as server:
        yield server


@pytest.mark.parametrize("flavor", ["netbsd", "illumos"])
def test_the_image_and_its_mode_are_the_flavor_s(tmp_path: Path, flavor: str) -> None:
    options = ["--flavor", flavor, "--manifest", str(EXAMPLE)]
    main([*options, "-o", str(tmp_path / "image")])

    with serving(tmp_path, options) as server:
        status = server.device.stat()
        image = server.device.read_bytes()

    assert image == (tmp_path / "image").read_bytes()
    assert status.st_mode & 0o777 == {"netbsd": 0o444, "illumos": 0o666}[flavor]


def test_a_process_may_open_it_many_times(netbsd: Server) -> None:
    with netbsd.device.open("rb") as one, netbsd.device.open("rb") as two:
        assert one.read() == two.read()


def test_an_open_for_writing_is_erofs(netbsd: Server) -> None:
    with pytest.raises(OSError) as caught:
        os.open(netbsd.device, os.O_RDWR)

    assert caught.value.errno == errno.EROFS


def test_all_five_ioctls_answer(netbsd: Server) -> None:
    name = ctypes.create_string_buffer(b"vfs_read")
    symbol, value = ctypes.create_string_buffer(24), ctypes.c_ulong(0)
    pointer = struct.pack("=Q", ctypes.addressof(name))
    with netbsd.device.open("rb") as device:

        def ask(request: int, rest: bytes) -> bytes:
            buffer = bytearray(pointer + rest)
            fcntl.ioctl(device.fileno(), request, buffer)
            return bytes(buffer)

        size = bytearray(4)
        fcntl.ioctl(device.fileno(), 0x80046C03, size)
        new_value = ask(0xC0106C04, bytes(8))
        new_symbol = ask(0xC0206C05, bytes(24))
        for request in (0x80106C01, 0x40106C01):
            ctypes.memset(symbol, 0, 24)
            at = struct.pack("=Q", ctypes.addressof(symbol))
            assert ask(request, at) == pointer + at
            assert symbol.raw == new_symbol[8:]
        for request in (0x80106C02, 0x40106C02):
            value.value = 0
            ask(request, struct.pack("=Q", ctypes.addressof(value)))
            assert value.value == 0xFFFFFFFF812A5D90
        assert size == struct.pack("=i", os.fstat(device.fileno()).st_size)

    assert new_value == pointer + struct.pack("=Q", 0xFFFFFFFF812A5D90)
    assert new_symbol[:8] == pointer
    assert struct.unpack("=IBBHQQ", new_symbol[8:])[4] == 0xFFFFFFFF812A5D90


def test_the_errors_are_netbsd_s(netbsd: Server) -> None:
    name = ctypes.create_string_buffer(b"nothing")

    def failure(request: int, buffer: bytes) -> int | None:
        with netbsd.device.open("rb") as device, pytest.raises(OSError) as caught:
            fcntl.ioctl(device.fileno(), request, bytearray(buffer))
        return caught.value.errno

    known = struct.pack("=QQ", ctypes.addressof(name), 0)
    assert failure(0xC0106C04, known) == errno.ENOENT
    assert failure(0xC0106C04, struct.pack("=QQ", 8, 0)) == errno.EFAULT
    assert failure(0x80086C02, bytes(8)) == errno.EFAULT  # two pointers of ILP32
    assert failure(0x80086C03, bytes(8)) == errno.ENOTTY


def test_illumos_answers_no_ioctl(tmp_path: Path) -> None:
    options = ["--flavor", "illumos", "--manifest", str(EXAMPLE)]
    with (
        serving(tmp_path, options) as server,
        server.device.open("rb") as device,
        pytest.raises(OSError) as caught,
    ):
        fcntl.ioctl(device.fileno(), 0x80086C01, bytearray(8))

    assert caught.value.errno == errno.ENXIO
