"""What /proc says of a process that calls the device: proc(5).

Nothing here opens or stats a file *through* /proc/PID/fd, unless with what the kernel
knows already: that would call back into the file system that is asking, and wait for
itself.

A process that is gone or hidden is no error. Others are, above all EMFILE: who cannot
look must not say that nothing is there.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ksymsfs.kernel_file import KernelFile

CAP_SYSLOG = 34
INITIAL_USER_NAMESPACE = "user:[4026531837]"
"""The link text of /proc/PID/ns/user: PROC_USER_INIT_INO, include/linux/proc_ns.h."""

_NR_KCMP = {
    "x86_64": 312,
    "aarch64": 272,
    "riscv64": 272,
    "loongarch64": 272,
    "ppc64le": 354,
    "s390x": 343,
}
_KCMP_FILE, _KCMP_FILES = 0, 2
_SAME, _LESS, _GREATER = 0, 1, 2

_LINUX_CAPABILITY_VERSION_3 = 0x20080522

_AT_FDCWD, _AT_STATX_DONT_SYNC = -100, 0x4000

# FS_IOC_GETFLAGS, FS_IOC_FSGETXATTR, and the setters: include/uapi/linux/fs.h.
_ATTRIBUTE_REQUESTS = {
    *(0x80086601, 0x80046601, 0x40086602, 0x40046602, 0x801C581F, 0x401C5820),
}

_LOOKS = 100  # at a thread that has made a request and still runs


class ProcessId(NamedTuple):
    """A process for good: its id, and when it started (so that reuse shows)."""

    tgid: int
    start: int
    """Field 22 of /proc/PID/stat, in clock ticks since boot."""


class Descriptor(NamedTuple):
    """One descriptor in the table of thread *tid* (mostly its process's)."""

    tgid: int
    tid: int
    fd: int


class Mapping(NamedTuple):
    """One line of /proc/PID/maps, as far as it is needed."""

    address: int
    offset: int
    device: tuple[int, int]
    inode: int
    path: str


class Processes:
    """The processes below *root*, normally /proc.

    *device* is the st_dev, major and minor, of the files that descriptors and mappings
    are asked of: another server's have the same names. None: any.
    """

    def __init__(self, root: str = "/proc") -> None:
        self.device: tuple[int, int] | None = None
        self._root = root
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._nr_kcmp = _NR_KCMP.get(platform.machine(), -1)
        self._kptr_restrict, self._perf_event_paranoid = (
            KernelFile(f"{root}/sys/kernel/{name}")
            for name in ("kptr_restrict", "perf_event_paranoid")
        )

    def are_numbered_as_here(self) -> bool:
        """Whether ids below *root* are those of this process's pid namespace.

        NSpid of proc(5) begins in the namespace of the procfs: more than one number
        says that this process is in a child of it.
        """
        try:
            status = _read(f"{self._root}/self/status")
            return len(_status_field(status, b"NSpid").split()) == 1
        except (OSError, ValueError):
            return False

    def identify(self, tid: int) -> ProcessId | None:
        """The process of thread *tid*; None when it cannot be seen."""
        try:
            tgid = tid
            if not self._is_first_thread(tid):
                tgid = int(self._status(tid, b"Tgid"))
            stat = _read(f"{self._root}/{tgid}/stat")
            # The command, field 2, may hold anything but ends at the last ")".
            fields = stat[stat.rindex(b")") + 2 :].split(None, 20)
            return ProcessId(tgid, int(fields[19]))
        except _GONE:
            return None

    def _is_first_thread(self, tid: int) -> bool:
        # Signal 0 to thread tid of process tid: is there such a one? Mostly there is;
        # status, which knows the process of any, takes ten times as long to read.
        tgkill = getattr(self._libc, "tgkill", None)
        return tgkill is not None and tgkill(tid, tid, 0) == 0

    def sees_kernel_addresses(self, tid: int) -> bool:
        """Whether /proc/kallsyms would show thread *tid* its addresses.

        kernel/ksyms_common.c kallsyms_show_value: with kptr_restrict 2 nobody; else who
        has CAP_SYSLOG in the initial user namespace; and with kptr_restrict 0 everybody
        where perf_event_paranoid <= 1.
        """
        restrict = _sysctl(self._kptr_restrict)
        if restrict == 0 and _sysctl(self._perf_event_paranoid) <= 1:
            return True
        if restrict > 1:
            return False
        try:
            # A child namespace's capabilities count for nothing here.
            return (
                self._capabilities(tid) >> CAP_SYSLOG & 1 == 1
                and os.readlink(f"{self._root}/{tid}/ns/user") == INITIAL_USER_NAMESPACE
            )
        except _GONE:
            return False

    def _capabilities(self, tid: int) -> int:
        # CapEff of status, which takes eight times as long to read: capget(2).
        header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, tid)
        data = ctypes.create_string_buffer(24)
        if self._libc.capget(header, data) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        low, high = struct.unpack_from("=I8xI", data)
        return int(low | high << 32)

    def asks_for_attributes(self, tid: int) -> bool:
        """Whether thread *tid* is in an ioctl for which the kernel opens the file.

        fs/fuse/ioctl.c fuse_priv_ioctl_prepare: FS_IOC_GETFLAGS and its like come as
        an OPEN, by a process that has the file open already.
        """
        with contextlib.suppress(OSError, ValueError, IndexError):
            for _ in range(_LOOKS):
                call = _read(f"{self._root}/{tid}/syscall").split()
                if call != [b"running"]:
                    break
                # It has asked, and is yet to fall asleep until there is an answer.
                time.sleep(0.001)
            return int(call[2], 16) in _ATTRIBUTE_REQUESTS
        return False

    def descriptors(
        self, suffix: str, inode: int, *, first: int = 0
    ) -> Iterator[Descriptor]:
        """Every descriptor, of any process, of the file of this path *suffix*.

        *inode* is its st_ino. Process *first* is looked at first. O_PATH descriptors do
        not count: they hold no open file.
        """
        if first:
            yield from self.descriptors_of(first, suffix, inode)
        for name in os.listdir(self._root):
            if name.isdigit() and int(name) != first:
                yield from self.descriptors_of(int(name), suffix, inode)

    def descriptors_of(
        self, tgid: int, suffix: str, inode: int
    ) -> Iterator[Descriptor]:
        """The descriptors of process *tgid* alone."""
        for tid in self._tables(tgid):
            task = f"{self._root}/{tgid}/task/{tid}"
            numbers: list[str] = []
            with _unless_gone():
                numbers = os.listdir(f"{task}/fd")
            for number in numbers:
                try:
                    link = os.readlink(f"{task}/fd/{number}")
                except FileNotFoundError:
                    continue
                except (ProcessLookupError, PermissionError):
                    break
                if link.removesuffix(" (deleted)").endswith(suffix):
                    with _unless_gone():
                        if self._is_open_here(task, number, inode):
                            yield Descriptor(tgid, tid, int(number))

    def _tables(self, tgid: int) -> Iterator[int]:
        # The threads whose descriptors to look at: the first, and who has a table of
        # its own (unshare(2) CLONE_FILES; or the first thread has ended).
        yield tgid
        threads: list[str] = []
        with _unless_gone():
            threads = os.listdir(f"{self._root}/{tgid}/task")
        for tid in map(int, threads):
            if tid != tgid and self._kcmp(tgid, tid, _KCMP_FILES, 0, 0) != _SAME:
                yield tid

    def _is_open_here(self, task: str, number: str, inode: int) -> bool:
        flags = int(_status_field(_read(f"{task}/fdinfo/{number}"), b"flags"), 8)
        if flags & getattr(os, "O_PATH", 0):
            return False
        # Another server's file, or a dead one's, may have the same path.
        return self._is_ours(f"{task}/fd/{number}", inode)

    def _is_ours(self, path: str, inode: int) -> bool:
        # By what the kernel knows already: that asks no file system, least of all ours.
        statx = getattr(self._libc, "statx", None)
        if statx is None:
            return True
        found = ctypes.create_string_buffer(256)
        if statx(_AT_FDCWD, os.fsencode(path), _AT_STATX_DONT_SYNC, 0, found) != 0:
            return False
        (stx_ino,) = struct.unpack_from("=Q", found, 32)
        stx_dev = struct.unpack_from("=II", found, 136)
        return stx_ino == inode and self.device in (None, stx_dev)

    def open_files(self, found: Iterable[Descriptor]) -> list[list[Descriptor]]:
        """The descriptors of each open file.

        Descriptors share one by dup(2), fork(2) and SCM_RIGHTS; kcmp(2) tells. Without
        it, all descriptors of one process are taken for one open file.
        """

        def order(a: Descriptor, b: Descriptor) -> int:
            result = self._kcmp(a.tid, b.tid, _KCMP_FILE, a.fd, b.fd)
            if result in (_SAME, _LESS, _GREATER):
                return {_SAME: 0, _LESS: -1, _GREATER: 1}[result]
            return a.tgid - b.tgid

        files: list[list[Descriptor]] = []
        for descriptor in sorted(found, key=functools.cmp_to_key(order)):
            if files and order(files[-1][-1], descriptor) == 0:
                files[-1].append(descriptor)
            else:
                files.append([descriptor])
        return files

    def _kcmp(self, a: int, b: int, kind: int, index_a: int, index_b: int) -> int:
        return int(self._libc.syscall(self._nr_kcmp, a, b, kind, index_a, index_b))

    def descends(self, tgid: int, ancestor: int) -> bool:
        """Whether process *tgid* is a child of *ancestor*, or a child's child."""
        while tgid > 1:
            parent = 0
            with _unless_gone():
                parent = int(self._status(tgid, b"PPid"))
            if parent == ancestor:
                return True
            tgid = parent
        return False

    def mappings(self, tid: int) -> Iterator[Mapping]:
        """The file mappings of the process of thread *tid*, in address order.

        Raises OSError where its memory map may not be read. May block for as long as
        the process likes.
        """
        with open(f"{self._root}/{tid}/maps", "rb") as maps:
            for line in maps:
                fields = line.rstrip(b"\n").split(None, 5)
                if len(fields) == 6:
                    major, _, minor = fields[3].partition(b":")
                    yield Mapping(
                        int(fields[0].split(b"-")[0], 16),
                        int(fields[2], 16),
                        (int(major, 16), int(minor, 16)),
                        int(fields[4]),
                        os.fsdecode(fields[5]).removesuffix(" (deleted)"),
                    )

    def mapped_at(self, tid: int, suffix: str, inode: int) -> int | None:
        """Where the process of *tid* has the file of this path *suffix* mapped.

        The lowest address at which it begins; None when it is nowhere. Blocks and
        raises as `mappings` does.
        """
        for mapping in self.mappings(tid):
            if (
                mapping.inode == inode
                and mapping.offset == 0
                and mapping.path.endswith(suffix)
                and self.device in (None, mapping.device)
            ):
                return mapping.address
        return None

    def _status(self, tid: int, name: bytes) -> bytes:
        return _status_field(_read(f"{self._root}/{tid}/status"), name)


def _sysctl(file: KernelFile) -> int:
    try:
        return int(file.read())
    except _GONE:
        return 2  # the most restrictive


def _read(path: str) -> bytes:
    # A small file of proc, which one read gives whole.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


# ValueError: a line that is missing, as of a process that just ends.
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError, ValueError)


def _unless_gone() -> contextlib.suppress:
    return contextlib.suppress(*_GONE)


def _status_field(text: bytes, name: bytes) -> bytes:
    # Of any line but the first. A newline in a process's name is escaped.
    start = text.index(b"\n" + name + b":") + len(name) + 2
    end = text.find(b"\n", start)
    return text[start : end if end >= 0 else None].strip()
