"""What threads were told on their way along the path, from the link to a snapshot.

An open of the device is three requests: READLINK of the link, LOOKUP of the generation
that it names, OPEN. The symbols may change between any two. The answer to that is
ESTALE, for which the kernel walks the path again (fs/namei.c do_filp_open), but only
once: the second time, the generation that READLINK named is good, for it was current
while the open was under way.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass

from ksymsfs.errors import RefusedError
from ksymsfs.generation import Generation, Generations

SECONDS = 60.0
"""How long the second walk of a path may take; its generation is kept for it. Each of
its requests may wait for three snapshots of every other reader."""

MOST = 1024
"""Threads whose walks are remembered; the oldest are forgotten first."""


@dataclass(slots=True)
class _Walk:
    since: float
    seen: int = 0  # the number that LOOKUP found last
    stale: bool = False  # an ESTALE was answered: this is the second walk
    kept: Generation | None = None  # what READLINK named in the second walk


class Walks:
    """The walks of all threads through *generations*."""

    def __init__(
        self, generations: Generations, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._generations = generations
        self._clock = clock
        self._walks: dict[int, _Walk] = {}

    def named(self, tid: int) -> Generation:
        """The current generation, for the READLINK with which a walk begins."""
        is_second = (walk := self._walks.get(tid)) is not None and walk.stale
        self._forget(tid)
        current = self._generations.current()
        if is_second:
            self._generations.hold(current)
            self._walk(tid).kept = current
        return current

    def found(self, tid: int, number: int) -> Generation:
        """The generation of this number, for a LOOKUP by thread *tid*.

        Raises RefusedError: ESTALE when it is gone, ENOENT when it never was.
        """
        generation = self._generations.get(number)
        if generation is not None:
            self._walk(tid).seen = number
            return generation
        if self._generations.was(number):
            raise self._stale(tid, number)
        raise RefusedError(errno.ENOENT, f"no generation {number}", quiet=True)

    def opened(self, tid: int, number: int) -> Generation:
        """The generation of this number, for an OPEN by thread *tid*.

        It is the current one, or the one that the second walk was led to, or one that
        is open somewhere and is opened through /proc/PID/fd, without a walk. Raises
        RefusedError ESTALE for any other.
        """
        walk = self._walk(tid)
        if walk.kept is not None and walk.kept.number == number:
            generation: Generation | None = walk.kept
        else:
            generation = self._generations.confirm(number)
            if generation is None and walk.seen != number:
                generation = self._generations.get(number)
        if generation is None:
            raise self._stale(tid, number)
        self._generations.hold(generation)
        self._forget(tid)
        return generation

    def _stale(self, tid: int, number: int) -> RefusedError:
        walk = self._walk(tid)
        walk.stale, walk.seen = True, 0
        return RefusedError(errno.ESTALE, f"generation {number} is gone", quiet=True)

    def _walk(self, tid: int) -> _Walk:
        now = self._clock()
        walks = self._walks
        while walks and (
            len(walks) > MOST or now - next(iter(walks.values())).since > SECONDS
        ):
            self._forget(next(iter(walks)))
        if tid not in walks:
            walks[tid] = _Walk(now)
        return walks[tid]

    def _forget(self, tid: int) -> None:
        walk = self._walks.pop(tid, None)
        if walk is not None and walk.kept is not None:
            self._generations.release(walk.kept)
