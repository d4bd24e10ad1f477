"""Work that somebody else can stall, done aside with a time limit.

Reading a caller's memory map or writing its memory may block for as long as the caller
likes (userfaultfd, a FUSE file of its own). The server has one thread for everybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from signal import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from typing import TypeVar

_T = TypeVar("_T")


class AsideError(Exception):
    """The work did not end in time, or was not begun; the message says which."""


class Aside:
    """Runs calls in threads of their own.

    One that takes longer than *seconds* is left behind in its thread, where it stays
    until whatever blocks it lets go. At most *most* may stay behind at once, and one
    for each key, so that nobody can make everybody wait twice.
    """

    def __init__(self, *, seconds: float = 0.5, most: int = 64) -> None:
        self._seconds = seconds
        self._most = most
        self._stalled: set[Hashable] = set()

    def run(self, key: Hashable, call: Callable[[threading.Event], _T]) -> _T:
        """The result of *call*, or what it raised.

        *call* gets an event that is set once its result is no longer wanted: it must
        then raise AsideError instead of doing anything. Raises AsideError when time is
        up, or at once while a call of the same *key* is still behind.
        """
        if key in self._stalled:
            raise AsideError("the last call has not come back yet")
        if len(self._stalled) >= self._most:
            raise AsideError(f"{self._most} calls have not come back yet")
        late, done = threading.Event(), threading.Event()
        results: list[_T] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call(late))
            except BaseException as error:
                errors.append(error)
            finally:
                done.set()
                if late.is_set():
                    self._stalled.discard(key)

        try:
            start_thread("aside", work)
        except RuntimeError as error:  # can't start new thread
            raise AsideError(str(error)) from error
        if not done.wait(self._seconds):
            self._stalled.add(key)
            late.set()
            if done.is_set():  # just now; its thread may have looked too early
                self._stalled.discard(key)
            else:
                raise AsideError(f"no answer within {self._seconds} s")
        if errors:
            raise errors[0]
        return results[0]


def start_thread(name: str, work: Callable[[], None]) -> None:
    """Run *work* in a daemon thread that takes no signals.

    libfuse ends its loop when a signal interrupts the read from /dev/fuse: signals
    must come to the main thread. Raises RuntimeError when no thread can be started.
    """
    thread = threading.Thread(target=work, name=name, daemon=True)
    before = pthread_sigmask(SIG_BLOCK, valid_signals())  # inherited by the thread
    try:
        thread.start()
    finally:
        pthread_sigmask(SIG_SETMASK, before)
