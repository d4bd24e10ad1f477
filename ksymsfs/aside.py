"""Work that a caller can stall, done aside with a time limit.

Reading a caller's memory map or writing its memory may block for as long as the caller
likes (userfaultfd, a FUSE file of its own). The server has one thread for everybody.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Aside:
    """Runs calls in threads of their own, at most *most* of them stalled at once."""

    def __init__(self, *, seconds: float = 0.1, most: int = 8) -> None:
        self._seconds = seconds
        self._slots = threading.Semaphore(most)

    def run(self, call: Callable[[], _T]) -> _T:
        """The result of *call*, or what it raised.

        Raises OSError EFAULT when it takes longer than the limit; its thread then
        lives on until whatever blocks it lets go. EAGAIN when too many are stalled.
        """
        if not self._slots.acquire(blocking=False):
            raise OSError(errno.EAGAIN, "too many callers whose memory blocks")
        done = threading.Event()
        results: list[_T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()
                self._slots.release()

        threading.Thread(target=work, name="aside", daemon=True).start()
        if not done.wait(self._seconds):
            raise OSError(errno.EFAULT, "the caller's memory does not answer")
        if errors:
            raise errors[0]
        return results[0]
