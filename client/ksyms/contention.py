"""Waits for locks, put together from the kernel's events and told apart by kind.

The events are lock:contention_begin and lock:contention_end (Linux 5.19 and newer,
include/trace/events/lock.h), as `perf script` prints them with raw addresses.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ksyms.errors import RecordingError

# LCB_F_* of include/trace/events/lock.h.
SPIN, READ, WRITE, RT, PERCPU, MUTEX = (1 << bit for bit in range(6))
_FLAGS = {"SPIN": SPIN, "READ": READ, "WRITE": WRITE, "RT": RT}
_FLAGS |= {"PERCPU": PERCPU, "MUTEX": MUTEX}


class Kind(NamedTuple):
    """A sort of wait: *event* in lockstat(1)'s words, *lock* in those of perf-lock."""

    event: str
    lock: str


KINDS = {
    MUTEX | SPIN: Kind("Adaptive mutex spin", "mutex"),
    MUTEX: Kind("Adaptive mutex block", "mutex"),
    SPIN: Kind("Spin lock spin", "spinlock"),
    SPIN | WRITE: Kind("R/W lock writer spin", "rwlock:W"),
    SPIN | READ: Kind("R/W lock reader spin", "rwlock:R"),
    WRITE: Kind("R/W semaphore writer block", "rwsem:W"),
    READ: Kind("R/W semaphore reader block", "rwsem:R"),
    PERCPU | WRITE: Kind("Per-CPU R/W semaphore writer block", "pcpu-sem:W"),
    PERCPU | READ: Kind("Per-CPU R/W semaphore reader block", "pcpu-sem:R"),
    RT: Kind("RT mutex block", "rt-mutex"),
    RT | WRITE: Kind("RT R/W lock writer block", "rwlock-rt:W"),
    RT | READ: Kind("RT R/W lock reader block", "rwlock-rt:R"),
    0: Kind("Semaphore block", "semaphore"),
}
"""The kinds by the flags of their events, in the order in which they are reported."""


class Event(NamedTuple):
    """One event: a wait that begins or ends."""

    begins: bool
    tid: int
    cpu: int
    time: int
    """Nanoseconds, of any clock."""
    lock: int
    flags: int = 0
    stack: tuple[int, ...] = ()
    """Kernel addresses, the innermost first; empty where a wait ends."""


class Lost(NamedTuple):
    """The kernel had no room for *events* of a CPU, before this *time*."""

    events: int
    cpu: int
    time: int


class Wait(NamedTuple):
    """A thread's wait for a lock."""

    lock: int
    flags: int
    """A key of KINDS: a mutex that was spun for and then slept for has no SPIN."""
    nsec: int
    stack: tuple[int, ...]


_EVENT = re.compile(
    r"\s*(-?\d+)\s+\[(\d+)\]\s+(\d+)\.(\d{9}):\s+lock:contention_(begin|end):\s+"
    r"(?:0x)?([0-9a-f]+|\(nil\)) \(\w+=([^)]*)\)(?:\s+[0-9a-f]+)?\s*"
)
_LOST = re.compile(
    r".*\[(\d+)\]\s+(\d+)\.(\d{9}):\s+PERF_RECORD_LOST(_SAMPLES)? lost (\d+)\s*"
)


def parse_events(lines: Iterable[str]) -> Iterator[Event | Lost]:
    """The events in the output of `perf script`, in its order, which is that of time.

    Its fields must be tid, cpu, time (in ns), event, trace and ip (see
    Recording.events). Raises RecordingError for a line that is none of its making.
    """
    event: Event | None = None
    stack: list[int] = []
    for line in lines:
        if line.startswith("\t"):
            try:
                stack.append(int(line, 16))
            except ValueError:
                raise _unknown(line) from None
            continue
        if event is not None:
            yield event._replace(stack=tuple(stack))
            event = None
        if match := _EVENT.fullmatch(line):
            tid, cpu, seconds, nsec, what, lock, details = match.groups()
            time = int(seconds + nsec)
            address = 0 if lock == "(nil)" else int(lock, 16)
            if what == "end":
                yield Event(False, int(tid), int(cpu), time, address)
            else:
                flags = _parse_flags(details, line)
                event = Event(True, int(tid), int(cpu), time, address, flags)
                stack = []
        elif match := _LOST.fullmatch(line):
            cpu, seconds, nsec, sum_of_all, lost = match.groups()
            # LOST_SAMPLES sums up at the end what the LOSTs have told.
            if not sum_of_all:
                yield Lost(int(lost), int(cpu), int(seconds + nsec))
        elif line.strip():
            raise _unknown(line)
    if event is not None:
        yield event._replace(stack=tuple(stack))


def _parse_flags(text: str, line: str) -> int:
    # "SPIN|MUTEX", with a number for bits that the kernel gave no name; "" is 0.
    flags = 0
    for word in filter(None, text.split("|")):
        try:
            flags |= _FLAGS[word] if word in _FLAGS else int(word, 0)
        except ValueError:
            raise _unknown(line) from None
    return flags


def _unknown(line: str) -> RecordingError:
    return RecordingError(f"perf script printed what is no event: {line.strip()!r}")


class _Begun(NamedTuple):
    time: int
    flags: int
    phase: int  # the flags of the latest event
    stack: tuple[int, ...]


class Gap(NamedTuple):
    """A time in which events of some CPU were lost."""

    start: int
    end: int


class Waits:
    """Joins the begins and ends of *events* to waits; iterate over it once.

    A wait is one of a thread for a lock, wherever the thread runs meanwhile. What
    began before the recording or ended after it is none. *lost* counts the events
    that were lost, and *gaps* are the times of that: only when they are known, from
    an iteration before, and given is each wait sure to have its own end. Waits that
    reach into a gap are then left out.
    """

    def __init__(
        self, events: Iterable[Event | Lost], gaps: Iterable[Gap] = ()
    ) -> None:
        self.lost = 0
        self.gaps: list[Gap] = []
        self._events = events
        self._begun: dict[tuple[int, int], _Begun] = {}
        self._known = _merge(gaps)

    def __iter__(self) -> Iterator[Wait]:
        latest: dict[int, int] = {}
        for event in self._events:
            if isinstance(event, Lost):
                self.lost += event.events
                self.gaps.append(Gap(latest.get(event.cpu, 0), event.time))
                continue
            latest[event.cpu] = event.time
            # Each CPU has an idle thread 0 of its own, which waits in interrupts.
            thread = event.tid if event.tid > 0 else -1 - event.cpu
            if event.begins:
                self._begin((thread, event.lock), event)
                continue
            begun = self._begun.pop((thread, event.lock), None)
            if begun and not self._has_gap(begun.time, event.time):
                nsec = max(event.time - begun.time, 0)
                yield Wait(event.lock, begun.flags, nsec, begun.stack)

    def _begin(self, key: tuple[int, int], event: Event) -> None:
        begun = self._begun.get(key)
        # A thread that waits for a mutex says so again whenever it goes over from
        # spinning to sleeping or back (__mutex_lock_common).
        if begun and event.flags & begun.flags & MUTEX and event.flags != begun.phase:
            begun = begun._replace(flags=MUTEX, phase=event.flags)
        else:
            begun = _Begun(event.time, event.flags, event.flags, event.stack)
        self._begun[key] = begun

    def _has_gap(self, start: int, end: int) -> bool:
        # The last gap that starts before the end: those before it end even earlier.
        at = bisect_left(self._known, (end, end)) - 1
        return at >= 0 and self._known[at].end > start


def _merge(gaps: Iterable[Gap]) -> list[Gap]:
    merged: list[Gap] = []
    for gap in sorted(gaps):
        if merged and gap.start <= merged[-1].end:
            merged[-1] = Gap(merged[-1].start, max(merged[-1].end, gap.end))
        else:
            merged.append(gap)
    return merged
