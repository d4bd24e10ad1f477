"""Sums up waits for locks, and prints the sums as FreeBSD's lockstat(1) does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ksyms.contention import KINDS, MUTEX, SPIN, Kind, Wait
from ksyms.symbol import Symbolized
from ksyms.table import SymbolTable

LOCK_FRAMES = 8
"""More frames than the functions of a lock have on a stack, above their caller."""

_RULE = "-" * 79


@dataclass(slots=True)
class Record:
    """All the waits of one kind for one lock by one caller (and stack)."""

    kind: Kind
    lock: int
    caller: int
    """The return address in the function that called the lock's; 0: unknown."""
    stack: tuple[int, ...]
    """Return addresses from the caller's caller outwards."""
    count: int = 0
    nsec: int = 0
    """The sum of the waits."""
    histogram: dict[int, int] = field(default_factory=dict)
    """Powers of two of ns, and how many waits were below each but not below half."""


class LockNames:
    """Names of locks, and of code, by a symbol table."""

    def __init__(self, table: SymbolTable) -> None:
        self._table = table
        # The kernel's own sections for the functions of locks: in_lock_functions() and
        # in_sched_functions(), which get_wchan() passes over too.
        self._spinning = self._section("__lock_text_start", "__lock_text_end")
        self._sleeping = self._section("__sched_text_start", "__sched_text_end")

    def _section(self, start: str, end: str) -> range:
        first, last = map(self._table.lookup_all, (start, end))
        return range(first[0].address, last[0].address) if first and last else range(0)

    def caller(self, wait: Wait) -> int:
        """How many frames of the wait's stack are of the lock itself.

        The first one is, which reports the wait; those of spinning locks are in a
        section of their own, and those of sleeping ones share that of the scheduler.
        """
        skipped = 0
        sleeps = not wait.flags & SPIN or wait.flags & MUTEX
        for frame in wait.stack:
            call = frame - 1
            if not (
                skipped == 0
                or call in self._spinning
                or (sleeps and call in self._sleeping)
                or self._is_tracing(wait.stack[skipped - 1])
            ):
                break
            skipped += 1
        return skipped

    def _is_tracing(self, frame: int) -> bool:
        # Where two programs listen to an event, a function goes round them.
        found = self._find(frame - 1)
        return found is not None and found.symbol.name.startswith("__traceiter_")

    def _find(self, address: int) -> Symbolized | None:
        return next(iter(self._table.symbolize_all((address,))))

    def name(self, address: int) -> str:
        """``name``, ``name+0xoff``, ``module:name`` ..., or the address in hex."""
        found = self._find(address)
        if found is None:
            return f"{address:#x}"
        return _spell(found.symbol.module, found.symbol.name, found.offset)

    def code(self, address: int) -> str:
        """What `name` says of a return address: the function that the call is in."""
        found = self._find(address - 1) if address else None
        if found is None:
            return f"{address:#x}"
        if found.symbol.name.startswith("__pfx_"):
            # No call is in the padding before a function: it was interrupted at its
            # first instruction.
            return self.name(address)
        return _spell(found.symbol.module, found.symbol.name, found.offset + 1)


def _spell(module: str | None, name: str, offset: int) -> str:
    # Without a blank, for those who cut columns; addr2sym understands it.
    text = f"{module}:{name}" if module else name
    return f"{text}+{offset:#x}" if offset else text


class LockStatistics:
    """What *waits* of *seconds* come to, with stacks of up to *depth* frames."""

    def __init__(
        self, waits: Iterable[Wait], seconds: float, names: LockNames, depth: int = 0
    ) -> None:
        self._seconds = seconds
        self._names = names
        self._depth = depth
        self._records: dict[object, Record] = {}
        for wait in waits:
            self._add(wait)

    def _add(self, wait: Wait) -> None:
        caller = self._names.caller(wait)
        frames = wait.stack[caller:]
        first, stack = (frames[0] if frames else 0), frames[1 : 1 + self._depth]
        key = (wait.flags, wait.lock, first, stack)
        record = self._records.get(key)
        if record is None:
            kind = KINDS.get(wait.flags) or Kind(f"Lock {wait.flags:#x} wait", "lock")
            record = self._records[key] = Record(kind, wait.lock, first, stack)
        record.count += 1
        record.nsec += wait.nsec
        bound = 1 << wait.nsec.bit_length()
        record.histogram[bound] = record.histogram.get(bound, 0) + 1

    def events(self) -> Iterator[tuple[Kind, list[Record]]]:
        """The records of each kind of wait, the most frequent first."""
        order = {kind: number for number, kind in enumerate(KINDS.values())}
        kinds: dict[Kind, list[Record]] = {}
        for record in self._records.values():
            kinds.setdefault(record.kind, []).append(record)
        for kind in sorted(kinds, key=lambda kind: (order.get(kind, len(order)), kind)):
            records = sorted(
                kinds[kind], key=lambda r: (-r.count, -r.nsec, r.lock, r.caller)
            )
            yield kind, records

    def text(self, most: int | None = None) -> Iterator[str]:
        """lockstat(1)'s report, line by line; of each kind no more than *most*."""
        for kind, records in self.events():
            total = sum(record.count for record in records)
            rate = total / self._seconds if self._seconds else 0
            yield ""
            yield (
                f"{kind.event}: {total} events in {self._seconds:.3f} seconds "
                f"({rate:.0f} events/sec)"
            )
            yield ""
            if not self._depth:
                yield _HEADER
                yield _RULE
            cumulated = 0
            for record in records[:most]:
                cumulated += record.count
                if self._depth:
                    yield _RULE
                    yield _HEADER
                yield _columns(
                    f"{record.count}",
                    f"{100 * record.count / total:.0f}%",
                    f"{100 * cumulated / total:.0f}%",
                    "0.00",
                    f"{record.nsec // record.count}",
                    self._names.name(record.lock),
                    self._names.code(record.caller),
                )
                if self._depth:
                    yield from self._distribution(record)
            yield _RULE

    def _distribution(self, record: Record) -> Iterator[str]:
        yield ""
        yield f"{'nsec':>10} ------ Time Distribution ------ {'count':<9} Stack"
        bounds = record.histogram
        bars = []
        bound, last = min(bounds), max(bounds)
        while bound <= last:
            count = bounds.get(bound, 0)
            bar = "@" * (30 * count // record.count)
            bars.append(f"{bound:>10} |{bar:<30} {count:<9} ")
            bound *= 2
        stack = [self._names.code(frame) for frame in record.stack]
        for number in range(max(len(bars), len(stack))):
            left = bars[number] if number < len(bars) else " " * 53
            right = stack[number] if number < len(stack) else ""
            yield (left + right).rstrip()

    def rows(self, most: int | None = None) -> Iterator[dict[str, object]]:
        """The same as JSON records."""
        for kind, records in self.events():
            total = sum(record.count for record in records)
            cumulated = 0
            for record in records[:most]:
                cumulated += record.count
                row: dict[str, object] = {
                    "event": kind.event,
                    "kind": kind.lock,
                    "count": record.count,
                    "indv": round(100 * record.count / total, 3),
                    "cuml": round(100 * cumulated / total, 3),
                    "rcnt": 0.0,
                    "nsec": record.nsec // record.count,
                    "total_nsec": record.nsec,
                    "lock": self._names.name(record.lock),
                    "lock_address": f"{record.lock:#x}",
                    "caller": self._names.code(record.caller),
                    "caller_address": f"{record.caller:#x}",
                }
                if self._depth:
                    row["histogram"] = {
                        f"{bound}": record.histogram[bound]
                        for bound in sorted(record.histogram)
                    }
                    row["stack"] = [self._names.code(frame) for frame in record.stack]
                yield row


def _columns(*cells: str) -> str:
    count, indv, cuml, rcnt, nsec, lock, caller = cells
    return f"{count:>5} {indv:>4} {cuml:>4} {rcnt:>4} {nsec:>8} {lock:<22} {caller}"


_HEADER = _columns("Count", "indv", "cuml", "rcnt", "nsec", "Lock", "Caller")
