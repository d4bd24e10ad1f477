"""Who may open the running kernel's symbols: as /proc/kallsyms would decide."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.server import BINDINGS, Binding, Server, serving

pytestmark = [pytest.mark.fuse, pytest.mark.kernel]

# Says what /proc/kallsyms shows and what the open gives.
PROBE = """
import errno, os, sys
with open("/proc/kallsyms") as table:
    print("hidden" if table.read(16).strip("0") == "" else "shown")
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("opened")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""

NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
SYSLOG = ["--inh-caps", "+syslog", "--ambient-caps", "+syslog"]
NO_SYSLOG = ["--inh-caps", "-syslog", "--bounding-set", "-syslog"]

CALLERS = [
    pytest.param([], id="root"),
    pytest.param(NOBODY, id="nobody"),
    pytest.param([*NOBODY, *SYSLOG], id="nobody-with-CAP_SYSLOG"),
    pytest.param(["setpriv", *NO_SYSLOG], id="root-without-CAP_SYSLOG"),
    pytest.param(["unshare", "-U", "-r"], id="root-of-a-user-namespace"),
    pytest.param([*NOBODY, "unshare", "-U", "-r"], id="nobody-as-root-of-one"),
]


# One that every caller can run, wherever the checkout and its environment are.
PYTHON = shutil.which("python3", path="/usr/bin:/bin") or sys.executable


@contextmanager
def serving_everybody(
    binding: Binding, options: Sequence[str] = ()
) -> Iterator[Server]:
    # pytest's own directories are closed to others than root.
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        with serving(Path(directory), options, binding=binding) as running:
            yield running


@pytest.fixture(scope="module", params=BINDINGS)
def public(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving_everybody(request.param, ["--mode", "0444"]) as running:
        yield running


@pytest.fixture(scope="module", params=BINDINGS)
def private(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving_everybody(request.param) as running:
        yield running


def probe(caller: list[str], server: Server) -> list[str]:
    paths = [str(server.device), str(server.mountpoint / "modules")]
    result = subprocess.run(
        [*caller, PYTHON, "-c", PROBE, *paths], capture_output=True, text=True
    )
    if result.returncode:
        pytest.skip(f"cannot be such a caller: {result.stderr.strip()[-200:]}")
    return result.stdout.split()


# README's difference "Who may open".
@pytest.mark.parametrize("caller", CALLERS)
def test_with_a_wider_mode_who_opens_is_who_the_kernel_shows_its_addresses(
    public: Server, caller: list[str]
) -> None:
    shown, device, modules = probe(caller, public)

    assert device == modules == {"shown": "opened", "hidden": "EPERM"}[shown]


def test_a_refusal_is_logged_once_and_says_why(public: Server) -> None:
    before = len(public.says())
    if "EPERM" not in probe(NOBODY, public):
        pytest.skip("the kernel hides nothing from nobody")

    new = public.says()[before:].splitlines()
    (line,) = (line for line in new if "left out" not in line)

    # Once for the device and the listing: it is the same thread.
    assert "lacks CAP_SYSLOG" in line
    assert line.endswith("(EPERM)")


@pytest.mark.parametrize("caller", CALLERS)
def test_by_default_it_takes_root_as_well(private: Server, caller: list[str]) -> None:
    shown, device, modules = probe(caller, private)

    is_root = "65534" not in caller
    allowed = {"shown": "opened", "hidden": "EPERM"}[shown]
    assert device == modules == (allowed if is_root else "EACCES")
