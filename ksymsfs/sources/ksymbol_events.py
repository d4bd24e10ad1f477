"""A counter that moves whenever a kernel symbol comes or goes, read without a call.

A dummy software perf event a CPU with attr.ksymbol set gets a PERF_RECORD_KSYMBOL for
every BPF program, trampoline, ftrace and kprobe page (kernel/events/core.c
perf_event_ksymbol). Nobody reads the records: the ring is mapped read-only, so it
overwrites itself and its data_head only ever grows. perf_event_open(2).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Iterable

_NR_PERF_EVENT_OPEN = {
    "x86_64": 298,
    "aarch64": 241,
    "riscv64": 241,
    "loongarch64": 241,
    "ppc64le": 319,
    "s390x": 331,
}
_PERF_TYPE_SOFTWARE = 1
_PERF_COUNT_SW_DUMMY = 9
_PERF_FLAG_FD_CLOEXEC = 8
# struct perf_event_attr as of PERF_ATTR_SIZE_VER5, the first whose kernels (5.1) know
# attr.ksymbol: bit 29 of the flag word at offset 40.
_ATTR_SIZE = 112
_KSYMBOL = 1 << 29
_DATA_HEAD = 1024  # offset of data_head in struct perf_event_mmap_page
_PAGES = 1 + 1  # the control page and the smallest ring


class KsymbolEvents:
    """Counts symbol events on *cpus*; raises OSError where perf refuses."""

    def __init__(self, cpus: Iterable[int]) -> None:
        self._rings: list[mmap.mmap] = []
        self._heads: list[memoryview] = []
        try:
            for cpu in cpus:
                self._open(cpu)
        except BaseException:
            self.close()
            raise

    def _open(self, cpu: int) -> None:
        number = _NR_PERF_EVENT_OPEN.get(platform.machine())
        if number is None:
            raise OSError(errno.ENOSYS, "perf_event_open: unknown architecture")
        attr = ctypes.create_string_buffer(
            struct.pack(
                "=IIQ4QQ",
                *(_PERF_TYPE_SOFTWARE, _ATTR_SIZE, _PERF_COUNT_SW_DUMMY),
                *(0, 0, 0),
                *(_KSYMBOL, 0),
            ),
            _ATTR_SIZE,
        )
        libc = ctypes.CDLL(None, use_errno=True)
        fd = libc.syscall(number, attr, -1, cpu, -1, _PERF_FLAG_FD_CLOEXEC)
        if fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"perf_event_open: {os.strerror(error)}")
        try:
            ring = mmap.mmap(
                fd, _PAGES * mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ
            )
        finally:
            os.close(fd)  # the mapping keeps the event
        self._rings.append(ring)
        self._heads.append(memoryview(ring).cast("Q")[_DATA_HEAD // 8 :][:1])

    def value(self) -> int:
        """The sum of all data_heads: grows with every event."""
        return sum([head[0] for head in self._heads])

    def close(self) -> None:
        """Unmap the rings, which ends the events."""
        while self._heads:
            self._heads.pop().release()
        while self._rings:
            self._rings.pop().close()
