"""Device: the ioctls of ksyms(4), and what stands in for them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ksyms
from ksyms import device as module
from tests.integration.server import serving
from tests.ksyms.images import KALLSYMS, kernel_image


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(kernel_image())
    return path


Ioctl = Callable[[int, int, bytes], bytes]


def answering(monkeypatch: pytest.MonkeyPatch, ioctl: Ioctl) -> None:
    monkeypatch.setattr(fcntl, "ioctl", ioctl)


@pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"),
    reason="the numbers are those of Linux on these machines",
)
def test_the_requests_have_linuxs_numbers() -> None:
    assert (module.KIOCGSIZE, module.KIOCGADDR) == (0x80086C01, 0x80086C02)


def test_without_ioctls_a_file_is_sized_mapped_and_read(image: Path) -> None:
    data = image.read_bytes()

    with ksyms.Device(image) as device:
        assert device.size == len(data)
        assert ctypes.string_at(device.address, device.size) == data
        assert device.address == device.address
        assert device.read(4) == b"\x7fELF"
        assert device.read() == data[4:]
        assert device.read() == b""


@pytest.mark.parametrize("code", [errno.ENOTTY, errno.ENODEV])
def test_a_device_without_ioctls_and_size_is_read_to_its_end(
    image: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # As FreeBSD's own since 2017.
    def refuse(fd: int, request: int, argument: bytes) -> bytes:
        raise OSError(code, os.strerror(code))

    status = os.stat_result((0o20400, *[0] * 9))
    answering(monkeypatch, refuse)
    monkeypatch.setattr(os, "fstat", lambda _: status)

    with ksyms.Device(image) as device:
        device.read(10)
        assert device.size == len(image.read_bytes())


def test_what_the_device_answers_is_believed(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {module.KIOCGSIZE: 100, module.KIOCGADDR: 0x7F0000001000}
    answering(
        monkeypatch, lambda fd, request, _: answers[request].to_bytes(8, sys.byteorder)
    )

    with ksyms.Device(image) as device:
        assert device.size == 100
        assert device.address == 0x7F0000001000


def test_any_other_error_names_the_device(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, request: int, argument: bytes) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    answering(monkeypatch, refuse)

    with ksyms.Device(image) as device, pytest.raises(OSError, match="image") as error:
        _ = device.size
    assert error.value.errno == errno.EIO


def test_a_closed_device_answers_nothing(image: Path) -> None:
    device = ksyms.Device(image)
    _ = device.address
    device.close()
    device.close()

    for use in (device.read, lambda: device.size, lambda: device.address):
        with pytest.raises(ValueError, match="closed"):
            use()


def test_opening_what_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nosuch"):
        ksyms.Device(tmp_path / "nosuch")


@pytest.mark.fuse
def test_the_mounted_device_answers_for_itself(tmp_path: Path) -> None:
    (tmp_path / "kallsyms").write_bytes(KALLSYMS)
    options = ["--kallsyms", str(tmp_path / "kallsyms")]
    with serving(tmp_path, options) as server:
        with ksyms.Device(server.device) as device:
            with pytest.raises(OSError, match="busy"):
                ksyms.Device(server.device)
            data = device.read()
            assert device.size == len(data)
            assert ctypes.string_at(device.address, len(data)) == data

        # Nothing of a loaded table stays open.
        first, second = ksyms.load(server.device), ksyms.load(server.device)
        assert list(first) == list(second)
