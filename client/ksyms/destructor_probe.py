"""Asks the kernel that runs whether a referenced kptr may point to a struct.

BPF_BTF_LOAD of `struct { struct NAME __kptr *p; }` is enough: it fails with ENOENT for
a struct of the kernel without a destructor. No map and no program is made; what is
loaded is gone with its descriptor.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Iterable
from errno import ENOENT

from ksyms.btf import Btf
from ksyms.btf_types import Kind
from ksyms.destructors import Destructors

_BPF_BTF_LOAD = 18
_ATTR_SIZE = 28  # bytes of union bpf_attr that BPF_BTF_LOAD has in all kernels
_NUMBERS = {
    "x86_64": 321,
    "i686": 357,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "armv7l": 386,
    "ppc64le": 361,
    "s390x": 351,
}


class DestructorProbe:
    """Asks for each struct when it is asked itself; raises OSError when it may not."""

    def __init__(self) -> None:
        """Find out whether this process may ask: PermissionError if not."""
        number = _NUMBERS.get(platform.machine())
        if number is None:
            raise OSError(f"bpf(2) has no known number on {platform.machine()}")
        self._number = number
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._accepted: dict[str, bool] = {}
        self._ask("task_struct")

    def accepts(self, name: str) -> bool:
        """Whether the kernel has a destructor for its struct *name*."""
        if name not in self._accepted:
            self._accepted[name] = self._ask(name)
        return self._accepted[name]

    def _ask(self, name: str) -> bool:
        data = _question(name)
        buffer = ctypes.create_string_buffer(data, len(data))
        attr = struct.pack("=QQIII", ctypes.addressof(buffer), 0, len(data), 0, 0)
        pointer = ctypes.create_string_buffer(attr, _ATTR_SIZE)
        fd = self._syscall(self._number, _BPF_BTF_LOAD, pointer, _ATTR_SIZE)
        if fd < 0:
            number = ctypes.get_errno()
            if number == ENOENT:
                return False
            raise OSError(number, f"BPF_BTF_LOAD: {os.strerror(number)}")
        os.close(fd)
        return True


# BTF of `struct { struct NAME __kptr *p; }` in the host's byte order.
def _question(name: str) -> bytes:
    strings = b"\0" + name.encode("utf-8", "surrogateescape") + b"\0kptr\0p\0"
    tag = len(strings) - len(b"kptr\0p\0")
    member = len(strings) - len(b"p\0")
    types = struct.pack(
        "=15I",
        *(1, Kind.STRUCT << 24, 0),
        *(tag, Kind.TYPE_TAG << 24, 1),
        *(0, Kind.PTR << 24, 2),
        *(0, Kind.STRUCT << 24 | 1, 8, member, 3, 0),
    )
    header = struct.pack(
        "=HBBI4I", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings)
    )
    return header + types + strings


def probe_destructors(
    btfs: Iterable[Btf], progress: Callable[[int, int], None]
) -> Destructors:
    """All structs of *btfs* (vmlinux first) that a referenced kptr may point to.

    *progress* is told how many have been asked for, of how many. Raises OSError where
    the kernel does not let this process ask (EPERM: it takes CAP_BPF).
    """
    probe = DestructorProbe()
    names = sorted(
        {
            struct.name
            for btf in btfs
            for struct in map(btf.__getitem__, btf.ids(Kind.STRUCT))
            if struct.name
        }
    )
    accepted = set()
    for number, name in enumerate(names, 1):
        if probe.accepts(name):
            accepted.add(name)
        progress(number, len(names))
    return Destructors("probe", frozenset(accepted))
