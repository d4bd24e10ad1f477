"""One ioctl(2) on the device, as a flavor gets to see it.

BSD and Linux number ioctls alike but for the top two bits, which say what is copied:
what BSD calls out (the caller reads), Linux calls read; their codes are swapped. A
program may have been compiled with either's macros.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass

from ksymsfs.errors import RefusedError
from ksymsfs.memory import Memory

# The top two bits, by Linux's code. With READ set, the kernel itself copies the answer
# to the caller.
WRITE, READ = 1, 2


@dataclass(frozen=True, slots=True)
class Ioctl:
    """A request, with what may be needed to answer it."""

    request: int
    """The 32 bits of the request's number."""
    argument: int
    """The third argument of ioctl(2): where the caller has its structure."""
    image: bytes
    """The snapshot that was opened."""
    current: Callable[[], bytes]
    """Gives the image of the present state, which may be a newer one."""
    mapped_at: Callable[[], int]
    """Gives the address at which the caller has mapped the snapshot, or raises."""
    memory: Memory
    """The caller's."""

    @property
    def direction(self) -> int:
        """READ, WRITE, both or 0, if Linux's macros made the number."""
        return self.request >> 30

    @property
    def size(self) -> int:
        """sizeof the structure that is copied."""
        return self.request >> 16 & 0x3FFF

    @property
    def command(self) -> int:
        """The number within the group."""
        return self.request & 0xFF

    @property
    def is_ours(self) -> bool:
        """Whether the group is 'l', as all of sys/ksyms.h."""
        return self.request >> 8 & 0xFF == ord("l")

    def unknown(self) -> RefusedError:
        """The error of a request that the device does not know."""
        return RefusedError(errno.ENOTTY, f"no ioctl {self.request:#x}", quiet=True)
