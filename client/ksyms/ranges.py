"""Who owns which addresses: the ranges of symbols, flattened so that none overlap."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from ksyms.elf import (
    SHF_ALLOC,
    SHN_ABS,
    SHN_COMMON,
    SHN_LORESERVE,
    SHN_UNDEF,
)
from ksyms.image import NO_PLACE, Image

Addresses: TypeAlias = np.ndarray[Any, np.dtype[np.uint64]]
Indexes: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

TOP = 0xFFFFFFFFFFFFFFFF


class Ranges(NamedTuple):
    """The address space, cut where the answer changes.

    The symbol at position owners[i] of the address order owns the addresses from
    bounds[i] to before bounds[i + 1]; -1 is nobody. bounds starts with 0. At position
    p stands the symbol of index order[p] in its table, at addresses[p].
    """

    order: Indexes
    addresses: Addresses
    bounds: Addresses
    owners: Indexes


def image_ranges(image: Image) -> Ranges:
    """The ranges of an image's symbols."""
    info = np.frombuffer(image.st_info, np.uint8)
    shndx = np.asarray(image.st_shndx).astype(np.int64)
    place = (shndx != SHN_UNDEF) & (shndx != SHN_COMMON)
    place &= ~np.isin(info & 15, NO_PLACE)
    place[list(image.mapping_symbols)] = False
    table = np.flatnonzero(place)
    value = np.asarray(image.st_value).astype(np.uint64)[table]
    size = np.asarray(image.st_size).astype(np.uint64)[table]
    if image.has_linker_files:
        # Every size is the kernel's own: 0 covers nothing.
        return _flatten(table, value, size, size > 0, size > 0)
    group = np.searchsorted(np.asarray(image.run_starts), table, "right")
    limit = _section_limits(image, shndx[table], value)
    return _flatten(table, value, *_extended(value, size, group, limit))


def symbol_ranges(
    addresses: Sequence[int], sizes: Sequence[int], groups: Sequence[int]
) -> Ranges:
    """The ranges of symbols given one by one; *groups* numbers their linker files."""
    value = np.array(addresses, np.uint64)
    size = np.array(sizes, np.uint64)
    group = np.array(groups, np.int64)
    limit = np.full(len(value), TOP, np.uint64)
    table = np.arange(len(value))
    return _flatten(table, value, *_extended(value, size, group, limit))


def _section_limits(image: Image, shndx: Indexes, value: Addresses) -> Addresses:
    # The last address that a symbol of unknown size can have: the end of its section,
    # where the image has that section. An absolute symbol among others is a number.
    limit = np.full(len(value), TOP, np.uint64)
    if (shndx != SHN_ABS).any():
        limit[shndx == SHN_ABS] = value[shndx == SHN_ABS]
    first = np.zeros(min(len(image.sections), SHN_LORESERVE), np.uint64)
    last = np.full(len(first), TOP, np.uint64)
    for i, section in enumerate(image.sections[: len(first)]):
        if section.sh_flags & SHF_ALLOC and section.sh_size:
            first[i] = section.sh_addr & TOP
            last[i] = min(section.sh_addr + section.sh_size - 1, TOP)
    known = np.flatnonzero(shndx < len(first))
    inside = (value[known] >= first[shndx[known]]) & (
        value[known] <= last[shndx[known]]
    )
    limit[known] = np.where(inside, last[shndx[known]], value[known])
    return limit


def _extended(
    value: Addresses, size: Addresses, group: Indexes, limit: Addresses
) -> tuple[Addresses, Any, Any]:
    # A symbol of size 0 reaches to the next one of its linker file, if there is one,
    # and never beyond its limit. Such a guess gives way to a size that is stated.
    stated = size > 0
    by_file = np.lexsort((value, group))
    v, g = value[by_file], group[by_file]
    new = np.ones(len(v) + 1, bool)
    new[1:-1] = (v[1:] != v[:-1]) | (g[1:] != g[:-1])
    starts = np.flatnonzero(new)
    following = starts[np.searchsorted(starts, np.arange(len(v)), "right")]
    has_next = following < len(v)
    following[~has_next] = 0
    has_next &= g[following] == g
    room = limit[by_file] - v
    one = np.uint64(1)
    last = np.where(limit[by_file] == TOP, np.uint64(0), room)
    last[has_next] = np.minimum(room, v[following] - v - one)[has_next]
    extended = np.empty_like(size)
    extended[by_file] = last + one
    return np.where(stated, size, extended), stated, np.ones(len(size), bool)


def _flatten(
    table: Indexes, value: Addresses, size: Addresses, stated: Any, covers: Any
) -> Ranges:
    by_address = np.argsort(value, kind="stable")
    position = np.flatnonzero(covers[by_address])
    at = by_address[position]
    start, stated = value[at], stated[at]
    # Inclusive ends: the last address there is has no end that fits 64 bits.
    last = start + (size[at] - np.uint64(1))
    last[last < start] = TOP
    # Aliases of one range: the first one has it.
    alias = np.zeros(len(start), bool)
    alias[1:] = (start[1:] == start[:-1]) & (last[1:] == last[:-1])
    alias[1:] &= stated[1:] == stated[:-1]
    start, last = start[~alias], last[~alias]
    stated, position = stated[~alias], position[~alias]
    if len(start):
        reached = np.maximum.accumulate(last)
        new = np.ones(len(start), bool)
        new[1:] = start[1:] > reached[:-1]
        lone = new & np.append(new[1:], True)
        if not lone.all():
            knots = np.flatnonzero(~lone)
            rows = zip(
                start[knots].tolist(),
                last[knots].tolist(),
                stated[knots].tolist(),
                position[knots].tolist(),
                strict=True,
            )
            parts = np.array(_untangle(list(rows)), np.uint64).reshape(-1, 3)
            start = np.concatenate([start[lone], parts[:, 0]])
            last = np.concatenate([last[lone], parts[:, 1]])
            position = np.concatenate([position[lone], parts[:, 2].astype(np.int64)])
            again = np.argsort(start, kind="stable")
            start, last, position = start[again], last[again], position[again]
    bounds = np.empty(2 * len(start) + 1, np.uint64)
    owners = np.full(len(bounds), -1, np.int64)
    bounds[0], bounds[1::2], bounds[2::2] = 0, start, last + np.uint64(1)
    owners[1::2] = position
    # No bound where the next range follows at once, or the address space ends.
    keep = np.ones(len(bounds), bool)
    keep[:-1] = bounds[:-1] != bounds[1:]
    if len(last) and last[-1] == TOP:
        keep[-1] = False
    return Ranges(table[by_address], value[by_address], bounds[keep], owners[keep])


def _untangle(rows: list[tuple[int, int, bool, int]]) -> list[tuple[int, int, int]]:
    # Overlapping ranges (start, last, stated, position), sorted by start, cut into
    # disjoint (start, last, position). Who states a size comes before who does not,
    # then the innermost, then the first.
    parts: list[tuple[int, int, int]] = []
    active: list[tuple[bool, int, int, int]] = []
    cuts = sorted({r[0] for r in rows} | {min(r[1] + 1, TOP) for r in rows} | {TOP})
    row = 0
    for cut, following in zip(cuts, [*cuts[1:], TOP + 1], strict=True):
        while row < len(rows) and rows[row][0] == cut:
            start, last, stated, position = rows[row]
            heapq.heappush(active, (not stated, -start, position, last))
            row += 1
        while active and active[0][3] < cut:
            heapq.heappop(active)
        if active:
            parts.append((cut, min(following - 1, active[0][3]), active[0][2]))
    return parts
