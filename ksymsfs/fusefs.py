"""FreeBSD: the mount is made before libfuse begins, and undone when it has ended.

libfuse itself runs mount_fusefs(8) in the background: it would not hear of a failure
and wait for ever, and FUSE_INIT may come before the mount is in the list. In the end it
calls unmount(2) while it has the device open, whose FUSE_DESTROY is then for itself to
answer: that takes a minute (fuse_vfsop_unmount, fticket_wait_answer). The kernel does
not need the server to mount (fuse_vfsop_mount sends FUSE_INIT and goes on), nor, once
the device is closed, to unmount.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping

from ksymsfs.errors import MountError
from ksymsfs.mountpoint import Mountpoint

DEVICE = "/dev/fuse"

# What mount_fusefs(8) tells a server that it starts: libfuse takes this descriptor, and
# mounts nothing.
_DESCRIPTOR, _NO_MOUNT = "FUSE_DEV_FD", "FUSE_NO_MOUNT"


@contextlib.contextmanager
def mounted(path: str, options: Mapping[str, object]) -> Iterator[str]:
    """Mount fusefs(5) on *path* while the block runs.

    *options* are those of mount_fusefs(8); True stands for one without a value. Gives
    the path that libfuse is to be called with: one that it cannot unmount. Raises
    MountError when the mount is refused.
    """
    place = Mountpoint(os.path.realpath(path))
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(
            DEVICE, f"{error.strerror}; is fusefs loaded (kldload fusefs)?"
        ) from error
    status = os.fstat(fd)
    try:
        _mount(fd, place.path, options)
    except BaseException:
        os.close(fd)
        raise
    try:
        os.environ.update({_DESCRIPTOR: str(fd), _NO_MOUNT: "1"})
        yield os.devnull
    finally:
        for name in (_DESCRIPTOR, _NO_MOUNT):
            del os.environ[name]
        with contextlib.suppress(OSError):  # libfuse has closed it, if it came so far
            if os.path.samestat(os.fstat(fd), status):
                os.close(fd)
        place.clear_dead_mount()


def _mount(fd: int, path: str, options: Mapping[str, object]) -> None:
    words = (k if v is True else f"{k}={v}" for k, v in options.items())
    done = subprocess.run(
        ["mount_fusefs", "-o", ",".join(words), str(fd), path],
        # It must not take the path for the command of a server to start.
        env={**os.environ, "MOUNT_FUSEFS_SAFE": "1"},
        pass_fds=(fd,),
        capture_output=True,
    )
    if done.returncode != 0:
        raise MountError(path, os.fsdecode(done.stderr).strip() or "mount_fusefs fails")
