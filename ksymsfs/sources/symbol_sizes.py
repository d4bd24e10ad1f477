"""Sizes of symbols that have none of their own: kernel/kallsyms.c computes them.

A symbol reaches to the next different address of its linker file (get_symbol_pos), the
last one to where the linker file ends, and in a module none beyond its part
(find_kallsyms_symbol). A module's per-CPU symbols cover no address.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksymsfs.elf import SHN
from ksymsfs.sources.module_parts import part_ends

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

PAGE = 4096
_FEW = 16
_TOP = 2**64 - 1


class Extent(NamedTuple):
    """A linker file: which symbols are its own, and its range in memory."""

    symbols: slice
    address: int
    size: int
    has_parts: bool
    """Whether it is a module, of which no symbol reaches from one part to another."""


def page_end(address: int) -> int:
    """The start of the next page."""
    return (address // PAGE + 1) * PAGE


def symbol_sizes(
    address: _Array, section: _Array, extents: Sequence[Extent], *, apart: bool
) -> _Array:
    """The size of every symbol, in bytes.

    *address* and *section* (ImageSection) are those of all symbols, of one linker file
    after the other, each in address order. *apart* says that the kernel allocates the
    parts of a module one by one.
    """
    extents = [e for e in extents if e.symbols.start != e.symbols.stop]
    end = np.empty_like(address)
    end[:-1] = address[1:]
    modules = [
        batch
        for has_parts, group in groupby(extents, key=lambda extent: extent.has_parts)
        if has_parts
        for batch in _batches(list(group))
    ]
    for batch in modules:
        # All at once. Where two of them meet, the next loop puts it right.
        first, stop = batch[0].symbols.start, batch[-1].symbols.stop
        counts = [e.symbols.stop - e.symbols.start for e in batch]
        sizes = np.array([min(e.size, _TOP) for e in batch], np.uint64)
        most = np.repeat(sizes, counts)
        end[first : stop - 1] = part_ends(
            address[first:stop], section[first:stop], apart=apart, most=most[:-1]
        )
    for extent in extents:
        top, bound = int(address[extent.symbols.stop - 1]), extent.address + extent.size
        if (apart and extent.has_parts) or not extent.address <= top < bound:
            bound = page_end(top)
        end[extent.symbols.stop - 1] = min(bound, _TOP)
    # Of symbols at one address, all end where the last one does.
    is_alias = address[:-1] == address[1:]
    is_alias[[e.symbols.stop - 1 for e in extents[:-1]]] = False
    aliases = np.flatnonzero(is_alias)
    last = aliases[np.diff(aliases, append=-1) != 1]
    end[aliases] = end[last[np.searchsorted(last, aliases)] + 1]
    end -= address
    for batch in modules:
        # Offsets into every CPU's own memory; no address of any part.
        own = slice(batch[0].symbols.start, batch[-1].symbols.stop)
        end[own][section[own] == SHN.ABS] = 0
    return end


def _batches(extents: list[Extent]) -> list[list[Extent]]:
    # A few at a time: what they need then stays in the cache.
    return [extents[at : at + _FEW] for at in range(0, len(extents), _FEW)]
