"""What makes the device FreeBSD's, NetBSD's or illumos's: data and a few functions."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ksymsfs.debug_layout import build_debug_image
from ksymsfs.elf import ElfFormat
from ksymsfs.errors import RefusedError
from ksymsfs.freebsd import freebsd_ioctl
from ksymsfs.illumos import build_illumos_image
from ksymsfs.image import build_image
from ksymsfs.ioctl import Ioctl
from ksymsfs.linker import LinkerFile
from ksymsfs.netbsd import build_netbsd_image, netbsd_ioctl

Layout: TypeAlias = Callable[[Sequence[LinkerFile], ElfFormat], bytes]
"""A function that lays linker files out as one image."""


@dataclass(frozen=True, slots=True)
class Flavor:
    """The rules of one system's /dev/ksyms."""

    name: str
    layout: Layout
    mode: int
    """Permissions of the node."""
    is_exclusive: bool
    """Whether a process may have it open only once."""
    write_errno: int
    """What becomes of an open for writing: on a regular file that nobody can write to,
    the only place where a write can fail."""
    ioctl: Callable[[Ioctl], bytes]
    """Answers an ioctl: the bytes that the kernel is to copy to the caller."""


def _no_ioctl(call: Ioctl) -> bytes:
    # illumos: nodev(9F)
    raise RefusedError(errno.ENXIO, f"no ioctl {call.request:#x}", quiet=True)


FREEBSD = Flavor("freebsd", build_image, 0o400, True, errno.EACCES, freebsd_ioctl)
NETBSD = Flavor("netbsd", build_netbsd_image, 0o444, False, errno.EROFS, netbsd_ioctl)
ILLUMOS = Flavor("illumos", build_illumos_image, 0o666, False, errno.ENXIO, _no_ioctl)

FLAVORS = {flavor.name: flavor for flavor in (FREEBSD, NETBSD, ILLUMOS)}

LAYOUTS: dict[str, Layout] = {"freebsd": build_image, "debug": build_debug_image}
