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
from ksymsfs.errnos import Errnos
from ksymsfs.errors import RefusedError
from ksymsfs.generation import Generation

log = logging.getLogger(__name__)

_P = ParamSpec("_P")
_R = TypeVar("_R")

Attributes = dict[str, int]

# The kernel's own inode numbers start at 1; a snapshot's is INODE.
_ROOT_INODE, _SNAPSHOTS_INODE, _LINK_INODE, _MODULES_INODE = 1, 2, 3, 4
_IOC_READ = 2


class FileInfo(Protocol):
    """What is used of struct fuse_file_info."""

    flags: int
    fh: int
    direct_io: int
    keep_cache: int


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
            number = self._errnos.of(function.__name__, error)
            raise OSError(number, os.strerror(number)) from None

    return wrapped


class Filesystem:
    """The callbacks, by the names and arguments of fusepy with raw_fi.

    *caller* gives the thread id of the process that is asking, by the rules of
    `Device`. *mode* is the snapshots' and the listing's.
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
        self._errnos = Errnos()
        self._started: list[Callable[[], None]] = []

    def when_mounted(self, call: Callable[[], None]) -> None:
        """Have *call* called once in the serving process: threads start there."""
        self._started.append(call)

    def init(self, path: str) -> None:
        for call in self._started:
            try:
                call()
            except Exception:  # nobody would hear of it, and the rest must be called
                log.exception("at the start")

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
        generation = self._device.walks.found(self._caller(), _number(path))
        return self._snapshot_attributes(generation)

    def _snapshot_attributes(self, generation: Generation) -> Attributes:
        return self._attributes(
            stat.S_IFREG | self._mode, INODE, size=len(generation.image)
        )

    def _attributes(
        self, mode: int, inode: int, *, size: int = 0, links: int = 1
    ) -> Attributes:
        attributes = {
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
        # The bindings take long over each, and have cleared them all.
        return {name: value for name, value in attributes.items() if value}

    @_callback
    def readlink(self, path: str) -> str:
        if path != "/ksyms":
            raise RefusedError(errno.EINVAL, "not a symbolic link", quiet=True)
        number = self._device.walks.named(self._caller()).number
        return snapshot_path(number).lstrip("/")

    @_callback
    def readdir(self, path: str, fi: FileInfo) -> list[tuple[str, Attributes, int]]:
        # With their attributes: libfuse3 would show an inode 0, which is no entry.
        own = self.getattr(path)
        entries = [(".", own, 0), ("..", own, 0)]
        if path == "/":
            for name in ("ksyms", "modules", "snapshots"):
                entries.append((name, self.getattr(f"/{name}"), 0))
        else:
            for generation in self._device.generations.all():
                attributes = self._snapshot_attributes(generation)
                entries.append((str(generation.number), attributes, 0))
        return entries

    @_callback
    def open(self, path: str, fi: FileInfo) -> int:
        tid = self._caller()
        if path == "/modules":
            self._device.check_access(tid, fi.flags)
            listing = self._device.generations.current().modules
            self._last_listing += 1
            self._listings[self._last_listing] = listing
            fi.fh, fi.direct_io = self._last_listing, 1
            return 0
        fi.fh = self._device.open(_number(path), tid, fi.flags)
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
            self._device.flush(fi.fh, self._caller())
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
        if not _number(path):  # the listing, or a directory
            raise RefusedError(errno.ENOTTY, "no ioctl here", quiet=True)
        answer = self._device.ioctl(fi.fh, self._caller(), request, arg or 0)
        if answer:
            assert data is not None
            ctypes.memmove(data, answer, len(answer))
        return 0

    @_callback
    def statfs(self, path: str) -> dict[str, Any]:
        # FreeBSD takes f_frsize for the size of a block, Linux f_bsize.
        return {"f_bsize": 4096, "f_frsize": 4096, "f_namemax": 255}

    @_callback
    def truncate(self, path: str, *args: object) -> int:
        # Comes after the OPEN of one with O_TRUNC, too.
        raise self._device.write_error()

    @_callback
    def _change(self, path: str, *args: object) -> int:
        raise RefusedError(errno.EROFS, "nothing here can be changed", quiet=True)

    create = mknod = mkdir = symlink = link = rename = unlink = rmdir = _change
    chmod = chown = utimens = _change


def _number(path: str) -> int:
    # "/snapshots/17" -> 17; one spelling a generation. Else 0, which none has.
    text = path.removeprefix("/snapshots/")
    is_number = text.isascii() and text.isdigit() and text[0] != "0"
    return int(text) if text != path and is_number and len(text) < 20 else 0
