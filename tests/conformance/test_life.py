"""The server's life: what fails around it, what callers get then, what it says."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ksymsfs import mkksyms
from tests.conformance.program import SOURCES, Conform, compile_c
from tests.integration.server import (
    BINDINGS,
    ROOT,
    Binding,
    Server,
    environment,
    serving,
    wait_until,
)

pytestmark = pytest.mark.fuse

TABLE = ROOT / "tests" / "data" / "demo" / "kallsyms.txt"
EXAMPLE = ROOT / "ksymsfs" / "examples" / "linux.toml"


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> Binding:
    found: Binding = request.param
    return found


def failure(server: Server, flags: int = os.O_RDONLY) -> str:
    """The name of the errno with which an open fails."""
    with pytest.raises(OSError) as caught:
        os.close(os.open(server.device, flags))
    return errno.errorcode[caught.value.errno or 0]


def lines(server: Server, name: str) -> list[str]:
    """What the server said of this errno."""
    return [line for line in server.says().splitlines() if f"({name})" in line]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_error_of_open_is_reached_and_said_once(
    tmp_path: Path, binding: Binding
) -> None:
    manifest = tmp_path / "kernel.toml"
    manifest.write_text(EXAMPLE.read_text())
    options = ["--manifest", str(manifest), "--max-image", "2K"]
    with serving(tmp_path, options, binding=binding) as server:
        with server.device.open("rb"):
            assert failure(server) == "EBUSY"
        assert failure(server, os.O_RDWR) == "EACCES"
        edit(manifest, 'state = "Live"', 'state = "Loading"')
        assert failure(server) == "ENXIO"
        edit(manifest, 'state = "Loading"', 'state = "Live"')
        edit(manifest, "T vfs_read\n", "T vfs_read" + "_and_more" * 200 + "\n")
        assert failure(server) == "ENOMEM"
        edit(manifest, "_and_more" * 200, "")

        assert server.device.read_bytes()[:4] == b"\x7fELF"
        (busy,), (access,) = lines(server, "EBUSY"), lines(server, "EACCES")
        (changing,), (memory,) = lines(server, "ENXIO"), lines(server, "ENOMEM")
        assert len(server.says().splitlines()) == 4
    assert f"process {os.getpid()} has the device open already" in busy
    assert "read-only" in access
    assert "no consistent snapshot in 3 tries" in changing
    assert "module dummy is Loading" in changing
    assert "exceeds the limit of 2048; raise it with --max-image" in memory


@pytest.mark.parametrize(
    ("options", "change", "name"),
    [
        (["--max-image", "600"], "", "ENOMEM"),
        ([], 'state = "Loading"', "ENXIO"),
    ],
    ids=["a limit", "a module"],
)
def test_a_server_starts_though_nobody_can_open_yet(
    tmp_path: Path, options: list[str], change: str, name: str
) -> None:
    manifest = tmp_path / "kernel.toml"
    text = EXAMPLE.read_text()
    manifest.write_text(text.replace('state = "Live"', change) if change else text)
    with serving(tmp_path, ["--manifest", str(manifest), *options]) as server:
        assert "until that changes, nobody can open the device" in server.says()
        assert failure(server) == name
        manifest.write_text('[kernel]\nsymbols = """\nffffffff81000000 T _text\n"""\n')
        assert server.device.read_bytes()[:4] == b"\x7fELF"


@contextmanager
def limited(pid: int, kind: int, value: int) -> Iterator[None]:
    before = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, before)


def test_without_a_descriptor_left_an_open_is_enomem(
    tmp_path: Path, binding: Binding
) -> None:
    with serving(tmp_path, ["--kallsyms", str(TABLE)], binding=binding) as server:
        kept = os.open(server.device, os.O_RDONLY)
        status = os.fstat(kept)
        with limited(server.pid, resource.RLIMIT_NOFILE, 0):
            in_child = subprocess.run(
                ["cat", server.device], capture_output=True, text=True
            )
            assert len(os.pread(kept, 1 << 20, 0)) == status.st_size
        os.close(kept)
        assert server.device.read_bytes()[:4] == b"\x7fELF"

        assert "Cannot allocate memory" in in_child.stderr
        (line,) = lines(server, "ENOMEM")
        assert "Too many open files" in line
        assert "ulimit -n" in line
        assert len(server.says().splitlines()) == 1


def test_without_memory_an_open_is_enomem(tmp_path: Path, binding: Binding) -> None:
    table = tmp_path / "kallsyms"
    table.write_text(TABLE.read_text())
    with serving(tmp_path, ["--kallsyms", str(table)], binding=binding) as server:
        big = "".join(f"{(1 << 63) + i:x} T f_{i}\n" for i in range(200_000))
        pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[0])
        with limited(server.pid, resource.RLIMIT_AS, pages * mmap.PAGESIZE + (8 << 20)):
            table.write_text(big)
            assert failure(server) == "ENOMEM"
        assert len(server.device.read_bytes()) > 200_000 * 24

        assert len(lines(server, "ENOMEM")) == 1
        assert len(server.says().splitlines()) == 1


@pytest.mark.kernel
@pytest.mark.parametrize("error", ["EIO", "EPERM"])
def test_a_kernel_that_does_not_give_its_symbols_is_enxio(
    tmp_path: Path, error: str
) -> None:
    strace = shutil.which("strace") or pytest.skip("no strace")
    with serving(tmp_path) as server:
        # The first open after the start reads /proc/kallsyms once more.
        injection = f"inject=read:error={error}"
        command = [strace, "-qq", "-f", "-p", str(server.pid), "-P", "/proc/kallsyms"]
        tracer = subprocess.Popen([*command, "-e", injection], stderr=subprocess.PIPE)
        status = Path(f"/proc/{server.pid}/status")
        wait_until(lambda: f"TracerPid:\t{tracer.pid}" in status.read_text(), "strace")
        try:
            assert failure(server) == "ENXIO"
        finally:
            tracer.terminate()
            tracer.communicate()
        assert server.device.read_bytes()[:4] == b"\x7fELF"

        (line,) = lines(server, "ENXIO")
    assert f"/proc/kallsyms: {os.strerror(getattr(errno, error))}" in line


@pytest.mark.parametrize("log", ["stderr", "--log"])
def test_a_full_disk_for_the_log_hurts_nobody(tmp_path: Path, log: str) -> None:
    mountpoint = tmp_path / "mnt"
    options = ["--device", "none", "--kallsyms", str(TABLE)]
    if log == "--log":
        options += ["--log", "/dev/full"]
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "ksymsfs", "-f", *options, str(mountpoint)],
            stderr=full,
            env=environment(),
        )
    server = Server(process, mountpoint, mountpoint / "ksyms", tmp_path)
    try:
        wait_until(server.device.is_symlink, "the mount")
        for _ in range(30):
            with server.device.open("rb"):
                assert failure(server) == "EBUSY"
            assert failure(server, os.O_RDWR) == "EACCES"
        process.terminate()
        process.wait(20)
        assert not os.path.ismount(mountpoint)
    finally:
        if process.poll() is None:
            process.kill()
            subprocess.run(["umount", "-l", mountpoint], check=True)


def test_a_log_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    log = tmp_path / "none" / "log"
    command = [sys.executable, "-m", "ksymsfs", "-f", "--device", "none"]
    command += ["--kallsyms", str(TABLE), "--log", str(log), str(tmp_path / "mnt")]

    result = subprocess.run(command, capture_output=True, text=True, env=environment())

    assert result.returncode == 1
    assert result.stderr == f"ksymsfs: --log: {log}: No such file or directory\n"


TOUCH = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
mapped = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
mapped.madvise(mmap.MADV_RANDOM)
assert mapped[:4] == b"\\x7fELF"
print("open", flush=True)
sys.stdin.read()
assert mapped[:4] == b"\\x7fELF"
try:
    os.pread(fd, 1, len(mapped) - 1)
except OSError as error:
    print(error.errno, flush=True)
mapped[-1]
"""


# README's difference "Unloading the driver".
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_after_the_server_is_gone_what_was_not_read_cannot_be(
    tmp_path: Path, binding: Binding, number: int
) -> None:
    table = tmp_path / "kallsyms"
    table.write_text("".join(f"{(1 << 63) + i:x} T f_{i}\n" for i in range(50_000)))
    with serving(tmp_path, ["--kallsyms", str(table)], binding=binding) as server:
        holder = subprocess.Popen(
            [sys.executable, "-c", TOUCH, server.device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"

        server.process.send_signal(number)
        server.process.wait(20)
        output, _ = holder.communicate(b"")

        assert int(output) == errno.ENOTCONN
        assert holder.returncode == -signal.SIGBUS
        assert os.path.ismount(server.mountpoint) == (number == signal.SIGKILL)


def test_a_server_ends_while_a_callers_memory_blocks(
    tmp_path: Path, binding: Binding
) -> None:
    image = tmp_path / "image"
    assert mkksyms.main(["--kallsyms", str(TABLE), "-o", str(image)]) == 0
    conform = Conform(compile_c(SOURCES, tmp_path / "conform"), image)
    with serving(tmp_path, ["--kallsyms", str(TABLE)], binding=binding) as server:
        stalled = conform.start(server.device, "stall")
        server.process.terminate()

        assert server.process.wait(20) == 0
        stalled.kill()
        stalled.communicate()
