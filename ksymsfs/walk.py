"""What threads were told on their way along the path, from the link to a snapshot.

An open of the device is two requests: READLINK of the link, and OPEN of the generation
that it names; between them comes LOOKUP where the kernel does not know that name yet.
The symbols may change between any two. The answer to that is ESTALE, for which the
kernel walks the path again, asking for every name (fs/namei.c do_filp_open,
LOOKUP_REVAL), but only once: the second time, the generation that READLINK named is
good, for it was current while the open was under way. FreeBSD does not walk again, so
that this is so of the first walk there (sys/kern/vfs_vnops.c vn_open_cred).
"""

from __future__ import annotations

import errno
import sys
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
    refused: int = 0  # the number of which ESTALE was answered: a second walk follows
    asked: bool = False  # LOOKUP has found that number since
    kept: Generation | None = None  # what READLINK named in the last walk


class Walks:
    """The walks of all threads through *generations*.

    *retried* says that the kernel walks again after an ESTALE.
    """

    def __init__(
        self,
        generations: Generations,
        *,
        retried: bool = sys.platform == "linux",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._generations = generations
        self._retried = retried
        self._clock = clock
        self._walks: dict[int, _Walk] = {}

    def named(self, tid: int) -> Generation:
        """The current generation, for the READLINK with which a walk begins."""
        walk = self._walks.get(tid)
        self.forget(tid)
        self._forget_old()
        current = self._generations.current()
        if not self._retried or (walk is not None and walk.refused):
            self._generations.hold(current)
            self._walks[tid] = _Walk(self._clock(), kept=current)
        return current

    def found(self, tid: int, number: int) -> Generation:
        """The generation of this number, for a LOOKUP by thread *tid*.

        Raises RefusedError: ESTALE when it is gone, ENOENT when it never was.
        """
        generation = self._generations.get(number)
        if generation is not None:
            walk = self._walks.get(tid)
            if walk is not None and walk.refused == number:
                walk.asked = True
            return generation
        if self._generations.was(number):
            raise self.stale(tid, number)
        raise RefusedError(errno.ENOENT, f"no generation {number}", quiet=True)

    def opened(self, tid: int, number: int) -> Generation:
        """The generation of this number, for an OPEN by thread *tid*.

        It is the current one, or the one that the second walk was led to, or one that
        is open somewhere and is opened through /proc/PID/fd: to that the second walk
        leads without a LOOKUP. Raises RefusedError ESTALE for any other.
        """
        walk = self._walks.get(tid) or _Walk(0)
        if walk.kept is not None and walk.kept.number == number:
            generation: Generation | None = walk.kept
        else:
            generation = self._generations.confirm(number)
            if generation is None and walk.refused == number and not walk.asked:
                held = self._generations.get(number)
                if held and (held.holders or held is self._generations.current()):
                    generation = held
        if generation is None:
            raise self.stale(tid, number)
        self._generations.hold(generation)
        self.forget(tid)
        return generation

    def stale(self, tid: int, number: int) -> RefusedError:
        """The ESTALE with which thread *tid* is sent on a second walk, but no third."""
        self._forget_old()
        walk = self._walks.setdefault(tid, _Walk(self._clock()))
        if walk.asked:
            self.forget(tid)
        else:
            walk.refused = number
        return RefusedError(errno.ESTALE, f"generation {number} is gone", quiet=True)

    def forget(self, tid: int) -> None:
        """Thread *tid* walks no more."""
        walk = self._walks.pop(tid, None)
        if walk is not None and walk.kept is not None:
            self._generations.release(walk.kept)

    def _forget_old(self) -> None:
        walks, bound = self._walks, self._clock() - SECONDS
        while walks and (
            len(walks) >= MOST or next(iter(walks.values())).since < bound
        ):
            self.forget(next(iter(walks)))
