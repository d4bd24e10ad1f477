"""The mounts that a process sees: proc(5) on Linux, mount(8) -p on FreeBSD."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """One mount, as far as it is needed."""

    device: tuple[int, int]
    """st_dev of its files, as major and minor."""
    path: str
    fstype: str
    source: str


def own_mounts() -> list[Mount]:
    """The mounts that this process sees, in the order they were made."""
    if Path("/proc/self/mountinfo").exists():
        return mounts()
    listing = subprocess.run(["mount", "-p"], capture_output=True, check=True)
    return bsd_mounts(listing.stdout)


def bsd_mounts(listing: bytes) -> list[Mount]:
    """The mounts of *listing*, what FreeBSD's mount -p prints: lines of fstab(5).

    It tells no numbers: those are 0.
    """
    found = []
    for line in os.fsdecode(listing).splitlines():
        source, path, fstype = line.split()[:3]
        # strvis(3) has written space and tab as octal, as fstab(5) wants it.
        found.append(Mount((0, 0), _unescaped(path), fstype, source))
    return found


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
