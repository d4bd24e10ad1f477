"""Hands a Filesystem to libfuse. The only importer of the FUSE binding."""

from __future__ import annotations

import importlib
import logging
import os
import queue
import threading
from contextlib import nullcontext
from types import ModuleType
from typing import Any

from ksymsfs.aside import start_thread
from ksymsfs.device import snapshot_path
from ksymsfs.errors import MountError
from ksymsfs.fs import Filesystem
from ksymsfs.fusefs import mounted
from ksymsfs.mountinfo import ON_FREEBSD
from ksymsfs.mountpoint import FSNAME

log = logging.getLogger(__name__)

BINDINGS = ("mfusepy",) if ON_FREEBSD else ("fuse", "fusepy", "mfusepy")
"""Module names, in the order tried: fusepy as PyPI and as Debian call it, then its
maintained fork, which knows libfuse3 on Linux, and FreeBSD's struct stat since FreeBSD
12, but there libfuse2 alone."""

_INSTALL = (
    "install libfuse2 (pkg install fusefs-libs) and mfusepy (pip install "
    "'ksymsfs[fuse3]')"
    if ON_FREEBSD
    else "install libfuse2 (Debian: apt install libfuse2) for fusepy, or libfuse3 with "
    "pip install 'ksymsfs[fuse3]'"
)

_NEVER = 10 * 365 * 86400  # seconds the kernel may keep what cannot change

_MAX_BACKGROUND = 1000
"""Beyond it, the RELEASEs of many processes would wait in a second queue."""


def load_binding(names: tuple[str, ...] = BINDINGS) -> ModuleType:
    """The first usable FUSE binding.

    Raises MountError that names what to install when there is none.
    """
    reasons = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
        except (OSError, AttributeError) as error:
            # They look for libfuse when they are imported; AttributeError: one of a
            # version that they do not know.
            reasons.append(f"{name}: {error}")
        else:
            # python-fuse is called fuse as well, and is something else.
            if hasattr(module, "FUSE") and hasattr(module, "Operations"):
                return module
            reasons.append(f"{name}: not fusepy")
    raise MountError(
        "",
        f"no usable FUSE binding: {_INSTALL} [{'; '.join(reasons)}]",
    )


def serve(filesystem: Filesystem, mountpoint: str, binding: ModuleType) -> None:
    """Mount *filesystem* and answer until it is unmounted or a signal ends it.

    SIGTERM, SIGINT and SIGHUP unmount cleanly (libfuse's own handlers). Raises
    MountError when the mount is refused.
    """
    started = threading.Event()
    filesystem.when_mounted(started.set)
    kernel: dict[str, Any] = {
        "fsname": FSNAME,
        "subtype": FSNAME,
        "default_permissions": True,
        "allow_other": True,
        "nosuid": True,
        "noexec": True,
        # FreeBSD does not know nodev, and would send a SETATTR after every read.
        "noatime" if ON_FREEBSD else "nodev": True,
    }
    options: dict[str, Any] = {
        "foreground": True,
        # One thread: cheaper, and two opens are never decided at the same time.
        "nothreads": True,
        "raw_fi": True,
        "use_ino": True,
        "attr_timeout": _NEVER,
        # What a name stands for never changes either. When it stands for nothing any
        # more, OPEN says so, and Linux asks again.
        "entry_timeout": 0 if ON_FREEBSD else _NEVER,
        **kernel,
    }
    operations: object = _Operations(filesystem)
    if not hasattr(binding, "fuse_version_major"):  # fusepy
        options["max_background"] = _MAX_BACKGROUND
        operations = _Callable(filesystem)
    try:
        with (
            mounted(mountpoint, kernel) if ON_FREEBSD else nullcontext(mountpoint) as at
        ):
            binding.FUSE(operations, at, **options)
    except RuntimeError as error:
        # libfuse3 ends with an error after a signal, too.
        if not started.is_set():
            raise MountError(
                mountpoint,
                "libfuse refused to mount (its message is above); it needs root or "
                "user_allow_other in /etc/fuse.conf, and /dev/fuse",
            ) from error


def caller_of(binding: ModuleType) -> int:
    """The thread id of who makes the current request; 0 if it cannot be seen."""
    return int(binding.fuse_get_context()[2])


class _Operations:
    # The callbacks, as mfusepy asks for them: by attribute.
    def __init__(self, filesystem: Filesystem) -> None:
        self._filesystem = filesystem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._filesystem, name)

    def init_with_config(self, connection: Any, config: Any) -> None:
        if connection is not None:
            connection.max_background = _MAX_BACKGROUND  # no option in libfuse3
        self._filesystem.init("/")


class _Callable(_Operations):
    # fusepy asks its operations as operations(name, *args).
    def __call__(self, name: str, *args: Any) -> Any:
        return getattr(self._filesystem, name)(*args)


class Sweeper:
    """Has the kernel forget generations that are gone.

    Its inode and its page cache of each would stay until memory runs short. To try and
    open it is all it takes: the server answers ESTALE, the kernel asks for the name
    again, and drops it. That must not be done in a callback, which would wait for
    itself.
    """

    def __init__(self, mountpoint: str) -> None:
        self._mountpoint = mountpoint
        self._gone: queue.SimpleQueue[int] = queue.SimpleQueue()

    def start(self) -> None:
        """Sweep from now on, in a thread of its own."""
        start_thread("sweeper", self._run)

    def sweep(self, number: int) -> None:
        """Have generation *number* forgotten soon."""
        self._gone.put(number)

    def _run(self) -> None:
        while True:
            path = self._mountpoint + snapshot_path(self._gone.get())
            try:
                os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                log.debug("swept %s: %s", path, error.strerror)
