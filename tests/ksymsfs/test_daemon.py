"""A server in the background: when its starter returns, and with which status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.server import environment, wait_until

PROGRAM = """
import os, signal, sys, time
from ksymsfs.daemon import detach

def serve(ready):
    {body}

status = detach(serve)
print("status", status, flush=True)
sys.exit(status)
"""


def run(body: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    lines = "\n    ".join(body.strip().splitlines())
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=lines), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment(),
    )


def test_the_starter_returns_when_the_server_is_ready(tmp_path: Path) -> None:
    result = run(
        """
ready()
deadline = time.monotonic() + 20
while time.monotonic() < deadline and not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.01)
open(sys.argv[1] + "/done", "w").close()
return 0
""",
        tmp_path,
    )
    assert (result.returncode, result.stdout) == (0, "status 0\n")
    assert not (tmp_path / "done").exists()
    (tmp_path / "go").touch()


def test_a_server_that_cannot_start_gives_its_status_and_its_words(
    tmp_path: Path,
) -> None:
    result = run("print('no device', file=sys.stderr)\nreturn 3", tmp_path)

    assert (result.returncode, result.stdout) == (3, "status 3\n")
    assert result.stderr == "no device\n"


def test_a_server_that_raises_is_a_failure(tmp_path: Path) -> None:
    result = run("raise OSError('oops')", tmp_path)

    assert result.returncode == 1
    assert "oops" in result.stderr


def test_a_server_that_is_killed_before_it_is_ready_is_a_failure(
    tmp_path: Path,
) -> None:
    result = run("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)

    assert result.returncode == 128 + signal.SIGKILL


def test_the_server_leaves_terminal_directory_and_standard_files(
    tmp_path: Path,
) -> None:
    result = run(
        """
before = os.getsid(0), os.getpid()
ready()
with open(sys.argv[1] + "/state.new", "w") as state:
    print(before[0] == before[1], os.getcwd(), file=state)
    print(*(os.readlink(f"/proc/self/fd/{n}") for n in range(3)), file=state)
os.rename(sys.argv[1] + "/state.new", sys.argv[1] + "/state")
return 0
""",
        tmp_path,
    )
    assert result.returncode == 0

    wait_until((tmp_path / "state").exists, "the daemon's words")
    assert (tmp_path / "state").read_text() == "True /\n" + "/dev/null " * 2 + (
        "/dev/null\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_it_starts_without_a_standard_file(tmp_path: Path, closed: str) -> None:
    command = (
        f"'{sys.executable}' -m ksymsfs --kallsyms {tmp_path}/none "
        f"--device none {tmp_path}/mnt {closed}"
    )
    result = subprocess.run(["sh", "-c", command], env=environment(), timeout=60)

    assert result.returncode == 1  # there is no such table
    assert not os.path.exists(tmp_path / "mnt")
