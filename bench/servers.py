"""The file systems that are measured, each mounted for as long as it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import ProbeError

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")]),
    # As installed: with compiled modules, of which pip takes care.
    "PYTHONDONTWRITEBYTECODE": "",
    # numpy's import leaves a thread behind that spins for 0.1 s; imports do not count.
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPYCACHEPREFIX": str(ROOT / "bench/build/pycache"),
}
BINDINGS = {
    2: ("fuse", {}),
    3: ("mfusepy", {"FUSE_LIBRARY_NAME": "fuse3"}),
}
"""libfuse's major version -> ksymsfs --binding, and its environment."""


@dataclass
class Server:
    """A server that answers: its process and where it is mounted."""

    pid: int
    mountpoint: Path

    def rss(self) -> int:
        """Its resident set now, in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


@contextmanager
def ksymsfs(directory: Path, libfuse: int, cpu: int | None) -> Iterator[Server]:
    """ksymsfs for the running kernel; its device is DIRECTORY/device."""
    binding, env = BINDINGS[libfuse]
    device = directory / "device"
    command = [
        *(sys.executable, "-m", "ksymsfs", "-f", "--binding", binding),
        *("--device", str(device)),
    ]
    with _serving(command, directory, {**ENVIRONMENT, **env}, cpu) as server:
        yield server


@contextmanager
def hello_fs(
    program: str, content: Path, directory: Path, cpu: int | None
) -> Iterator[Server]:
    """The C file system."""
    with _serving([program, str(content)], directory, {}, cpu) as server:
        yield server


@contextmanager
def _serving(
    command: Sequence[str], directory: Path, env: Mapping[str, str], cpu: int | None
) -> Iterator[Server]:
    mountpoint = directory / "mnt"
    mountpoint.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [*command, str(mountpoint)],
        stderr=subprocess.PIPE,
        env={**os.environ, **env},
    )
    try:
        end = time.monotonic() + 20
        while not os.path.ismount(mountpoint):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                raise ProbeError(f"{command[0]}: {_said(process)}")
            time.sleep(0.01)
        if cpu is not None:
            os.sched_setaffinity(process.pid, {cpu})
        yield Server(process.pid, mountpoint)
    finally:
        process.terminate()
        process.wait(20)
        assert process.stderr
        process.stderr.close()


def _said(process: subprocess.Popen[bytes]) -> str:
    assert process.stderr
    return process.stderr.read().decode(errors="replace").strip() or "did not mount"
