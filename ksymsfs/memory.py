"""The memory of the process that calls: process_vm_readv(2), process_vm_writev(2)."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Hashable
from threading import Event

from ksymsfs.aside import Aside, AsideError
from ksymsfs.errors import RefusedError

PAGE = 4096


class Memory:
    """The memory of thread *tid*'s process, reached aside with a time limit.

    *key* is what *aside* is to know the caller by. Every method raises RefusedError:
    EFAULT where there is no such memory or it does not answer, ENOTTY where the process
    cannot be seen (no positive *tid*: a caller in an outer pid namespace).
    """

    def __init__(self, tid: int, aside: Aside, key: Hashable = None) -> None:
        self._tid = tid
        self._aside = aside
        self._key = key

    def read(self, address: int, size: int) -> bytes:
        """The *size* bytes at *address*."""
        data = self._transfer("process_vm_readv", address, bytes(size))
        if len(data) != size:
            raise self._fault(address)
        return data

    def read_string(self, address: int, limit: int) -> bytes:
        """The string at *address*, without its NUL, as copyinstr(9) gets it.

        Raises ENAMETOOLONG when *limit* bytes hold no NUL.
        """
        string = b""
        while len(string) < limit:
            # Never across a page: the next one may not be there, and not be needed.
            at = address + len(string)
            size = min(PAGE - at % PAGE, limit - len(string))
            piece = self.read(at, size)
            end = piece.find(b"\0")
            if end >= 0:
                return string + piece[:end]
            string += piece
        reason = f"no name of less than {limit} bytes"
        raise RefusedError(errno.ENAMETOOLONG, reason, quiet=True)

    def write(self, address: int, data: bytes) -> None:
        """Put *data* at *address*."""
        written = self._transfer("process_vm_writev", address, data)
        if len(written) != len(data):
            raise self._fault(address)

    def _transfer(self, call: str, address: int, data: bytes) -> bytes:
        # As much of the buffer as was transferred.
        if self._tid <= 0:
            raise RefusedError(errno.ENOTTY, "a caller in an outer pid namespace")

        def transfer(late: Event) -> bytes:
            if late.is_set():  # the thread id may be another's by now
                raise AsideError("begun too late")
            # The buffer is this frame's: it outlives a caller that gave up waiting.
            buffer = ctypes.create_string_buffer(data, len(data))
            local = _Iovec(ctypes.addressof(buffer), len(data))
            remote = _Iovec(address, len(data))
            done = getattr(ctypes.CDLL(None), call)(
                self._tid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0
            )
            return buffer.raw[: max(int(done), 0)]

        try:
            return self._aside.run(self._key, transfer)
        except AsideError as error:
            reason = f"the memory of thread {self._tid}: {error}"
            raise RefusedError(errno.EFAULT, reason) from error

    def _fault(self, address: int) -> RefusedError:
        reason = f"no memory at {address:#x} of thread {self._tid}"
        return RefusedError(errno.EFAULT, reason, quiet=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))
