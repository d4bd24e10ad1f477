"""Small files of procfs and sysfs that are read again and again."""

from __future__ import annotations

import errno
import os

_SIZE = 1 << 12  # the kernel clears as much memory as is asked for


class KernelFile:
    """A file that the kernel writes anew for whoever reads it from its start.

    It stays open: to open it takes five times as long as to read it. What this kernel
    has not got, it does not get.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._is_missing = False

    def read(self) -> bytes:
        """The value that it holds. Raises OSError where it cannot be opened or read."""
        return os.pread(self._open(), _SIZE, 0)

    def read_lines(self) -> bytes:
        """Its lines, of which the kernel gives a page or less at a time.

        Raises OSError where it cannot be opened or read.
        """
        data = chunk = self.read()
        while chunk:
            chunk = os.pread(self._fd, _SIZE, len(data))
            data += chunk
        return data

    def _open(self) -> int:
        if self._fd < 0:
            if self._is_missing:
                raise FileNotFoundError(errno.ENOENT, "not in this kernel", self.path)
            try:
                self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._is_missing = True
                raise
        return self._fd

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
