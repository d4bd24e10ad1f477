"""Guests under QEMU boot, answer, and are given up when they are lost."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vagrant.vmtest.cli import CHECKOUT
from vagrant.vmtest.guest import GUESTS

# The first run on a machine also fetches and builds the guest.
pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]


def vmtest(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "vagrant.vmtest", *words]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True)


@pytest.mark.parametrize("guest", GUESTS)
def test_a_guest_boots_its_own_kernel(guest: str) -> None:
    kernels = {"bookworm": "6.1.", "trixie": "6.12.", "bullseye": "5.10."}

    done = vmtest("-g", guest, "--", "uname -r")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(kernels[guest])


def test_the_status_of_a_guests_command_is_returned() -> None:
    assert vmtest("--", "exit 7").returncode == 7


def test_a_guest_has_no_network_and_a_read_only_checkout() -> None:
    done = vmtest("--", "ip -br link | cut -d' ' -f1; touch vagrant/new")

    assert done.stdout == "lo\n"
    assert "Read-only file system" in done.stderr


def test_a_panic_is_told_from_a_failed_command() -> None:
    done = vmtest("--", "echo c >/proc/sysrq-trigger; sleep 60")

    assert done.returncode == 125
    assert "console: " in done.stderr
    assert "sysrq" in done.stderr


def test_a_guest_that_hangs_is_ended() -> None:
    done = vmtest("--limit", "30", "--", "sleep 1000")

    assert done.returncode == 125
    assert "not finished after 30 s" in done.stderr
