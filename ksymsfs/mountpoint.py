"""The directory that is mounted on, and the symbolic link at /dev/ksyms."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ksymsfs.aside import Aside, AsideError
from ksymsfs.errors import MountError
from ksymsfs.mountinfo import ON_FREEBSD, Mount, own_mounts

FSNAME = "ksymsfs"
# The type has the subtype in it on both systems. FreeBSD's older kernels ignore fsname,
# and call the source /dev/fuse.
_FSTYPES = (f"fuse.{FSNAME}", f"fusefs.{FSNAME}")
_MNT_DETACH = 2  # Linux
_MNT_FORCE = 0x80000  # FreeBSD

# How a directory without a server fails. FreeBSD: fuse_vnop_open, ENXIO.
_DEAD = (errno.ENOTCONN, errno.ECONNABORTED, errno.ENXIO)

ANSWER = 5.0
"""Seconds that a server already there may take to show that it is alive."""


class Mountpoint:
    """The directory *path*, taken for one server from `claim` to `release`."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        # As mountinfo has it; found without a look at what is mounted there, which may
        # be this very process, or a server that does not answer.
        parent, name = os.path.split(self.path)
        self._real = os.path.join(os.path.realpath(parent), name)
        self._created = False
        self._lock = -1

    def claim(self) -> None:
        """Make the directory if it is missing, and be the only one to mount there.

        A dead mount, which a killed server leaves, is unmounted first. Raises
        MountError where a server is running, or the path is no directory.
        """
        self.clear_dead_mount()
        try:
            Path(self.path).mkdir(mode=0o755)
            self._created = True
        except FileExistsError:
            pass
        except OSError as error:
            raise MountError(
                self.path, f"cannot make the directory: {error.strerror}"
            ) from error
        try:
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except NotADirectoryError as error:
            raise MountError(self.path, "not a directory") from error
        except BlockingIOError as error:
            self.release()
            raise MountError(
                self.path, "another ksymsfs is starting or serving there"
            ) from error
        except OSError as error:
            raise MountError(self.path, error.strerror or str(error)) from error
        self._real = os.path.realpath(self.path)  # the path itself may be a link

    def clear_dead_mount(self) -> None:
        """Unmount what servers that are gone have left there.

        Raises MountError where a server is running, or the mount is another's.
        """
        for mount in self._mounts():
            is_ours = mount.fstype in _FSTYPES
            try:
                # stat(2) would be answered from the cache, and statfs(2) without the
                # server on FreeBSD. A server that is stopped answers nothing.
                Aside(seconds=ANSWER).run(None, lambda late: os.listdir(self.path))
            except AsideError as error:
                raise MountError(
                    self.path, f"the {mount.fstype} mounted there: {error}"
                ) from error
            except OSError as error:
                if error.errno not in _DEAD:
                    raise MountError(self.path, str(error.strerror)) from error
            else:
                if is_ours:
                    command = "umount" if ON_FREEBSD else "fusermount -u"
                    raise MountError(
                        self.path,
                        "another ksymsfs is serving there; "
                        f"end it with: {command} {self.path}",
                    )
                return
            if not is_ours:
                raise MountError(
                    self.path, f"a dead mount of {mount.source} is in the way"
                )
            unmount(self.path)

    def device(self) -> tuple[int, int]:
        """The st_dev of the files that are mounted there now, as major and minor.

        Raises MountError when nothing is.
        """
        for mount in self._mounts():
            return mount.device
        raise MountError(self.path, "nothing is mounted there")

    def _mounts(self) -> list[Mount]:
        # The topmost first.
        return [mount for mount in reversed(own_mounts()) if mount.path == self._real]

    def release(self) -> None:
        """Undo `claim`: give the directory free, and remove it if it was made."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._created:
            self._created = False
            with contextlib.suppress(OSError):
                os.rmdir(self.path)


def unmount(path: str) -> None:
    """Detach the mount at *path*, busy or dead: umount2(2), FreeBSD's unmount(2).

    Raises MountError where that is refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "umount2"):
        result = libc.umount2(os.fsencode(path), _MNT_DETACH)
    else:
        result = libc.unmount(os.fsencode(path), _MNT_FORCE)
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise MountError(path, f"cannot unmount what a dead server left: {reason}")


@contextlib.contextmanager
def device_link(path: str | None, target: str) -> Iterator[None]:
    """The symbolic link at *path* (None: no link) while the block runs.

    A link to *target* that is already there, which a killed server leaves, is taken
    over. Raises MountError, and touches nothing, where anything else is there.
    """
    if path is None:
        yield
        return
    try:
        os.symlink(target, path)
    except FileExistsError as error:
        if not _is_link_to(path, target):
            raise MountError(
                path,
                "exists and is not ours; remove it, or choose another --device",
            ) from error
    except OSError as error:
        raise MountError(
            path, f"cannot make the symbolic link: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        if _is_link_to(path, target):
            os.unlink(path)


def _is_link_to(path: str, target: str) -> bool:
    try:
        return os.readlink(path) == target
    except OSError:
        return False
