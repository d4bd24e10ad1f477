"""The mounted directory: FUSE callbacks translated to the device, and errors to errnos.

    ksyms            symbolic link whose text is the current generation's path
    snapshots/N      the image of generation N
    modules          the linker files of the current generation, as text

One inode a *generation*: its bytes and size never change, so read, mmap and fstat are
right for everybody and all openers share one copy in the page cache.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import logging
import os
import stat
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from ksymsfs.device import INODE, Device, snapshot_path
from ksymsfs.errors import (
    ImageTooLargeError,
    KsymsFSError,
    RestrictedError,
    SnapshotError,
    SourceError,
)
from ksymsfs.generation import Generation

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

Attributes = dict[str, int]

# The kernel's own inode numbers start at 1; a snapshot's is INODE.
_ROOT_INODE, _SNAPSHOTS_INODE, _LINK_INODE, _MODULES_INODE = 1, 2, 3, 4
_IOC_READ = 2

_ERRNOS: tuple[tuple[type[BaseException], int], ...] = (
    (SnapshotError, errno.ENXIO),
    (ImageTooLargeError, errno.ENOMEM),
    (MemoryError, errno.ENOMEM),
    (RestrictedError, errno.EPERM),
    (SourceError, errno.ENXIO),
    (KsymsFSError, errno.EIO),
)
"""What open fails with; the first class that fits decides. ksyms(4) ERRORS."""


class FileInfo(Protocol):
    """What is used of struct fuse_file_info."""

    flags: int
    fh: int
    direct_io: int
    keep_cache: int


class _Translator:
    # Errors of ours become errnos, each said once until another comes; anything
    # unexpected is logged with its traceback and becomes EIO.
    def __init__(self) -> None:
        self._said = ""

    def errno_of(self, operation: str, error: BaseException) -> int:
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(number, int) and number > 0:
            return number
        for kind, meaning in _ERRNOS:
            if isinstance(error, kind):
                if str(error) != self._said:
                    self._said = str(error)
                    log.error("%s: %s", operation, error or kind.__name__)
                return meaning
        log.error("%s: unexpected error", operation, exc_info=error)
        return errno.EIO


def _callback(
    function: Callable[Concatenate[Filesystem, _P], _R],
) -> Callable[Concatenate[Filesystem, _P], _R]:
    # What leaves a callback otherwise than as OSError with an errno gives the caller
    # garbage, or success: the bindings were not written for it.
    @functools.wraps(function)
    def wrapped(self: Filesystem, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(self, *args, **kwargs)
        except BaseException as error:
            number = self._translator.errno_of(function.__name__, error)
            raise OSError(number, os.strerror(number)) from None

    return wrapped


class Filesystem:
    """The callbacks, by the names and arguments of fusepy with raw_fi.

    *caller* gives the thread id of the process that is asking. *mode* is the snapshots'
    and the listing's.
    """

    use_ns = True  # attributes' times are integers

    def __init__(
        self, device: Device, *, caller: Callable[[], int], mode: int = 0o400
    ) -> None:
        self._device = device
        self._caller = caller
        self._mode = mode
        self._time = time.time_ns()
        self._uid, self._gid = os.geteuid(), os.getegid()
        self._listings: dict[int, bytes] = {}
        self._last_listing = 0
        self._translator = _Translator()
        self._started: list[Callable[[], None]] = []

    def when_mounted(self, call: Callable[[], None]) -> None:
        """Have *call* called once in the serving process: threads start there."""
        self._started.append(call)

    def init(self, path: str) -> None:
        for call in self._started:
            call()

    @_callback
    def getattr(self, path: str, fi: FileInfo | None = None) -> Attributes:
        if path == "/":
            return self._attributes(stat.S_IFDIR | 0o555, _ROOT_INODE, links=3)
        if path == "/snapshots":
            return self._attributes(stat.S_IFDIR | 0o555, _SNAPSHOTS_INODE, links=2)
        if path == "/ksyms":
            # Its size is that of any answer, without asking the source for one.
            return self._attributes(stat.S_IFLNK | 0o777, _LINK_INODE)
        if path == "/modules":
            # As in procfs: its size is known only to who has it open.
            return self._attributes(stat.S_IFREG | self._mode, _MODULES_INODE)
        generation = self._generation(path)
        return self._attributes(
            stat.S_IFREG | self._mode, INODE, size=len(generation.image)
        )

    def _attributes(
        self, mode: int, inode: int, *, size: int = 0, links: int = 1
    ) -> Attributes:
        return {
            "st_mode": mode,
            "st_ino": inode,
            "st_nlink": links,
            "st_size": size,
            "st_blocks": -(-size // 512),
            "st_uid": self._uid,
            "st_gid": self._gid,
            "st_atime": self._time,
            "st_mtime": self._time,
            "st_ctime": self._time,
        }

    def _generation(self, path: str) -> Generation:
        number = _number(path)
        generation = None if number is None else self._device.generations.get(number)
        if generation is None:
            raise OSError(errno.ENOENT, "no such generation")
        return generation

    @_callback
    def readlink(self, path: str) -> str:
        if path != "/ksyms":
            raise OSError(errno.EINVAL, "not a symbolic link")
        return snapshot_path(self._device.generations.current().number).lstrip("/")

    @_callback
    def readdir(self, path: str, fi: FileInfo) -> list[tuple[str, Attributes, int]]:
        if path == "/":
            names = ["ksyms", "modules", "snapshots"]
        elif path == "/snapshots":
            names = [str(n) for n in self._device.generations.numbers()]
        else:
            raise OSError(errno.ENOTDIR, "not a directory")
        # With their attributes: libfuse3 would show an inode 0, which is no entry.
        own = self.getattr(path)
        return [(".", own, 0), ("..", own, 0)] + [
            (name, self.getattr(f"{path.rstrip('/')}/{name}"), 0) for name in names
        ]

    @_callback
    def open(self, path: str, fi: FileInfo) -> int:
        tid = self._caller()
        if path == "/modules":
            if fi.flags & os.O_ACCMODE != os.O_RDONLY:
                raise OSError(errno.EACCES, "read-only")
            self._device.check_access(tid)
            self._last_listing += 1
            listing = self._device.generations.current().modules
            self._listings[self._last_listing] = listing
            fi.fh, fi.direct_io = self._last_listing, 1
            return 0
        number = _number(path)
        if number is None:
            raise OSError(errno.ENOENT, "no such file")
        fi.fh = self._device.open(number, tid, fi.flags)
        fi.keep_cache = 1
        return 0

    @_callback
    def read(self, path: str, size: int, offset: int, fi: FileInfo) -> bytes:
        if path == "/modules":
            return self._listings[fi.fh][offset : offset + size]
        return self._device.read(fi.fh, size, offset)

    @_callback
    def flush(self, path: str, fi: FileInfo) -> int:
        if path != "/modules":
            self._device.flush(fi.fh)
        return 0

    @_callback
    def release(self, path: str, fi: FileInfo) -> int:
        if path == "/modules":
            del self._listings[fi.fh]
        else:
            self._device.release(fi.fh)
        return 0

    @_callback
    def ioctl(
        self, path: str, cmd: int, arg: int | None, fi: FileInfo, flags: int,
        data: int | None,
    ) -> int:  # fmt: skip
        # libfuse before 3.11 sends the out buffer as malloc gave it, with the server's
        # heap in it, whenever the request asks for one: even with an error.
        request = cmd & 0xFFFFFFFF
        if data and request >> 30 & _IOC_READ:
            ctypes.memset(data, 0, request >> 16 & 0x3FFF)
        if path == "/modules":
            raise OSError(errno.ENOTTY, "no ioctl here")
        answer = self._device.ioctl(fi.fh, self._caller(), request, arg or 0)
        if answer:
            assert data is not None
            ctypes.memmove(data, answer, len(answer))
        return 0

    @_callback
    def statfs(self, path: str) -> dict[str, Any]:
        return {"f_bsize": 4096, "f_namemax": 255}


def _number(path: str) -> int | None:
    # "/snapshots/17" -> 17; one spelling a generation.
    text = path.removeprefix("/snapshots/")
    if text != path and text.isascii() and text.isdigit() and text[0] != "0":
        return int(text)
    return None
