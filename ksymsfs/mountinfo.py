"""The mounts that a process sees: /proc/PID/mountinfo, proc(5)."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """One line of mountinfo, as far as it is needed."""

    id: int
    device: tuple[int, int]
    """st_dev of its files, as major and minor."""
    path: str
    fstype: str
    source: str


def mounts(mountinfo: str | os.PathLike[str] = "/proc/self/mountinfo") -> list[Mount]:
    """The mounts of *mountinfo*, in the order they were made."""
    found = []
    for line in os.fsdecode(Path(mountinfo).read_bytes()).split("\n")[:-1]:
        fields, _, rest = line.partition(" - ")
        number, _, device, _, escaped = fields.split()[:5]
        major, _, minor = device.partition(":")
        path = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), escaped)
        fstype, source = rest.split()[:2]
        found.append(Mount(int(number), (int(major), int(minor)), path, fstype, source))
    return found
