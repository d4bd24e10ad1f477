"""FreeBSD's kernel linker through its system calls, and the one place that calls them.

kldnext(2), kldstat(2), kldsym(2) and sysctl(3). Layouts: sys/sys/linker.h, struct
kld_file_stat and struct kld_sym_lookup.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple, Protocol

KLDSYM_LOOKUP = 1
MAXPATHLEN = 1024


class KldStat(NamedTuple):
    """What kldstat(2) says of a linker file."""

    id: int
    name: str
    address: int
    size: int
    """Bytes in memory."""
    pathname: str


class Kld(Protocol):
    """The calls; each raises OSError as the system call fails."""

    def next(self, id_: int) -> int:
        """The id of the linker file after *id_*: 0 begins and ends the list."""

    def stat(self, id_: int) -> KldStat:
        """What is known of the linker file; ENOENT when it is gone."""

    def symbol(self, id_: int, name: bytes) -> int | None:
        """The value of a symbol of that linker file, None where it has none."""

    def sysctl(self, name: str) -> bytes:
        """The raw value of a sysctl(3) by name; b"" where there is none."""


class FileStat(ctypes.Structure):
    """struct kld_file_stat."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("name", ctypes.c_char * MAXPATHLEN),
        ("refs", ctypes.c_int),
        ("id", ctypes.c_int),
        ("address", ctypes.c_void_p),
        ("size", ctypes.c_size_t),
        ("pathname", ctypes.c_char * MAXPATHLEN),
    )


class SymLookup(ctypes.Structure):
    """struct kld_sym_lookup."""

    _fields_ = (
        ("version", ctypes.c_int),
        ("symname", ctypes.c_char_p),
        ("symvalue", ctypes.c_ulong),
        ("symsize", ctypes.c_size_t),
    )


class SystemCalls:
    """The calls of *libc*, by default of the FreeBSD that runs here."""

    def __init__(self, libc: str | None = None) -> None:
        self._libc = ctypes.CDLL(libc, use_errno=True)

    def next(self, id_: int) -> int:
        return self._checked(self._libc.kldnext(ctypes.c_int(id_)))

    def stat(self, id_: int) -> KldStat:
        stat = FileStat(version=ctypes.sizeof(FileStat))
        self._checked(self._libc.kldstat(ctypes.c_int(id_), ctypes.byref(stat)))
        return KldStat(
            stat.id,
            os.fsdecode(stat.name),
            stat.address or 0,
            stat.size,
            os.fsdecode(stat.pathname),
        )

    def symbol(self, id_: int, name: bytes) -> int | None:
        lookup = SymLookup(version=ctypes.sizeof(SymLookup), symname=name)
        try:
            self._checked(
                self._libc.kldsym(
                    ctypes.c_int(id_), ctypes.c_int(KLDSYM_LOOKUP), ctypes.byref(lookup)
                )
            )
        except FileNotFoundError:
            return None
        return int(lookup.symvalue)

    def sysctl(self, name: str) -> bytes:
        buffer = ctypes.create_string_buffer(MAXPATHLEN)
        length = ctypes.c_size_t(len(buffer))
        try:
            self._checked(
                self._libc.sysctlbyname(
                    name.encode(),
                    buffer,
                    ctypes.byref(length),
                    None,
                    ctypes.c_size_t(0),
                )
            )
        except OSError as error:
            if error.errno == errno.ENOENT:
                return b""
            raise
        return buffer.raw[: length.value]

    def _checked(self, result: int) -> int:
        if result == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result
