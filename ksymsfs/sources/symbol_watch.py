"""Symbol events of all processors that are online, as these come and go."""

from __future__ import annotations

import contextlib
import errno

from ksymsfs.kernel_file import KernelFile
from ksymsfs.sources.ksymbol_events import KsymbolEvents

# Why perf events may fail today and not tomorrow; a CPU may just have gone offline.
_PASSING = {errno.ENODEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class SymbolWatch:
    """Counts, where perf_event_open(2) lets it and *enabled* is true."""

    def __init__(self, sys: str, *, enabled: bool) -> None:
        self._online = KernelFile(f"{sys}/devices/system/cpu/online")
        self._enabled = enabled
        self._events: KsymbolEvents | None = None
        self._cpus = b""
        self._begun = 0
        self.refusal = ""
        """Why perf events are refused for good, if they are."""

    def begun(self) -> int | None:
        """How often counting had to begin, because others are online; now it goes on.

        None while there is no counting.
        """
        if not self._enabled:
            return None
        online = b"0\n"
        with contextlib.suppress(OSError):
            online = self._online.read()
        if self._events is None or online != self._cpus:
            self._end()
            try:
                self._events = KsymbolEvents(_parse_cpus(online))
            except OSError as error:
                if error.errno not in _PASSING:
                    self.refusal = error.strerror or str(error)
                    self._enabled = False
                return None
            self._cpus = online
            self._begun += 1
        return self._begun

    def value(self) -> int | None:
        """The events since counting last began; None while there is no counting."""
        return None if self._events is None else self._events.value()

    def close(self) -> None:
        """End the perf events, close what is open."""
        self._online.close()
        self._end()

    def _end(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
            self._cpus = b""


def _parse_cpus(text: bytes) -> list[int]:
    # "0-3,5": lib/vsprintf.c bitmap_list_string
    cpus: list[int] = []
    for part in text.decode().strip().split(","):
        low, _, high = part.partition("-")
        cpus.extend(range(int(low), int(high or low) + 1))
    return cpus
