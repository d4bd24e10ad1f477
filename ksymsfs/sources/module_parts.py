"""Where a Linux module's text, read-only and writable parts end in memory.

A symbol's size is the distance to the next one, but not across the end of its part.
/proc/modules tells only where the text starts and the size of all parts together. Until
Linux 6.3 they were one block, each part on the page after the one before; since 6.4
(kernel/module/main.c move_module, struct module_memory) each is an allocation of its
own with an unmapped page behind it, and other modules may lie between them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from ksymsfs.linker import ImageSection
from ksymsfs.sources.modules import Module

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

_PAGE = np.uint64(4095)


def are_apart(highest: Iterable[tuple[Module, int]]) -> bool:
    """Whether the kernel allocates parts one by one, seen from its modules.

    *highest* has each module with its highest symbol's address: in one block it lies
    within the size that /proc/modules tells.
    """
    return any(address >= m.address + m.size for m, address in highest)


def part_ends(address: _Array, section: _Array, *, apart: bool, most: _Array) -> _Array:
    """Where each symbol ends but for the last: at the next one, or with its part.

    *address* and *section* (ImageSection) are those of a module's symbols in address
    order, *most* the module's size. In one block a part ends where the next symbol's
    page starts. Where parts lie apart that is not known: the symbol gets no more than
    its own page.
    """
    last, following = address[:-1], address[1:]
    part = section.copy()
    part[part == ImageSection.BSS] = ImageSection.DATA
    ends = (last | _PAGE) + np.uint64(1)
    crosses = (part[1:] != part[:-1]) & (following > ends)
    # A module's per-CPU symbols are small numbers, far below its other parts.
    far = following - last > most
    if not apart:
        ends = np.where(far, ends, following & ~_PAGE)
    return np.where(crosses | far, ends, following)
