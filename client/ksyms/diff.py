"""Compares two images: what came, went, moved or changed its size, by linker file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ksyms.image import Image, LinkerFile, take

# Makes an Entry in half the time of its own constructor.
_new = tuple.__new__


class Entry(NamedTuple):
    """A symbol of one of the images."""

    name: str
    address: int
    size: int
    nm_type: str


Pair = tuple[Entry, Entry]


class FileDiff(NamedTuple):
    """How one linker file differs; *old* or *new* is None where it is not there.

    Symbols that moved are those whose distance from the start of the file changed:
    where the file moved as a whole, *shift* tells how far.
    """

    name: str
    old: LinkerFile | None
    new: LinkerFile | None
    shift: int
    symbols: tuple[int, int]
    """How many symbols the file has in each image."""
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    moved: tuple[Pair, ...]
    resized: tuple[Pair, ...]

    @property
    def differs(self) -> bool:
        """Whether there is anything to tell."""
        return bool(
            self.shift
            or not (self.old and self.new)
            or self.added
            or self.removed
            or self.moved
            or self.resized
        )


def diff_images(old: Image, new: Image) -> list[FileDiff]:
    """The linker files that differ: those of *old* in load order, then new ones."""
    ours, theirs = _by_file(old), _by_file(new)
    found = []
    for name in dict.fromkeys([*ours, *theirs]):
        diff = _diff_file(name, ours.get(name), theirs.get(name))
        if diff.differs:
            found.append(diff)
    return found


class _Content:
    # A linker file's symbols, by name.
    def __init__(self, file: LinkerFile) -> None:
        self.file = file
        self.symbols: dict[str, list[Entry]] = {}
        self.total = 0
        # BPF programs and trampolines are each put where there was room.
        scattered = file.name == "bpf" or file.name.startswith("__builtin__")
        self.base = 0 if scattered else file.address

    def place(self, symbol: Entry) -> int:
        """What stays when the file as a whole moves; absolute symbols do not."""
        return symbol.address - (self.base if symbol.nm_type not in "aA" else 0)


def _by_file(image: Image) -> dict[str, _Content]:
    names, unplaced = image.names(), set(image.unplaced())
    found: dict[str, _Content] = {}
    for start, end, file in image.runs:
        content = found.setdefault(file.name, _Content(file))
        run = range(start, end)
        columns = (
            *(names[start:end], take(image.st_value, run), take(image.st_size, run)),
            image.nm_types(run),
        )
        for index, row in zip(run, zip(*columns, strict=True), strict=True):
            if index not in unplaced:
                content.symbols.setdefault(row[0], []).append(_new(Entry, row))
                content.total += 1
    return found


def _diff_file(name: str, old: _Content | None, new: _Content | None) -> FileDiff:
    added: list[Entry] = []
    removed: list[Entry] = []
    moved: list[Pair] = []
    resized: list[Pair] = []
    if old and new:
        for symbol in dict.fromkeys([*old.symbols, *new.symbols]):
            ours, theirs = old.symbols.get(symbol, []), new.symbols.get(symbol, [])
            if len(ours) == len(theirs) == 1:
                pairs = [(ours[0], theirs[0])]
            else:
                pairs, gone, come = _match(ours, theirs, old, new)
                removed += gone
                added += come
            moved += [(a, b) for a, b in pairs if old.place(a) != new.place(b)]
            resized += [(a, b) for a, b in pairs if a.size != b.size]
    return FileDiff(
        name,
        old.file if old else None,
        new.file if new else None,
        new.base - old.base if old and new else 0,
        (old.total if old else 0, new.total if new else 0),
        _sorted(added),
        _sorted(removed),
        _sorted_pairs(moved),
        _sorted_pairs(resized),
    )


def _match(
    ours: Sequence[Entry], theirs: Sequence[Entry], old: _Content, new: _Content
) -> tuple[list[Pair], list[Entry], list[Entry]]:
    # Static functions share names. Those that are where they were belong together, the
    # others in the order of their addresses.
    pairs: list[Pair] = []
    strangers = []
    at: dict[int, list[Entry]] = {}
    for entry in reversed(theirs):
        at.setdefault(new.place(entry), []).append(entry)
    for entry in ours:
        if same := at.get(old.place(entry)):
            pairs.append((entry, same.pop()))
        else:
            strangers.append(entry)
    left = [entry for entries in at.values() for entry in reversed(entries)]
    strangers.sort(key=_address)
    left.sort(key=_address)
    both = min(len(strangers), len(left))
    pairs += zip(strangers[:both], left[:both], strict=True)
    return pairs, strangers[both:], left[both:]


def _address(entry: Entry) -> int:
    return entry.address


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda e: (e.address, e.name)))


def _sorted_pairs(pairs: Iterable[Pair]) -> tuple[Pair, ...]:
    return tuple(sorted(pairs, key=lambda pair: (pair[0].address, pair[0].name)))
