"""The ioctls of FreeBSD's ksyms(4), as sys/dev/ksyms/ksyms.c had them until 2017."""

from __future__ import annotations

import errno
import struct

from ksymsfs.errors import RefusedError
from ksymsfs.ioctl import READ, WRITE, Ioctl

# sys/ksyms.h: _IOR('l', 1, size_t) and _IOR('l', 2, void *).
KIOCGSIZE, KIOCGADDR = 1, 2


def freebsd_ioctl(call: Ioctl) -> bytes:
    """What the kernel is to copy to the caller; b"" when it was written there already.

    KIOCGSIZE gives the exact size of the image. KIOCGADDR gives the address at which
    the *calling process* has the snapshot mapped from its start. Where a Linux kernel
    takes BSD's number for one that copies nothing out, the answer goes straight to the
    caller's memory. Raises RefusedError: ENOTTY for any other request, ENXIO when
    nothing is mapped, EFAULT for a bad pointer.
    """
    if (
        not call.is_ours
        or call.command not in (KIOCGSIZE, KIOCGADDR)
        or call.direction not in (READ, WRITE)
        or call.size not in (4, 8)
    ):
        raise call.unknown()
    value = len(call.image) if call.command == KIOCGSIZE else call.mapped_at()
    if value >> 8 * call.size:
        reason = f"{value:#x} does not fit {call.size} bytes"
        raise RefusedError(errno.EOVERFLOW, reason)
    answer = struct.pack("=Q" if call.size == 8 else "=I", value)
    if call.direction == READ:
        return answer
    call.memory.write(call.argument, answer)
    return b""
