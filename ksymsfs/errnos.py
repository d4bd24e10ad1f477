"""What a callback fails with: errors become errnos, and are said once."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable

from ksymsfs.errors import (
    ImageTooLargeError,
    KsymsFSError,
    RefusedError,
    RestrictedError,
    SnapshotError,
    SourceError,
)

log = logging.getLogger(__name__)

_ERRNOS: tuple[tuple[type[BaseException], int], ...] = (
    (SnapshotError, errno.ENXIO),
    (ImageTooLargeError, errno.ENOMEM),
    (MemoryError, errno.ENOMEM),
    (RestrictedError, errno.EPERM),
    (SourceError, errno.ENXIO),
    (KsymsFSError, errno.EIO),
)
"""What open fails with; the first class that fits decides. ksyms(4) ERRORS."""


def _is_out_of_descriptors(error: BaseException | None) -> bool:
    # Also as what a source's error came from.
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__
    return False


BURST = 50
"""Messages in a row; then one a second. Callers must not be able to fill a disk."""


class Errnos:
    """Gives each error its errno, and says it in one line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._allowance = float(BURST)
        self._since = clock()
        self._last = ""
        self._unsaid = 0

    def of(self, operation: str, error: BaseException) -> int:
        """The errno for *error*, which has ended the callback *operation*."""
        if isinstance(error, RefusedError):
            number = error.errno or errno.EIO
            level = logging.DEBUG if error.quiet else logging.INFO
            return self._said(level, operation, str(error), number)
        if _is_out_of_descriptors(error):
            reason = f"{error}; raise the server's limit (ulimit -n)"
            return self._said(logging.ERROR, operation, reason, errno.ENOMEM)
        for kind, number in _ERRNOS:
            if isinstance(error, kind):
                reason = str(error) or "out of memory"
                return self._said(logging.ERROR, operation, reason, number)
        self._say(logging.ERROR, f"{operation}: unexpected error", error)
        return errno.EIO

    def _said(self, level: int, operation: str, reason: str, number: int) -> int:
        self._say(level, f"{operation}: {reason} ({errno.errorcode[number]})")
        return number

    def _say(self, level: int, text: str, error: BaseException | None = None) -> None:
        if not log.isEnabledFor(level):
            return
        now = self._clock()
        self._allowance = min(self._allowance + now - self._since, BURST)
        self._since = now
        if text == self._last or self._allowance < 1:
            self._unsaid += 1
            return
        self._allowance -= 1
        if self._unsaid:
            log.log(level, "(%d repetitions and the like left out)", self._unsaid)
        self._last, self._unsaid = text, 0
        log.log(level, "%s", text, exc_info=error)
