"""Device: /dev/ksyms as a C program has it, with ksyms(4)'s ioctls."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import struct
import sys
from types import TracebackType
from typing import Self

from ksyms.image import default_image

# _IOR('l', 1, size_t) and _IOR('l', 2, void *) of sys/ksyms.h. What BSD's macros, and
# Linux's on these machines, call reading is writing to Linux's elsewhere.
_READ = (
    0x80000000
    if sys.platform == "linux"
    and not os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha"))
    else 0x40000000
)
_WORD = struct.Struct("@N")
KIOCGSIZE = _READ | _WORD.size << 16 | ord("l") << 8 | 1
KIOCGADDR = _READ | _WORD.size << 16 | ord("l") << 8 | 2

# What an open file answers that has no such ioctls: another kind of file; FreeBSD's
# device since 2017; FreeBSD's FUSE, which forwards none.
_NO_IOCTL = (errno.ENOTTY, errno.ENODEV, errno.EINVAL, errno.ENOSYS)


class Device:
    """An open /dev/ksyms: the snapshot of the kernel's symbols as it was at the open.

    Most programs want ksyms.load() instead. A process can have one device open at a
    time (EBUSY). Where the system has not the ioctls, fstat(2), read(2) and mmap(2)
    answer for them. Every method raises OSError where the system refuses, and
    ValueError after close().

    >>> with ksyms.Device() as device:              # doctest: +SKIP
    ...     image = device.read()
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Open *path* (default: $KSYMS, else /dev/ksyms)."""
        self.path = os.fspath(path) if path is not None else default_image()
        self._map: mmap.mmap | None = None
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._fd < 0 else f"fd {self._fd}"
        return f"<Device {self.path}, {state}>"

    def fileno(self) -> int:
        """The file descriptor."""
        if self._fd < 0:
            raise ValueError(f"{self.path}: the device is closed")
        return self._fd

    @property
    def size(self) -> int:
        """The exact size of the image in bytes (KIOCGSIZE)."""
        size = self._ioctl(KIOCGSIZE)
        if size is None:
            size = os.fstat(self.fileno()).st_size
        # A character device has none: its end is where reading ends.
        return size or self._count()

    @property
    def address(self) -> int:
        """Where the image lies in this process's memory (KIOCGADDR).

        It is mapped there, read-only, until close().
        """
        if self._map is None:
            self._map = mmap.mmap(
                self.fileno(), self.size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ
            )
        address = self._ioctl(KIOCGADDR)
        if address is None:
            import numpy as np

            address = int(np.frombuffer(self._map, np.uint8).ctypes.data)
        return address

    def read(self, size: int = -1) -> bytes:
        """The next *size* bytes of the image, by default all that follow."""
        if size >= 0:
            return os.read(self.fileno(), size)
        parts = []
        while part := os.read(self.fileno(), 1 << 20):
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Unmap and close; the process may open the device again."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _ioctl(self, request: int) -> int | None:
        # What the ioctl answers, None where there is none.
        try:
            answer = fcntl.ioctl(self.fileno(), request, bytes(_WORD.size))
        except OSError as error:
            if error.errno in _NO_IOCTL:
                return None
            raise OSError(error.errno, error.strerror, self.path) from error
        (value,) = _WORD.unpack(answer)
        return int(value)

    def _count(self) -> int:
        fd, size = self.fileno(), 0
        while part := len(os.pread(fd, 1 << 20, size)):
            size += part
        return size
