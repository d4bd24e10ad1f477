"""A ksymsfs server for a test: started, waited for, and always unmounted."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from ksymsfs.mountinfo import own_mounts
from ksymsfs.mountpoint import unmount

ROOT = Path(__file__).resolve().parent.parent.parent


class Binding(NamedTuple):
    """A FUSE binding, and the environment that makes it take the right libfuse."""

    module: str
    env: dict[str, str]


# PyPI's fusepy is imported as fuse, Debian's python3-fusepy as fusepy.
FUSEPY = Binding("fuse" if find_spec("fuse") else "fusepy", {})
LIBFUSE3 = Binding("mfusepy", {"FUSE_LIBRARY_NAME": "fuse3"})
# On FreeBSD mfusepy knows libfuse2 alone, and it takes that first.
MFUSEPY = Binding("mfusepy", {})
BINDINGS = [
    pytest.param(FUSEPY, id="fusepy-libfuse2"),
    pytest.param(LIBFUSE3, id="libfuse3"),
]


@dataclass
class Server:
    """A running server: *device* is the link, *log* what it has said."""

    process: subprocess.Popen[bytes]
    mountpoint: Path
    device: Path
    log: Path

    @property
    def pid(self) -> int:
        """The serving process."""
        return self.process.pid

    def says(self) -> str:
        """Everything on its standard error so far."""
        return self.log.read_text()


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """The environment in which this checkout's packages are found."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "client")])
    return {**os.environ, "PYTHONPATH": path, **(extra or {})}


def as_nobody(
    *words: str | Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """Run Python with *words* as uid 65534.

    Skips the test where no Python does: an interpreter or a checkout below somebody's
    home directory is closed to others.
    """
    for python in (sys.executable, "/usr/bin/python3"):
        with suppress(OSError):
            if _run_as_nobody(python, "-c", _IS_LIKE_THIS).returncode == 0:
                return _run_as_nobody(python, *words, stdin=stdin)
    pytest.skip("neither this Python nor /usr/bin/python3 runs for an ordinary user")


# Extension modules are those of this Python.
_IS_LIKE_THIS = f"""
import sys, elftools, ksyms, numpy
assert sys.version_info[:2] == {tuple(sys.version_info[:2])}
"""


def _run_as_nobody(
    python: str, *words: str | Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    # Another Python than this one knows nothing of what is installed for this one.
    env = environment()
    env["PYTHONPATH"] += os.pathsep + sysconfig.get_path("purelib")
    result = subprocess.run(
        [python, *words],
        input=stdin,
        env=env,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
    )
    return subprocess.CompletedProcess(
        result.args, result.returncode, result.stdout.decode(), result.stderr.decode()
    )


def wait_until(condition: object, what: str, seconds: float = 20) -> None:
    """Poll *condition* until it holds; fail the test saying *what* did not come."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds} s")
        time.sleep(0.01)


def install_command(
    directory: Path, name: str = "ksymsfs", module: str = "ksymsfs"
) -> None:
    """Put a command *name* that runs this checkout's *module* into *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    command = directory / name
    command.write_text(
        f"#!/bin/sh\nPYTHONPATH='{ROOT}:{ROOT}/client' PYTHONDONTWRITEBYTECODE=1 "
        f"exec '{sys.executable}' -m {module} \"$@\"\n"
    )
    command.chmod(0o755)


def install_commands(directory: Path) -> None:
    """Put all three commands there."""
    for name, module in (
        ("ksyms", "ksyms"),
        ("ksymsfs", "ksymsfs"),
        ("mkksyms", "ksymsfs.mkksyms"),
    ):
        install_command(directory, name, module)


@contextmanager
def serving(
    directory: Path,
    options: Sequence[str] = (),
    *,
    binding: Binding = FUSEPY,
    prefix: Sequence[str] = (),
) -> Iterator[Server]:
    """A foreground server with everything below *directory*.

    *prefix* is a command that becomes the server, such as setpriv with its options.
    """
    mountpoint, device = directory / "mnt", directory / "ksyms"
    log = directory / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [
                *(*prefix, sys.executable, "-m", "ksymsfs", "-f"),
                *("--binding", binding.module),
                *("--device", str(device), *options, str(mountpoint)),
            ],
            stderr=stderr,
            stdout=stderr,
            env=environment(binding.env),
        )
    try:
        wait_until(
            lambda: process.poll() is not None or _answers(mountpoint),
            "the mount",
        )
        if process.poll() is not None:
            pytest.fail(f"ksymsfs ended: {log.read_text()}")
        yield Server(process, mountpoint, device, log)
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0, log.read_text()
            assert not os.path.ismount(mountpoint)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if _is_mounted(mountpoint):
            unmount(str(mountpoint))


def _answers(path: Path) -> bool:
    try:
        os.listdir(path)  # fails as long as a dead mount is there
    except OSError:
        return False
    return os.path.ismount(path)


def _is_mounted(path: Path) -> bool:
    return any(mount.path == str(path) for mount in own_mounts())
