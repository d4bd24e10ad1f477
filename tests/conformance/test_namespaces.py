"""A server in a pid namespace of its own: callers outside it have no process id."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.server import BINDINGS, ROOT, Binding, environment, wait_until

pytestmark = pytest.mark.fuse

TABLE = ROOT / "tests" / "data" / "demo" / "kallsyms.txt"
KIOCGSIZE, BSD_KIOCGSIZE, KIOCGADDR = 0x80086C01, 0x40086C01, 0x80086C02

OPEN_TWICE = """
import errno, os, sys
os.open(sys.argv[1], os.O_RDONLY)
try:
    os.open(sys.argv[1], os.O_RDONLY)
    print("opened")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


class Inner:
    """A server in a child pid namespace: *pid* is its id out here."""

    def __init__(self, pid: int, mountpoint: Path, log: Path) -> None:
        self.pid = pid
        self.device = Path(f"/proc/{pid}/root{mountpoint}/ksyms")
        self._mountpoint = mountpoint
        self._log = log

    def says(self) -> str:
        return self._log.read_text()

    def inside(self, script: str) -> str:
        """What *script* prints in the server's namespaces, given the device."""
        enter = ["nsenter", "-t", str(self.pid), "-p", "-m", sys.executable, "-c"]
        result = subprocess.run(
            [*enter, script, f"{self._mountpoint}/ksyms"],
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.strip()


@contextmanager
def serving_inside(
    directory: Path, binding: Binding, unshare: Sequence[str], options: Sequence[str]
) -> Iterator[Inner]:
    mountpoint, log = directory / "mnt", directory / "log"
    command = ["unshare", "--pid", "--fork", "--kill-child", *unshare]
    command += [sys.executable, "-m", "ksymsfs", "-f", "--binding", binding.module]
    command += ["--device", "none", *options, str(mountpoint)]
    with log.open("wb") as stderr:
        outer = subprocess.Popen(command, stderr=stderr, env=environment(binding.env))
    try:
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        wait_until(lambda: outer.poll() is not None or children.read_text(), "the fork")
        assert outer.poll() is None, log.read_text()
        inner = Inner(int(children.read_text()), mountpoint, log)
        mounts = Path(f"/proc/{inner.pid}/mountinfo")
        wait_until(
            lambda: outer.poll() is not None or f" {mountpoint} " in mounts.read_text(),
            "the mount",
        )
        assert outer.poll() is None, log.read_text()
        yield inner
    finally:
        outer.kill()  # --kill-child takes the server along
        outer.wait()
        if f" {mountpoint} " in Path("/proc/self/mountinfo").read_text():
            subprocess.run(["umount", "-l", mountpoint], check=True)


@pytest.fixture(params=BINDINGS)
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Inner]:
    options = ["--kallsyms", str(TABLE)]
    with serving_inside(tmp_path, request.param, ["--mount-proc"], options) as server:
        yield server


# README's difference "Callers that the server's pid namespace does not hold".
def test_a_caller_outside_has_no_limit_and_no_address(inner: Inner) -> None:
    fds = [os.open(inner.device, os.O_RDONLY) for _ in range(3)]
    try:
        fcntl.ioctl(fds[0], KIOCGSIZE, bytes(8))
        with pytest.raises(OSError) as bsd:
            fcntl.ioctl(fds[0], BSD_KIOCGSIZE, bytes(8))
        with mmap.mmap(fds[1], 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
            assert mapped[:] == os.pread(fds[2], len(mapped), 0)
            with pytest.raises(OSError) as address:
                fcntl.ioctl(fds[1], KIOCGADDR, bytes(8))
    finally:
        for fd in fds:
            os.close(fd)

    assert (bsd.value.errno, address.value.errno) == (errno.ENOTTY, errno.ENXIO)
    assert "Traceback" not in inner.says()


def test_a_caller_inside_has_the_limit(inner: Inner) -> None:
    assert inner.inside(OPEN_TWICE) == "EBUSY"


@pytest.mark.parametrize("binding", BINDINGS)
def test_with_the_proc_of_another_namespace_the_server_says_so_and_limits_nobody(
    tmp_path: Path, binding: Binding
) -> None:
    options = ["--kallsyms", str(TABLE)]
    with serving_inside(tmp_path, binding, [], options) as server:
        assert "no /proc of this pid namespace" in server.says()
        assert server.inside(OPEN_TWICE) == "opened"


@pytest.mark.kernel
def test_who_cannot_be_checked_for_cap_syslog_may_not_open_what_others_may(
    tmp_path: Path,
) -> None:
    binding = Binding("fuse", {})
    options = ["--mode", "0444"]
    with serving_inside(tmp_path, binding, ["--mount-proc"], options) as server:
        with pytest.raises(PermissionError) as caught:
            os.open(server.device, os.O_RDONLY)

        assert caught.value.errno == errno.EPERM
        assert "cannot be checked for CAP_SYSLOG" in server.says()
        assert server.inside(OPEN_TWICE) == "EBUSY"
