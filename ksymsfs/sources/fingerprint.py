"""The fingerprint of sources that are files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def files_fingerprint(paths: Iterable[Path]) -> tuple[tuple[int, int, int, int], ...]:
    """What stat(2) tells of each file: device, inode, size, time of change in ns.

    An edit in place, a rename over the file and a symlink that moves all change it.
    Raises OSError for a file that is not there.
    """
    stats = (path.stat() for path in paths)
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats)
