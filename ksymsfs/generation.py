"""Generations: states of the kernel's symbols, each with its immutable image.

An image is built when the source's fingerprint has changed and reused until then, so an
open of an unchanged kernel reads nothing. Consistency is ksyms(4)'s: the fingerprint is
taken before and after, three tries, then no snapshot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import ImageTooLargeError, SnapshotError, SourceChangingError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import Source

log = logging.getLogger(__name__)

ATTEMPTS = 3
"""FreeBSD's ksyms_open: "simply try up to 3 times to get a 'clean' snapshot"."""

SETTLING = 1.0
"""Seconds for which a new generation is provisional.

The kernel announces some changes before they are complete: PROG_UNLOAD comes before the
symbol leaves kallsyms, and a module is Live before its init symbols are gone.
"""

WALK = 0.1
"""Seconds that may lie between the READLINK and the OPEN of one walk of the path."""

Build = Callable[[Sequence[LinkerFile], ElfFormat], bytes]


@dataclass(eq=False, slots=True)
class Generation:
    """One state: the *image* and the *modules* listing never change."""

    number: int
    image: bytes
    modules: bytes
    fingerprint: Hashable
    built: float
    """When it was built, or when something was announced that has changed nothing."""
    compared: float
    """When its symbols were last read, by the same clock."""
    settled: bool = False
    holders: int = field(default=0)
    """Open handles; the image is dropped with the last one."""


class Generations:
    """The current generation of *source*, and those that are still held open.

    *build* lays linker files out as an image; *limit* bounds its bytes (None: no
    bound); *dropped* is called with the number of each generation that is gone.
    """

    def __init__(
        self,
        source: Source,
        build: Build,
        *,
        limit: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        dropped: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.source = source
        self.dropped = dropped
        self._build = build
        self._limit = limit
        self._clock = clock
        self._current: Generation | None = None
        self._live: dict[int, Generation] = {}
        self._last = 0

    def current(self) -> Generation:
        """The generation of the source's present state, built if need be.

        Raises SnapshotError when three tries gave no consistent image,
        ImageTooLargeError beyond the bound, and what the source raises.
        """
        current = self._current
        if current is None:
            return self._advance(self._snapshot())
        if current.settled and current.fingerprint == self.source.fingerprint():
            return current
        # Read again and compare: what was announced too early shows now.
        is_late = self._clock() - current.built >= SETTLING
        new = self._snapshot()
        if (
            new.image != current.image
            or new.modules != current.modules
            or self.source.is_reloaded(current.fingerprint, new.fingerprint)
        ):
            return self._advance(new)
        current.compared = new.compared
        if new.fingerprint == current.fingerprint:
            current.settled = is_late
        else:
            # Something was announced that is still to come, or came to nothing.
            current.fingerprint, current.built = new.fingerprint, new.built
            current.settled = False
        return current

    def get(self, number: int) -> Generation | None:
        """The generation of this number, if it is current or held open."""
        return self._live.get(number)

    def was(self, number: int) -> bool:
        """Whether there has ever been a generation of this number."""
        return 0 < number <= self._last

    def all(self) -> list[Generation]:
        """All generations that exist, oldest first."""
        return list(self._live.values())

    def confirm(self, number: int) -> Generation | None:
        """The current generation, if it has this number: an open's second look.

        READLINK has just asked for the current one, and read the symbols again if that
        is provisional. Doing so once more in OPEN would find nothing new.
        """
        latest = self._current
        if latest is None or latest.number != number:
            return None
        if self._clock() - latest.compared > WALK:
            return latest if self.current() is latest else None
        return latest if latest.fingerprint == self.source.fingerprint() else None

    def hold(self, generation: Generation) -> None:
        """Keep *generation* for one more open handle."""
        generation.holders += 1

    def release(self, generation: Generation) -> None:
        """Give one handle's hold back."""
        generation.holders -= 1
        self._drop_unheld(generation)

    def _drop_unheld(self, generation: Generation) -> None:
        if generation.holders == 0 and generation is not self._current:
            del self._live[generation.number]
            self.dropped(generation.number)

    def _snapshot(self) -> Generation:
        fingerprint, files = take_snapshot(self.source)
        image = self._image(files)
        now = self._clock()
        return Generation(0, image, _modules_text(files), fingerprint, now, now)

    def _image(self, files: Sequence[LinkerFile]) -> bytes:
        # The size pass comes first, so that a bound is kept before memory is taken.
        self._check(sum(f.symtab.nbytes + len(f.strtab) for f in files))
        image = self._build(files, self.source.format)
        self._check(len(image))
        return image

    def _check(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise ImageTooLargeError(size, self._limit)

    def _advance(self, new: Generation) -> Generation:
        self._last += 1
        new.number = self._last
        old, self._current = self._current, new
        self._live[new.number] = new
        log.debug("generation %d: %d bytes", new.number, len(new.image))
        if old is not None:
            self._drop_unheld(old)
        return new


def take_snapshot(source: Source) -> tuple[Hashable, Sequence[LinkerFile]]:
    """A consistent state of *source*, in three tries, with its fingerprint.

    Raises SnapshotError when each try met a change, and what the source raises.
    """
    reason = ""
    for _ in range(ATTEMPTS):
        try:
            return source.snapshot()
        except SourceChangingError as error:
            reason = str(error)
    raise SnapshotError(ATTEMPTS, reason)


def _modules_text(files: Sequence[LinkerFile]) -> bytes:
    # Like kldstat(8): id, address, size, symbols (with the null symbol), name.
    return "".join(
        f"{number} {f.address:#018x} {f.size:#x} {len(f.symtab)} {f.name}\n"
        for number, f in enumerate(files, 1)
    ).encode(errors="surrogateescape")
