"""What /proc says of a process that calls the device: proc(5).

Nothing here opens or stats a file *through* /proc/PID/fd: that would call back into the
file system that is asking, and wait for itself.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CAP_SYSLOG = 34

_NR_KCMP = {
    "x86_64": 312,
    "aarch64": 272,
    "riscv64": 272,
    "loongarch64": 272,
    "ppc64le": 354,
    "s390x": 343,
}
_KCMP_FILE = 0
_O_PATH = 0o10000000


class ProcessId(NamedTuple):
    """A process for good: its id, and when it started (so that reuse shows)."""

    tgid: int
    start: int
    """Field 22 of /proc/PID/stat, in clock ticks since boot."""


class Descriptor(NamedTuple):
    """One descriptor of one process."""

    tgid: int
    fd: int


class Mapping(NamedTuple):
    """One line of /proc/PID/maps, as far as it is needed."""

    address: int
    offset: int
    inode: int
    path: str


class Processes:
    """The processes below *root*, normally /proc."""

    def __init__(self, root: str = "/proc") -> None:
        self._root = Path(root)

    def identify(self, tid: int) -> ProcessId | None:
        """The process of thread *tid*; None when it cannot be seen."""
        try:
            status = (self._root / str(tid) / "status").read_bytes()
            tgid = int(_status_field(status, b"Tgid"))
            stat = (self._root / str(tgid) / "stat").read_bytes()
            # The command, field 2, may hold anything but ends at the last ")".
            return ProcessId(tgid, int(stat[stat.rindex(b")") + 2 :].split()[19]))
        except (OSError, ValueError):
            return None

    def sees_kernel_addresses(self, tid: int) -> bool:
        """Whether /proc/kallsyms would show thread *tid* its addresses.

        kernel/ksyms_common.c kallsyms_show_value: with kptr_restrict 0 everybody where
        perf_event_paranoid <= 1; else who has CAP_SYSLOG in the initial user
        namespace. A child namespace's capabilities do not count.
        """
        if (
            self._sysctl("kptr_restrict") == 0
            and self._sysctl("perf_event_paranoid") <= 1
        ):
            return True
        thread = self._root / str(tid)
        try:
            capabilities = _status_field((thread / "status").read_bytes(), b"CapEff")
            theirs = os.readlink(thread / "ns/user")
            ours = os.readlink(self._root / "self/ns/user")
        except (OSError, ValueError):
            return False
        return theirs == ours and bool(int(capabilities, 16) >> CAP_SYSLOG & 1)

    def _sysctl(self, name: str) -> int:
        try:
            return int((self._root / "sys/kernel" / name).read_text())
        except (OSError, ValueError):
            return 2  # the most restrictive

    def descriptors(self, suffix: str, inode: int) -> Iterator[Descriptor]:
        """Every descriptor, of any process, of the file of this path *suffix*.

        *inode* is its st_ino, compared where the kernel tells it (fdinfo, Linux 5.14).
        O_PATH descriptors do not count: they hold no open file.
        """
        for entry in os.scandir(self._root):
            if entry.name.isdigit():
                yield from self._descriptors_of(int(entry.name), suffix, inode)

    def _descriptors_of(
        self, tgid: int, suffix: str, inode: int
    ) -> Iterator[Descriptor]:
        directory = self._root / str(tgid)
        try:
            numbers = os.listdir(directory / "fd")
        except OSError:
            return
        for number in numbers:
            try:
                link = os.readlink(directory / "fd" / number)
                if not link.removesuffix(" (deleted)").endswith(suffix):
                    continue
                info = (directory / "fdinfo" / number).read_bytes()
                if int(_status_field(info, b"flags"), 8) & _O_PATH:
                    continue
                if b"\nino:" in info and int(_status_field(info, b"ino")) != inode:
                    continue
            except (OSError, ValueError):
                continue
            yield Descriptor(tgid, int(number))

    def same_file(self, a: Descriptor, b: Descriptor) -> bool:
        """Whether two descriptors share one open file: kcmp(2) KCMP_FILE.

        Without kcmp, all descriptors of one process are taken for one open file.
        """
        number = _NR_KCMP.get(platform.machine())
        if number is not None:
            libc = ctypes.CDLL(None, use_errno=True)
            result = int(libc.syscall(number, a.tgid, b.tgid, _KCMP_FILE, a.fd, b.fd))
            if result >= 0:
                return result == 0
        return a.tgid == b.tgid

    def descends(self, tgid: int, ancestor: int) -> bool:
        """Whether process *tgid* is *ancestor* or one of its descendants."""
        while tgid > 1 and tgid != ancestor:
            try:
                status = (self._root / str(tgid) / "status").read_bytes()
                tgid = int(_status_field(status, b"PPid"))
            except (OSError, ValueError):
                return False
        return tgid == ancestor

    def mappings(self, tid: int) -> Iterator[Mapping]:
        """The file mappings of the process of thread *tid*, in address order.

        Raises OSError where its memory map may not be read.
        """
        with (self._root / str(tid) / "maps").open("rb") as maps:
            for line in maps:
                fields = line.rstrip(b"\n").split(None, 5)
                if len(fields) == 6:
                    yield Mapping(
                        int(fields[0].split(b"-")[0], 16),
                        int(fields[2], 16),
                        int(fields[4]),
                        os.fsdecode(fields[5]).removesuffix(" (deleted)"),
                    )


def _status_field(text: bytes, name: bytes) -> bytes:
    for line in text.splitlines():
        key, _, value = line.partition(b":")
        if key == name:
            return value.strip()
    raise ValueError(f"no field {name.decode()}")
