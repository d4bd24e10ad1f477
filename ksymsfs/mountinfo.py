"""The mounts that a process sees: proc(5) on Linux, getfsstat(2) on FreeBSD.

Never mount(8) -p there: it asks every file system, and waits for one whose server does
not answer. Nor /proc, which may be linprocfs(5), and does the same.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

ON_FREEBSD = sys.platform.startswith("freebsd")

_MNT_NOWAIT = 2  # FreeBSD: what is known already

# struct statfs since FreeBSD 12 (sys/sys/mount.h, STATFS_VERSION 0x20140518):
# f_fstypename, f_mntfromname and f_mntonname, which end it.
_STATFS = struct.Struct("280x16s1024s1024s")


class Mount(NamedTuple):
    """One mount, as far as it is needed."""

    device: tuple[int, int]
    """st_dev of its files, as major and minor; 0 on FreeBSD."""
    path: str
    fstype: str
    source: str


def own_mounts() -> list[Mount]:
    """The mounts that this process sees, in the order they were made."""
    return bsd_mounts(_getfsstat()) if ON_FREEBSD else mounts()


def bsd_mounts(array: bytes) -> list[Mount]:
    """The mounts of *array*, of FreeBSD's struct statfs."""
    found = []
    for fields in _STATFS.iter_unpack(array):
        names = (os.fsdecode(field.partition(b"\0")[0]) for field in fields)
        fstype, source, path = names
        found.append(Mount((0, 0), path, fstype, source))
    return found


def _getfsstat() -> bytes:
    libc = ctypes.CDLL(None, use_errno=True)
    room = 64
    while True:
        array = ctypes.create_string_buffer(room * _STATFS.size)
        count = libc.getfsstat(array, ctypes.c_long(len(array)), _MNT_NOWAIT)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        if count < room:  # else there may be more
            return array.raw[: count * _STATFS.size]
        room *= 2


def mounts(mountinfo: str | os.PathLike[str] = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of *mountinfo*, in the order they were made."""
    found = []
    for line in os.fsdecode(Path(mountinfo).read_bytes()).split("\n")[:-1]:
        fields, _, rest = line.partition(" - ")
        device, _, escaped = fields.split()[2:5]
        major, _, minor = device.partition(":")
        fstype, source = rest.split()[:2]
        where = (int(major), int(minor))
        found.append(Mount(where, _unescaped(escaped), fstype, source))
    return found


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), path)
