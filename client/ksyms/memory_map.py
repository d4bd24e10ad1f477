"""Where text and data of a kernel and its modules lie, and how large they are."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ksyms.elf import STT_FUNC, STT_OBJECT
from ksyms.image import Image
from ksyms.ranges import image_ranges

KINDS = ("text", "rodata", "data", "bss", "other")

# Symbols of one kind that lie closer belong to one part: alignment, small gaps.
_GAP = 1 << 16

_KIND_OF_LETTER = {
    "t": "text", "w": "text", "i": "text", "r": "rodata", "n": "rodata",
    "d": "data", "v": "data", "u": "data", "g": "data", "b": "bss", "s": "bss",
}  # fmt: skip


class Part(NamedTuple):
    """A stretch of memory with symbols of one kind, of one linker file."""

    file: str
    kind: str
    start: int
    end: int
    """One past its last byte."""
    covered: int
    """The bytes of it that symbols cover."""
    symbols: int


class FileSizes(NamedTuple):
    """A linker file, and how many bytes of each kind its symbols cover."""

    name: str
    address: int
    size: int
    """Bytes in memory; 0 where the image does not say."""
    symbols: int
    sizes: dict[str, int]
    """By KINDS."""

    @property
    def covered(self) -> int:
        """The bytes that symbols cover."""
        return sum(self.sizes.values())


class MemoryMap(NamedTuple):
    """What lies where."""

    bits: int
    files: tuple[FileSizes, ...]
    """In load order."""
    parts: tuple[Part, ...]
    """By address."""


def memory_map(image: Image) -> MemoryMap:
    """The map of an image's symbols: who owns each byte (see ksyms.ranges)."""
    ranges = image_ranges(image)
    if not len(ranges.order):
        return MemoryMap(image.bits, (), ())
    kinds = _kinds(image)
    runs = np.searchsorted(np.array(image.run_starts), ranges.order, "right") - 1
    names = list(dict.fromkeys(file.name for file in image.run_files))
    number_of_run = np.array([names.index(file.name) for file in image.run_files])
    file_of = number_of_run[runs]
    kind_of = kinds[ranges.order]

    # What follows the last bound reaches to the end of the address space, 2^64 or 0.
    length = np.append(ranges.bounds[1:], np.uint64(0)) - ranges.bounds
    stated = np.asarray(image.st_size)[ranges.order[ranges.owners]] > 0
    # A symbol of no size and of one byte is a number, or a mark of some place.
    owned = np.flatnonzero((ranges.owners >= 0) & (stated | (length > 1)))
    owners = ranges.owners[owned]
    start, size = ranges.bounds[owned], length[owned]
    end = start + size
    file, kind = file_of[owners], kind_of[owners]

    new = np.ones(len(owned), bool)
    new[1:] = (
        (file[1:] != file[:-1])
        | (kind[1:] != kind[:-1])
        | (start[1:] - end[:-1] > np.uint64(_GAP))
    )
    firsts = np.flatnonzero(new)
    following = np.append(firsts, len(owned))[1:]
    covered = np.add.reduceat(size, firsts) if len(firsts) else size
    counts = following - firsts
    parts = tuple(
        Part(names[f], KINDS[k], s, e or 1 << image.bits, c, n)
        for f, k, s, e, c, n in zip(
            file[firsts].tolist(),
            kind[firsts].tolist(),
            start[firsts].tolist(),
            end[following - 1].tolist(),
            covered.tolist(),
            counts.tolist(),
            strict=True,
        )
    )
    symbols = np.bincount(file_of, minlength=len(names)).tolist()
    return MemoryMap(image.bits, _files(image, parts, names, symbols), parts)


def _kinds(image: Image) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # The number of each record's kind. Where the letter does not tell (FreeBSD's
    # images have lost their sections), the type does.
    letters = image.nm_types(range(len(image)))
    known = [_KIND_OF_LETTER.get(letter.lower()) for letter in letters]
    by_type = {STT_FUNC: "text", STT_OBJECT: "data"}
    return np.array(
        [
            KINDS.index(kind or by_type.get(info & 15, "other"))
            for kind, info in zip(known, image.st_info, strict=True)
        ],
        np.int64,
    )


def _files(
    image: Image, parts: tuple[Part, ...], names: list[str], symbols: list[int]
) -> tuple[FileSizes, ...]:
    sizes = {name: dict.fromkeys(KINDS, 0) for name in names}
    for part in parts:
        sizes[part.file][part.kind] += part.covered
    where = {file.name: (file.address, file.size) for file in image.run_files}
    return tuple(
        FileSizes(name, *where[name], count, sizes[name])
        for name, count in zip(names, symbols, strict=True)
    )
