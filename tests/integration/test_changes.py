"""What an open sees when BPF programs come and go, and what no change costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ksymsfs.generation import SETTLING
from ksymsfs.sources.running import RunningKernel
from tests.integration.server import Server, wait_until
from tests.oracle import program

pytestmark = [pytest.mark.fuse, pytest.mark.kernel, pytest.mark.bpf]


def has_symbol(image: bytes, name: str) -> bool:
    return (
        re.search(rb"\0bpf_prog_[0-9a-f]{16}_%s\0" % name.encode(), image) is not None
    )


def test_a_loaded_program_is_in_the_next_open_and_not_in_one_before(
    server: Server,
) -> None:
    with server.device.open("rb", buffering=0) as before:
        with program("ksymsfs_come"):
            old = before.readall()
            before.close()
            new = server.device.read_bytes()

        assert not has_symbol(old, "ksymsfs_come")
        assert has_symbol(new, "ksymsfs_come")


def test_an_unloaded_program_is_gone_from_an_open_within_the_settling_second(
    server: Server,
) -> None:
    with program("ksymsfs_go"):
        held = server.device.open("rb", buffering=0)
    with held:
        start = time.monotonic()
        # The symbol leaves kallsyms some time after the last descriptor is closed.
        wait_until(
            lambda: "ksymsfs_go" not in Path("/proc/kallsyms").read_text(), "the end"
        )
        gone = time.monotonic()
        old = held.readall()
    new = server.device.read_bytes()

    assert has_symbol(old, "ksymsfs_go")
    assert not has_symbol(new, "ksymsfs_go"), f"{gone - start} s after the close"


def test_two_generations_are_open_at_once_and_each_keeps_its_bytes(
    server: Server,
) -> None:
    first = os.open(server.device, os.O_RDONLY)
    try:
        size = os.fstat(first).st_size
        with program("ksymsfs_two"):
            # Another process: this one has its open.
            other = subprocess.run(
                ["cat", server.device], capture_output=True, check=True
            ).stdout
            assert has_symbol(other, "ksymsfs_two")
            assert not has_symbol(os.pread(first, size + 1, 0), "ksymsfs_two")
            assert os.fstat(first).st_size == size
    finally:
        os.close(first)


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
def test_an_open_of_an_unchanged_kernel_never_touches_kallsyms(
    server: Server, tmp_path: Path
) -> None:
    # BPF programs of others on this machine are changes, too: until none comes or goes.
    source = RunningKernel()
    try:
        for _ in range(20):
            server.device.read_bytes()
            time.sleep(SETTLING)
            server.device.read_bytes()  # the last one that reads again and compares
            before = source.fingerprint()
            with traced(server, tmp_path / "trace") as quiet:
                for _ in range(20):
                    server.device.read_bytes()
            if source.fingerprint() == before:
                break
        else:
            pytest.skip("this machine's BPF programs never rest for a second")
    finally:
        source.close()
    with traced(server, tmp_path / "changed") as changed, program("ksymsfs_strace"):
        server.device.read_bytes()

    assert "/proc/kallsyms" not in quiet
    # What shows that the trace sees it.
    assert "/proc/kallsyms" in changed


@contextmanager
def traced(server: Server, trace: Path) -> Iterator[list[str]]:
    """The paths that the server opens in the block, known at its end."""
    opened: list[str] = []
    strace = subprocess.Popen(
        [
            *("strace", "-f", "-e", "trace=open,openat", "-o", str(trace)),
            *("-p", str(server.pid)),
        ],
        stderr=subprocess.PIPE,
    )
    assert strace.stderr is not None
    with strace.stderr:
        strace.stderr.readline()  # "attached"
    try:
        yield opened
    finally:
        strace.terminate()
        strace.wait()
    opened += re.findall(r'"([^"]*)"', trace.read_text())
