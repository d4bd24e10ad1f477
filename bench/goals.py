"""What the measurements are held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.measure import Results
from bench.suite import GENERATIONS, READERS

FLOOR = "floor: read /proc/kallsyms"

BLAZESYM = 4.3
"""blazesym 0.2.6, batch of random addresses: at best 490 ns where bsearch(3) takes
115. Measured apart from this program, which cannot build it."""


@dataclass(frozen=True)
class Goal:
    """*measured* is to be at most, or at least, *limit*; *unit* is x for a ratio.

    *compared* are the items that it is made of; it is not told where one is missing.
    """

    what: str
    limit: float
    compared: tuple[str, ...]
    measured: Callable[[Results], float]
    at_least: bool = False
    unit: str = "x"
    digits: int = 2

    def is_met(self, value: float) -> bool:
        """Whether *value* satisfies the goal."""
        return value >= self.limit if self.at_least else value <= self.limit


def _at_most(what: str, limit: float, ours: str, theirs: str, digits: int = 2) -> Goal:
    # Ours takes at most limit times as long.
    return Goal(
        what, limit, (ours, theirs), lambda r: r.ratio(ours, theirs), digits=digits
    )


def _faster(what: str, limit: float, ours: str, theirs: str) -> Goal:
    # Ours is at least limit times as fast.
    return Goal(
        what, limit, (ours, theirs), lambda r: r.ratio(theirs, ours), at_least=True
    )


def _memory(what: str, mebibytes: float, item: str, field: str) -> Goal:
    return Goal(
        what, mebibytes, (item,),
        lambda r: r.median(item, field) / 1024, unit="MiB", digits=0,
    )  # fmt: skip


def _device_goals(libfuse: int) -> list[Goal]:
    ours, c = f"ksymsfs libfuse{libfuse}", f"C libfuse{libfuse}"
    unchanged, readers = (
        f"{ours}: open + read, unchanged",
        f"{ours}: {READERS} readers at once",
    )
    return [
        _at_most(
            f"open + read, unchanged / floor (libfuse{libfuse})",
            *(0.02, unchanged, FLOOR, 4),
        ),
        _at_most(
            f"open + read, changed / floor (libfuse{libfuse})",
            *(1.7, f"{ours}: open + read, changed", FLOOR),
        ),
        _at_most(
            f"open + close / C file system (libfuse{libfuse})",
            *(1.5, f"{ours}: open + close", f"{c}: open + close, a file"),
        ),
        _at_most(
            f"open + close / the same, by a link (libfuse{libfuse})",
            *(1.5, f"{ours}: open + close", f"{c}: open + close, a link to it"),
        ),
        _at_most(
            f"{READERS} readers at once / {READERS} warm reads (libfuse{libfuse})",
            *(1.3, readers, unchanged),
        ),
    ]


def _build_goals(sizes: list[int]) -> list[Goal]:
    goals = []
    for size in sizes:
        ours = f"ksymsfs: build, {size} symbols"
        if size >= 250_000:
            goals.append(
                _at_most(f"build {size} / C", 1.7, ours, f"C: build, {size} symbols")
            )
        if size <= 250_000:
            goals.append(_memory(f"build {size}, memory", 100, ours, "grown"))
    if len(sizes) > 1:
        small, large = sorted(sizes)[-2:]
        a, b = (f"ksymsfs: build, {size} symbols" for size in (large, small))
        goals.append(
            Goal(
                f"build {large} / {small}, a symbol",
                1.3,
                (a, b),
                lambda r: r.median(a, "cpu") / large / (r.median(b, "cpu") / small),
            )
        )
    return goals


def goals(sizes: list[int]) -> list[Goal]:
    """All goals, for tables of so many symbols."""
    array, bsearch = "ksyms: array of addresses", "C bsearch: random addresses"
    loaded = "ksyms: load + first symbolize"
    return [
        *_device_goals(2),
        *_device_goals(3),
        _memory(
            "server, idle", 60, f"ksymsfs: idle after {GENERATIONS} generations", "rss"
        ),
        *_build_goals(sizes),
        _at_most(
            "load + first symbolize / C libelf",
            *(0.5, loaded, "libelf: load + first symbolize"),
        ),
        _faster("pyelftools / load", 100, loaded, "pyelftools: iter_symbols"),
        _faster("bcc / symbolize", 3, "ksyms: symbolize", "bcc: symbolize"),
        _at_most("symbolize / drgn", 1.5, "ksyms: symbolize", "drgn: symbolize"),
        _faster("drgn / lookup", 1, "ksyms: lookup", "drgn: lookup"),
        _at_most("array of addresses / C bsearch", 1.6, array, bsearch),
        Goal(
            "blazesym / array of addresses",
            *(3, (array, bsearch), lambda r: BLAZESYM / r.ratio(array, bsearch), True),
        ),
        _faster(
            "bcc / list of hot addresses",
            *(30, "ksyms: list of hot addresses", "bcc: hot addresses"),
        ),
        _at_most("ksyms addr2sym / python", 2, "ksyms addr2sym", "python3 -c pass"),
        _faster("perf kallsyms / ksyms addr2sym", 8, "ksyms addr2sym", "perf kallsyms"),
        _at_most("ksyms nm / nm", 1, "ksyms nm", "nm"),
        _faster("bcc loop / ksyms annotate", 5, "ksyms annotate", "bcc: annotate"),
        Goal(
            "annotate, memory: whole trace / a tenth",
            *(1.1, ("ksyms annotate", "ksyms annotate, a tenth")),
            lambda r: r.ratio("ksyms annotate", "ksyms annotate, a tenth", "rss"),
        ),
        _at_most(
            "load BTF + lookup / libbpf",
            *(3, "ksyms: load BTF + lookup", "libbpf: load BTF + lookup"),
        ),
    ]
