"""Looks over a machine: what works on it, and how to get the rest."""

from __future__ import annotations

import ctypes.util
import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from ksyms.advice import advice
from ksyms.errors import KsymsError
from ksyms.image import read_image
from ksyms.running import RunningLinux

Status = Literal["ok", "limited", "missing"]

# linux/capability.h
_CAP_SYS_ADMIN, _CAP_SYSLOG, _CAP_PERFMON, _CAP_BPF = 21, 34, 38, 39
_CAPABILITIES = {
    "CAP_SYS_ADMIN": _CAP_SYS_ADMIN,
    "CAP_SYSLOG": _CAP_SYSLOG,
    "CAP_PERFMON": _CAP_PERFMON,
    "CAP_BPF": _CAP_BPF,
}
_KALLSYMS = "proc/kallsyms"
_LIBRARIES = {"libfuse2": "fuse", "libfuse3": "fuse3"}
_BINDINGS = ("fuse", "fusepy", "mfusepy")


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    status: Status
    found: str
    remedy: str | None = None
    """How to get what is missing; None where there is nothing to do."""


class Machine:
    """What is looked at: files below *root*, libraries, programs and Python modules."""

    def __init__(
        self,
        root: str | Path = "/",
        *,
        platform: str = sys.platform,
        find_library: Callable[[str], str | None] = ctypes.util.find_library,
        has_module: Callable[[str], bool] = lambda name: find_spec(name) is not None,
        which: Callable[[str], str | None] = shutil.which,
    ) -> None:
        self.root = Path(root)
        self.platform = platform
        self.find_library = find_library
        self.has_module = has_module
        self.which = which

    def text(self, path: str) -> str | None:
        """What is in a file, None where it cannot be read."""
        try:
            return (self.root / path).read_text(errors="replace")
        except OSError:
            return None

    def lines(self, path: str) -> Iterator[str]:
        """The lines of a file, none where it cannot be read."""
        try:
            with (self.root / path).open(errors="replace") as file:
                yield from file
        except OSError:
            return

    @property
    def capabilities(self) -> int:
        """The effective ones of this process, a bit each."""
        for line in (self.text("proc/self/status") or "").splitlines():
            name, _, value = line.partition(":")
            if name == "CapEff":
                return int(value, 16)
        return 0

    def may(self, *capabilities: int) -> bool:
        """Whether this process has one of these capabilities."""
        return any(self.capabilities >> number & 1 for number in capabilities)


def examine(machine: Machine, device: str = "/dev/ksyms") -> list[Finding]:
    """All findings on *machine*, the most useful first."""
    found = [_device(device)]
    if machine.platform.startswith("linux"):
        found += _linux(machine)
    elif not machine.platform.startswith("freebsd"):
        found.append(
            Finding(
                "system",
                "missing",
                f"{machine.platform}: neither Linux nor FreeBSD",
                "read images, captures and ELF files of other machines: ksyms -k FILE",
            )
        )
    found += _fuse(machine)
    return found


def _device(device: str) -> Finding:
    try:
        image = read_image(device)
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = advice(OSError(error.errno or errno.EIO, reason, "/dev/ksyms"))
        return Finding("device", "missing", f"{device}: {reason}", remedy or None)
    except KsymsError as error:
        return Finding("device", "missing", str(error), "start ksymsfs again, as root")
    files = len(image.linker_files) or 1
    return Finding(
        "device",
        "ok",
        f"{device}: {len(image):,} records of {files} linker file{'s' * (files > 1)}",
    )


def _linux(machine: Machine) -> Iterator[Finding]:
    yield _addresses(machine)
    yield _data_symbols(machine)
    modules = machine.text("proc/modules")
    yield Finding(
        "modules",
        "ok",
        "a kernel without loadable modules"
        if modules is None
        else f"{len(modules.splitlines())} loaded",
    )
    yield _capabilities(machine)
    yield _perf_events(machine)
    yield _lockstat(machine)
    yield _btf(machine)


def _addresses(machine: Machine) -> Finding:
    restrict = (machine.text("proc/sys/kernel/kptr_restrict") or "?").strip()
    setting = f"kernel.kptr_restrict = {restrict}"
    # Enough of the table to see whether it has addresses: all of it takes 40 ms.
    table = list(islice(machine.lines(_KALLSYMS), 1000))
    if not table:
        return Finding(
            "addresses",
            "missing",
            "no /proc/kallsyms",
            "boot a kernel with CONFIG_KALLSYMS=y (all distributions have it)",
        )
    if any(line.split()[0].strip("0") for line in table if line.split()):
        return Finding("addresses", "ok", f"this process sees them ({setting})")
    remedy = (
        "run: sysctl kernel.kptr_restrict=1"
        if machine.may(_CAP_SYSLOG)
        else "run as root, or with CAP_SYSLOG"
    )
    return Finding("addresses", "missing", f"hidden from this user ({setting})", remedy)


def _data_symbols(machine: Machine) -> Finding:
    has_data = RunningLinux(machine.root).kallsyms_all()
    if has_data is None:
        # No configuration to read: a static variable tells.
        has_data = any(line[17:18] in ("b", "d") for line in machine.lines(_KALLSYMS))
    if has_data:
        return Finding("data symbols", "ok", "kallsyms has variables too")
    return Finding(
        "data symbols",
        "limited",
        "kallsyms has functions only",
        "boot a kernel with CONFIG_KALLSYMS_ALL=y to name variables and locks",
    )


def _capabilities(machine: Machine) -> Finding:
    names = [name for name, number in _CAPABILITIES.items() if machine.may(number)]
    lacking = [name for name in _CAPABILITIES if name not in names]
    if not lacking:
        return Finding("capabilities", "ok", ", ".join(names))
    return Finding(
        "capabilities",
        "limited" if names else "missing",
        f"{', '.join(names) or 'none'}; not {', '.join(lacking)}",
        "run as root: CAP_SYS_ADMIN to mount, CAP_SYSLOG to see addresses, CAP_PERFMON"
        " for lockstat, CAP_BPF for capture",
    )


def _perf_events(machine: Machine) -> Finding:
    # kernel/events/core.c: events of a CPU want perf_event_paranoid <= 0, or a
    # capability.
    setting = machine.text("proc/sys/kernel/perf_event_paranoid")
    if setting is None:
        return Finding(
            "perf events",
            "limited",
            "the kernel has none",
            "boot a kernel with CONFIG_PERF_EVENTS=y; else each open reads kallsyms",
        )
    level = setting.strip()
    found = f"kernel.perf_event_paranoid = {level}"
    if machine.may(_CAP_PERFMON, _CAP_SYS_ADMIN) or level in ("0", "-1"):
        return Finding("perf events", "ok", found)
    return Finding("perf events", "limited", found, "run as root, or with CAP_PERFMON")


def _lockstat(machine: Machine) -> Finding:
    if not machine.which("perf"):
        remedy = "install perf (Debian: apt install linux-perf)"
        return Finding("lockstat", "limited", "no perf", remedy)
    if not machine.may(_CAP_PERFMON, _CAP_SYS_ADMIN):
        found, remedy = "closed to this user", "run as root, or with CAP_PERFMON"
        return Finding("lockstat", "limited", found, remedy)
    # perf mounts it if need be
    events = os.path.join(machine.root, "sys/kernel/tracing/events")
    if os.path.isdir(events) and not os.path.isdir(f"{events}/lock/contention_begin"):
        remedy = "boot Linux 5.19 or newer"
        return Finding("lockstat", "limited", "no event of a wait for a lock", remedy)
    return Finding("lockstat", "ok", "perf")


def _btf(machine: Machine) -> Finding:
    folder = machine.root / "sys/kernel/btf"
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:
        names = []
    if "vmlinux" in names:
        modules = len(names) - 1
        found = f"of the kernel and {modules} module{'s' * (modules != 1)}"
        return Finding("BTF", "ok", found)
    return Finding(
        "BTF",
        "missing",
        "no /sys/kernel/btf/vmlinux: ksyms bpf has no types of this kernel",
        "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or name a capture of one",
    )


def _fuse(machine: Machine) -> Iterator[Finding]:
    device = machine.root / "dev/fuse"
    is_freebsd = machine.platform.startswith("freebsd")
    if not os.path.exists(device):
        load = "kldload fusefs" if is_freebsd else "modprobe fuse"
        yield Finding("/dev/fuse", "missing", "not there", f"run as root: {load}")
    elif not os.access(device, os.R_OK | os.W_OK):
        yield Finding("/dev/fuse", "missing", "closed to this user", "run as root")
    else:
        yield Finding("/dev/fuse", "ok", "there")
    # fusepy knows libfuse2 alone, mfusepy both; but on FreeBSD mfusepy alone does, and
    # libfuse2 alone.
    stems = {"libfuse2": "fuse"} if is_freebsd else _LIBRARIES
    libraries = [name for name, stem in stems.items() if machine.find_library(stem)]
    names = ("mfusepy",) if is_freebsd else _BINDINGS
    bindings = [name for name in names if machine.has_module(name)]
    works = "libfuse2" in libraries or (
        "libfuse3" in libraries and "mfusepy" in bindings
    )
    if not libraries:
        yield Finding(
            "libfuse",
            "missing",
            f"{'no' if is_freebsd else 'neither'} {' nor '.join(stems)}",
            "run as root: pkg install fusefs-libs"
            if is_freebsd
            else "install it (Debian: apt install libfuse2)",
        )
    else:
        yield Finding("libfuse", "ok", " and ".join(libraries))
    if bindings and works:
        yield Finding("FUSE binding", "ok", ", ".join(bindings))
    else:
        yield Finding(
            "FUSE binding",
            "missing",
            f"{', '.join(bindings) or 'none'}, for libfuse2",
            "pip install 'ksymsfs[fuse3]'"
            + " for libfuse3, or install libfuse2" * (not is_freebsd),
        )
    unmount = next(filter(machine.which, ("fusermount3", "fusermount", "umount")), None)
    if unmount:
        yield Finding("unmounting", "ok", unmount)
    else:
        yield Finding(
            "unmounting", "limited", "no fusermount", "Debian: apt install fuse3"
        )
