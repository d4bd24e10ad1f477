"""What makes the device FreeBSD's, NetBSD's or illumos's: data and a few functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ksymsfs.debug_layout import build_debug_image
from ksymsfs.elf import ElfFormat
from ksymsfs.illumos import build_illumos_image
from ksymsfs.image import build_image
from ksymsfs.linker import LinkerFile
from ksymsfs.netbsd import build_netbsd_image

Layout: TypeAlias = Callable[[Sequence[LinkerFile], ElfFormat], bytes]
"""A function that lays linker files out as one image."""


@dataclass(frozen=True, slots=True)
class Flavor:
    """The rules of one system's /dev/ksyms."""

    name: str
    layout: Layout


FLAVORS = {
    flavor.name: flavor
    for flavor in (
        Flavor("freebsd", build_image),
        Flavor("netbsd", build_netbsd_image),
        Flavor("illumos", build_illumos_image),
    )
}

LAYOUTS: dict[str, Layout] = {"freebsd": build_image, "debug": build_debug_image}
