"""Runs a module as FreeBSD's Python would: ``python freebsd_stand_in.py MODULE ARGS``.

What sys, os and the C library have there and not here, and the other way round, as far
as programs can ask for it. $KLD_LIBRARY has FreeBSD's own calls (kld_stub.c).
Error numbers stay Linux's.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
import sysconfig
from typing import Any

import numpy  # noqa: F401 (asks, when it is imported, for what really is here)

# What CPython takes from Linux's headers and libraries that FreeBSD 14's have not.
LINUX_ONLY = {
    "errno": "EBADFD ECOMM EHWPOISON ENODATA ENOKEY ENOMEDIUM ENONET EREMOTEIO ERFKILL "
    "ETIME EUCLEAN",
    "fcntl": "F_GETLEASE F_GETPIPE_SZ F_NOTIFY F_OFD_GETLK F_OFD_SETLK F_OFD_SETLKW "
    "F_SETLEASE F_SETPIPE_SZ LOCK_MAND",
    "mmap": "MADV_DONTFORK MADV_HUGEPAGE MADV_REMOVE MAP_DENYWRITE MAP_EXECUTABLE "
    "MAP_NORESERVE MAP_POPULATE",
    "os": "O_LARGEFILE O_NOATIME O_RSYNC O_TMPFILE P_PIDFD RWF_HIPRI RWF_NOWAIT "
    "XATTR_CREATE getxattr listxattr pidfd_open removexattr setxattr",
    "resource": "RLIMIT_MSGQUEUE RLIMIT_NICE RLIMIT_RTPRIO RLIMIT_RTTIME "
    "RLIMIT_SIGPENDING prlimit",
    "select": "EPOLLIN epoll",
    "signal": "SIGCLD SIGPOLL SIGPWR SIGSTKFLT pidfd_send_signal",
    "socket": "AF_ALG AF_PACKET AF_VSOCK SO_PASSCRED SO_PEERCRED",
    "time": "CLOCK_MONOTONIC_RAW",
}

CALLS = ("kldnext", "kldstat", "kldsym", "sysctlbyname", "getfsstat", "unmount")


class CLibrary(ctypes.CDLL):
    """The C library: of its functions, those that only FreeBSD has."""

    def __init__(self, name: str | None, *args: Any, **kwargs: Any) -> None:
        if name is not None:
            raise OSError(f'Shared object "{name}" not found')
        super().__init__(os.environ["KLD_LIBRARY"], *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in CALLS or name.startswith("_"):
            return super().__getattr__(name)
        raise AttributeError(f'Undefined symbol "{name}"')


def become_freebsd() -> None:
    """Make this process's Python look like FreeBSD's."""
    for module, names in LINUX_ONLY.items():
        for name in names.split():
            if hasattr(__import__(module), name):
                delattr(__import__(module), name)
    sysconfig.get_config_vars()  # of the Python that this really is
    uname = os.uname_result(
        ("FreeBSD", "beastie", "14.1-RELEASE-p5", "FreeBSD 14.1-RELEASE-p5", "amd64")
    )
    os.uname = lambda: uname
    sys.platform = "freebsd14"
    ctypes.CDLL = CLibrary  # type: ignore[misc]


if __name__ == "__main__":
    become_freebsd()
    del sys.argv[0]
    sys.path[0] = ""
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
