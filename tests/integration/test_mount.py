"""The mounted device on the running kernel: layout, bytes, rules, life."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.server import (
    BINDINGS,
    Binding,
    Server,
    environment,
    serving,
    wait_until,
)

pytestmark = [pytest.mark.fuse, pytest.mark.kernel]


def test_the_device_is_a_link_to_a_link_to_the_snapshot(server: Server) -> None:
    assert os.readlink(server.device) == f"{server.mountpoint}/ksyms"
    assert os.readlink(server.mountpoint / "ksyms").startswith("snapshots/")
    assert sorted(os.listdir(server.mountpoint)) == ["ksyms", "modules", "snapshots"]


def test_the_snapshot_is_roots_alone_and_has_its_exact_size(server: Server) -> None:
    with server.device.open("rb") as device:
        status = os.fstat(device.fileno())
        data = device.read()

    assert stat.S_ISREG(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o400
    assert (status.st_uid, status.st_size) == (0, len(data))
    assert data[:4] == b"\x7fELF"


def test_an_ordinary_user_is_refused(server: Server) -> None:
    def become_nobody() -> None:
        os.setgid(65534)
        os.setuid(65534)

    result = subprocess.run(
        ["cat", server.device], preexec_fn=become_nobody, capture_output=True
    )

    assert result.returncode != 0
    assert b"Permission denied" in result.stderr
    assert result.stdout == b""


def test_modules_lists_the_linker_files(server: Server) -> None:
    lines = (server.mountpoint / "modules").read_text().splitlines()

    number, address, size, count, name = lines[0].split()
    assert (number, name) == ("1", "kernel")
    assert int(address, 16) > 1 << 63
    assert int(size, 16) > 0
    assert int(count) > 10_000


def test_every_name_and_address_of_kallsyms_is_in_the_image(server: Server) -> None:
    nm = subprocess.run(
        ["nm", "-p", server.device], capture_output=True, text=True, check=True
    ).stdout
    ours = sorted(
        (f[2], f[0]) for line in nm.splitlines() if len(f := line.split()) == 3
    )
    table = Path("/proc/kallsyms").read_text().splitlines()
    theirs = sorted((f[2], f[0]) for f in map(str.split, table))

    assert ours == theirs


def test_a_second_server_on_the_same_place_refuses(server: Server) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ksymsfs", "-f", str(server.mountpoint)],
        capture_output=True,
        text=True,
        env=environment(),
    )

    assert result.returncode == 1
    assert "another ksymsfs is serving there" in result.stderr


@pytest.mark.parametrize("binding", BINDINGS)
def test_the_mount_of_a_killed_server_is_cleaned_at_the_next_start(
    tmp_path: Path, binding: Binding
) -> None:
    with serving(tmp_path, binding=binding) as first:
        first.process.kill()
        first.process.wait()
        with pytest.raises(OSError) as caught:
            os.listdir(first.mountpoint)
        assert caught.value.errno == errno.ENOTCONN

        with serving(tmp_path, binding=binding) as second:
            assert second.device.read_bytes()[:4] == b"\x7fELF"


# As in Mountpoint, with less patience.
_CLAIM = """
import sys
from ksymsfs import mountpoint
mountpoint.ANSWER = 0.5
try:
    mountpoint.Mountpoint(sys.argv[1]).claim()
except mountpoint.MountError as error:
    print(error)
"""


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_stopped_server_is_not_waited_for_and_keeps_its_place(
    tmp_path: Path, binding: Binding
) -> None:
    with serving(tmp_path, binding=binding) as server:
        os.listdir(server.mountpoint)  # whatever can be kept in a cache
        os.stat(server.mountpoint)
        server.process.send_signal(signal.SIGSTOP)
        try:
            said = subprocess.run(
                [sys.executable, "-c", _CLAIM, str(server.mountpoint)],
                capture_output=True,
                text=True,
                env=environment(),
            ).stdout
        finally:
            server.process.send_signal(signal.SIGCONT)

        assert said.endswith("fuse.ksymsfs mounted there: no answer within 0.5 s\n")
        assert server.device.read_bytes()[:4] == b"\x7fELF"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("binding", BINDINGS)
def test_a_signal_unmounts_cleanly_even_while_it_is_open(
    tmp_path: Path, binding: Binding, number: int
) -> None:
    with serving(tmp_path, binding=binding) as server:
        fd = os.open(server.device, os.O_RDONLY)
        try:
            server.process.send_signal(number)

            assert server.process.wait(20) == 0
            assert not server.device.is_symlink()
            assert not server.mountpoint.exists()
        finally:
            with contextlib.suppress(OSError):  # ENOTCONN: nobody answers any more
                os.close(fd)


def test_fusermount_ends_the_server(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        program = shutil.which("fusermount") or "fusermount3"
        subprocess.run([program, "-u", server.mountpoint], check=True)

        assert server.process.wait(20) == 0
        assert not server.device.is_symlink()


def test_a_daemon_returns_when_it_serves(tmp_path: Path) -> None:
    mountpoint, device = tmp_path / "mnt", tmp_path / "ksyms"
    command = [sys.executable, "-m", "ksymsfs", "--device", str(device)]

    subprocess.run([*command, str(mountpoint)], check=True, env=environment())

    try:
        assert device.read_bytes()[:4] == b"\x7fELF"
    finally:
        subprocess.run(["umount", str(mountpoint)], check=True)
    wait_until(lambda: not device.is_symlink(), "the end of the daemon")


def test_a_daemon_that_cannot_serve_says_why_and_fails(tmp_path: Path) -> None:
    (tmp_path / "ksyms").write_text("mine")

    result = subprocess.run(
        [
            *(sys.executable, "-m", "ksymsfs", "--device", str(tmp_path / "ksyms")),
            str(tmp_path / "mnt"),
        ],
        capture_output=True,
        text=True,
        env=environment(),
    )

    assert result.returncode == 1
    assert "exists and is not ours" in result.stderr
    assert (tmp_path / "ksyms").read_text() == "mine"
    assert not (tmp_path / "mnt").exists()
