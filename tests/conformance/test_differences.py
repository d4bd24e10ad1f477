"""README's table of differences from FreeBSD: every row is tried."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.server import BINDINGS, ROOT, Server, serving

pytestmark = pytest.mark.fuse

TABLE = ROOT / "tests" / "data" / "demo" / "kallsyms.txt"
KIOCGSIZE, KIOCGADDR = 0x80086C01, 0x80086C02
BSD_KIOCGSIZE, BSD_KIOCGADDR = 0x40086C01, 0x40086C02

Claim = Callable[[Server], None]
CLAIMS: dict[str, Claim] = {}

# Rows that need another server than one of a saved table, and where they are tried.
ELSEWHERE = {
    "Who may open": "test_access.py",
    "Callers that the server's pid namespace does not hold": "test_namespaces.py",
    "Unloading the driver": "test_life.py",
}


def claim(row: str) -> Callable[[Claim], Claim]:
    """What shows the row of this title."""

    def register(function: Claim) -> Claim:
        CLAIMS[row] = function
        return function

    return register


def rows() -> list[str]:
    section = (ROOT / "README.md").read_text().split("## Differences from FreeBSD")[1]
    titles = re.findall(r"^\| ([^|]+) \|", section.split("---|\n")[1], re.MULTILINE)
    return [title.replace("`", "") for title in titles]


@pytest.fixture(scope="module", params=BINDINGS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("differences")
    options = ["--kallsyms", str(TABLE)]
    with serving(directory, options, binding=request.param) as running:
        yield running


def test_every_row_is_tried() -> None:
    here = [row for row in rows() if row not in ELSEWHERE]

    assert list(CLAIMS) == here
    for row, file in ELSEWHERE.items():
        assert row in rows()
        assert f'"{row}"' in Path(__file__).with_name(file).read_text()


@pytest.mark.parametrize("row", CLAIMS)
def test_the_row_is_true(server: Server, row: str) -> None:
    CLAIMS[row](server)


def failure(call: Callable[..., object], *args: object) -> str:
    """The name of the errno with which the call fails."""
    with pytest.raises(OSError) as caught:
        call(*args)
    return errno.errorcode[caught.value.errno or 0]


@contextmanager
def opened(server: Server) -> Iterator[int]:
    """A descriptor of the device."""
    fd = os.open(server.device, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


@claim("The node")
def _(server: Server) -> None:
    assert stat.S_ISLNK(os.lstat(server.device).st_mode)
    assert stat.S_ISREG(os.stat(server.device).st_mode)
    assert failure(os.open, server.device, os.O_NOFOLLOW) == "ELOOP"


@claim("Its size")
def _(server: Server) -> None:
    with opened(server) as fd:
        size = len(os.pread(fd, 1 << 20, 0))

        assert size > 1000
        assert os.fstat(fd).st_size == os.lseek(fd, 0, os.SEEK_END) == size


@claim("KIOCGSIZE, KIOCGADDR")
def _(server: Server) -> None:
    # ioctl(2) itself: fcntl.ioctl copies what a BSD number would not bring back.
    ioctl = ctypes.CDLL(None).ioctl
    told = ctypes.c_uint64()
    with opened(server) as fd, mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ) as m:
        for request in (KIOCGSIZE, BSD_KIOCGSIZE):
            told.value = 0
            assert ioctl(fd, request, ctypes.byref(told)) == 0
            assert told.value == len(m)
        for request in (KIOCGADDR, BSD_KIOCGADDR):
            told.value = 0
            assert ioctl(fd, request, ctypes.byref(told)) == 0
            assert ctypes.string_at(told.value, 100) == m[:100]


@claim("KIOCGADDR (8 to 11)")
def _(server: Server) -> None:
    with opened(server) as fd:
        assert failure(fcntl.ioctl, fd, KIOCGADDR, bytes(8)) == "ENXIO"
        with mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ):
            fcntl.ioctl(fd, KIOCGADDR, bytes(8))


@claim("Any other ioctl")
def _(server: Server) -> None:
    with opened(server) as fd:
        assert failure(fcntl.ioctl, fd, 0x80086C03, bytes(8)) == "ENOTTY"


@claim("Opening for writing")
def _(server: Server) -> None:
    for flags in (os.O_RDWR, os.O_WRONLY):
        assert failure(os.open, server.device, flags) == "EACCES"


@claim("MAP_PRIVATE")
def _(server: Server) -> None:
    both = mmap.PROT_READ | mmap.PROT_WRITE
    with opened(server) as fd:
        with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, both) as mapped:
            mapped[0] = 0
        assert os.pread(fd, 1, 0) == b"\x7f"
        assert failure(mmap.mmap, fd, 0, mmap.MAP_SHARED, both) == "EACCES"


@claim("PROT_EXEC")
def _(server: Server) -> None:
    protection = mmap.PROT_READ | mmap.PROT_EXEC
    with opened(server) as fd:
        assert failure(mmap.mmap, fd, 0, mmap.MAP_SHARED, protection) == "EPERM"


@claim("Mapping more than the image")
def _(server: Server) -> None:
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "at = libc.mmap(None, ctypes.c_size_t(1 << 24), 1, 1, fd, ctypes.c_long(0))\n"
        "assert ctypes.string_at(at, 4) == b'\\x7fELF'\n"
        "ctypes.string_at(at + (1 << 23), 1)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, server.device])
    assert result.returncode == -signal.SIGBUS


@claim("chmod, chown")
def _(server: Server) -> None:
    assert failure(os.chmod, server.device, 0o444) == "EROFS"
    assert failure(os.chown, server.device, 1, 1) == "EROFS"


@claim("/dev/fd/N, /dev/stdin")
def _(server: Server) -> None:
    with opened(server) as fd:
        assert failure(os.open, f"/dev/fd/{fd}", os.O_RDONLY) == "EBUSY"


@claim("A descriptor nowhere but in a socket's queue")
def _(server: Server) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with opened(server) as fd:
            socket.send_fds(ours, [b"-"], [fd])
        with opened(server):
            pass
        _, (received,), _, _ = socket.recv_fds(theirs, 1, 1)
        assert os.pread(received, 4, 0) == b"\x7fELF"
        os.close(received)
