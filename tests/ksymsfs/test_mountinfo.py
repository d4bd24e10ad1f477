"""What is mounted where, as Linux and FreeBSD tell it."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ksymsfs import mountinfo as module
from ksymsfs.mountinfo import Mount, bsd_mounts, mounts, own_mounts

LINUX = b"""\
22 1 252:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
97 22 0:52 / /tmp/a\\040b rw,nosuid,nodev shared:40 master:2 - fuse.ksymsfs ksymsfs rw
"""


def test_linux_tells_it_in_mountinfo(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_bytes(LINUX)

    assert mounts(tmp_path / "mountinfo") == [
        Mount((252, 0), "/", "ext4", "/dev/vda"),
        Mount((0, 52), "/tmp/a b", "fuse.ksymsfs", "ksymsfs"),
    ]


# data/freebsd-mounts/statfs.c says what is in it.
FREEBSD = [
    Mount((0, 0), "/", "ufs", "/dev/ufs/rootfs"),
    Mount((0, 0), "/dev", "devfs", "devfs"),
    Mount((0, 0), "/tmp/a b", "fusefs.ksymsfs", "ksymsfs"),
    Mount((0, 0), "/mnt", "fusefs.ksymsfs", "/dev/fuse"),
]


def test_freebsd_tells_it_in_struct_statfs(data: Path) -> None:
    array = (data / "freebsd-mounts" / "statfs.bin").read_bytes()

    assert bsd_mounts(array) == FREEBSD


class Libc:
    """getfsstat(2) of a FreeBSD with many mounts: as many as there is room for."""

    def __init__(self, array: bytes, number: int = 0) -> None:
        self.array, self.number = array, number
        self.modes: list[int] = []

    def getfsstat(self, array: Any, size: Any, mode: int) -> int:
        self.modes.append(mode)
        if self.number:
            ctypes.set_errno(self.number)
            return -1
        found = self.array[: size.value]
        ctypes.memmove(array, found, len(found))
        return len(found) // 2344


def on_freebsd(monkeypatch: pytest.MonkeyPatch, libc: Libc) -> None:
    monkeypatch.setattr(module, "ON_FREEBSD", True)
    monkeypatch.setattr(ctypes, "CDLL", lambda name, use_errno: libc)
    # No file of a /proc that may be there, and no mount(8), is asked.
    for name in ("open", "read_bytes", "exists"):
        monkeypatch.setattr(Path, name, None)
    monkeypatch.setattr(os, "fork", None)


def test_freebsd_is_asked_without_waiting_for_any_file_system(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libc = Libc((data / "freebsd-mounts" / "statfs.bin").read_bytes() * 100)
    on_freebsd(monkeypatch, libc)

    assert own_mounts() == FREEBSD * 100
    assert set(libc.modes) == {2}  # MNT_NOWAIT


def test_freebsds_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    on_freebsd(monkeypatch, Libc(b"", errno.EPERM))

    with pytest.raises(PermissionError):
        own_mounts()
