"""Markers that say why they skip, and KSYMSFS_REQUIRE, which forbids the skip."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.integration.server import BINDINGS, Server, serving

HERE = Path(__file__).resolve().parent


def _fuse_missing() -> str:
    if os.geteuid() != 0:
        return "mounting needs root"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        return f"/dev/fuse cannot be opened: {error.strerror}"
    return ""


def _kernel_missing() -> str:
    try:
        with Path("/proc/kallsyms").open() as table:
            # Per-CPU symbols really are at 0 and few; hidden addresses are all 0.
            shown = any(line.split(" ", 1)[0].strip("0") for line in table)
    except OSError as error:
        return f"/proc/kallsyms cannot be read: {error.strerror}"
    if not shown:
        return "the kernel hides its addresses from this user (needs CAP_SYSLOG)"
    return ""


def _bpf_missing() -> str:
    if os.geteuid() != 0:
        return "bpf(2) needs root"
    if not shutil.which("bpftool") and not Path("/usr/sbin/bpftool").exists():
        return "bpftool is not installed"
    return ""


def _clang_missing() -> str:
    return "" if shutil.which("clang-19") else "clang-19 is not installed"


def _perf_missing() -> str:
    if os.geteuid() != 0:
        return "recording what the kernel does needs root"
    if not shutil.which("perf"):
        return "perf is not installed"
    return _kernel_missing()


def _vm_missing() -> str:
    if "vm" not in os.environ.get("KSYMSFS_REQUIRE", "").split(","):
        return "booting guests is slow: set KSYMSFS_REQUIRE=vm, or run make vmtest"
    if not shutil.which("qemu-system-x86_64"):
        return "qemu-system-x86_64 is not installed"
    return ""


def _guest_missing() -> str:
    if "KSYMSFS_GUEST" not in os.environ:
        return "loads kernel modules: only in a guest (make vmtest, or vagrant/)"
    if not Path("/proc/modules").exists():
        return "this kernel has no modules"
    return ""


def _freebsd_missing() -> str:
    if sys.platform[:7] != "freebsd":
        return "this is no FreeBSD (vagrant/ has a guest)"
    if not Path("/dev/ksyms").exists():
        return "there is no /dev/ksyms: kldload ksyms"
    return ""


MISSING: dict[str, Callable[[], str]] = {
    "fuse": cache(_fuse_missing),
    "kernel": cache(_kernel_missing),
    "bpf": cache(_bpf_missing),
    "clang": cache(_clang_missing),
    "perf": cache(_perf_missing),
    "vm": cache(_vm_missing),
    "guest": cache(_guest_missing),
    "freebsd": cache(_freebsd_missing),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    required = os.environ.get("KSYMSFS_REQUIRE", "").split(",")
    for marker, missing in MISSING.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            if marker in required:
                pytest.fail(f"KSYMSFS_REQUIRE has {marker}, but {reason}")
            pytest.skip(reason)


@pytest.fixture(scope="session")
def data() -> Path:
    """The test data that travels with the project (see tests/data/README.md)."""
    return HERE / "data"


@pytest.fixture(scope="module", params=BINDINGS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of the running kernel, with each binding."""
    with serving(tmp_path_factory.mktemp("server"), binding=request.param) as running:
        yield running
