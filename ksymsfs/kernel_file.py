"""Small files of procfs and sysfs that are read again and again."""

from __future__ import annotations

import os

_SIZE = 1 << 12  # the kernel clears as much memory as is asked for


class KernelFile:
    """A file that the kernel writes anew for whoever reads it from its start.

    It stays open: to open it takes five times as long as to read it.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def read(self) -> bytes:
        """What it says now. Raises OSError where it cannot be opened or read."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        data = chunk = os.pread(self._fd, _SIZE, 0)
        # The kernel gives a page at a time, and less of what has lines.
        while chunk:
            chunk = os.pread(self._fd, _SIZE, len(data))
            data += chunk
        return data

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
