"""Runs programs in turn and keeps what each has cost."""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Item:
    """One thing to measure: a *command*, run once a round.

    It reports the part of itself that counts as a line of JSON (bench/probe.py); with
    *whole* it is measured from outside, from its start to its end. *rounds* bounds how
    often something slow is run.
    """

    name: str
    command: Sequence[str]
    whole: bool = False
    rounds: int = 1000
    stdin: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cpu: int | None = None
    """The only processor that it may run on, None for all."""


@dataclass(frozen=True)
class Sample:
    """One run: seconds of CPU and of the clock, and KiB of memory."""

    cpu: float
    wall: float
    ops: int
    rss: int
    """The process's largest resident set. That of a command cannot be less than that
    of this process, from which it is started."""
    grown: int
    """By how much the part measured made it grow."""


class ProbeError(Exception):
    """A program that was to be measured failed."""


class Results:
    """The samples of every item, by the item's name, one a round."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[int, Sample]] = {}

    def add(self, name: str, number: int, sample: Sample) -> None:
        """Keep *sample* as that of round *number*."""
        self.samples.setdefault(name, {})[number] = sample

    def median(self, name: str, field: str) -> float:
        """The median of a Sample's *field*; cpu and wall are those of one operation."""
        return statistics.median(_value(s, field) for s in self.samples[name].values())

    def ratio(self, name: str, reference: str, field: str = "cpu") -> float:
        """The median of the ratios to *reference* in the rounds that have both.

        What disturbs a round disturbs both, so it is steadier than the ratio of the
        medians. Names of different groups share no round in time: then it is that.
        """
        ours, theirs = self.samples[name], self.samples[reference]
        return statistics.median(
            _value(ours[n], field) / _value(theirs[n], field)
            for n in ours.keys() & theirs.keys()
        )


def _value(sample: Sample, field: str) -> float:
    value = float(getattr(sample, field))
    return value / sample.ops if field in ("cpu", "wall") else value


def run_rounds(items: Sequence[Item], rounds: int, results: Results) -> None:
    """Run all *items* in each of so many *rounds*, each time in another order.

    The first round, in which files are read from the disk, does not count. Raises
    ProbeError when a program fails.
    """
    rng = random.Random(0)
    for number in range(-1 if rounds > 1 else 0, rounds):
        turn = [i for i in items if number < i.rounds]
        rng.shuffle(turn)
        for item in turn:
            sample = run(item)
            if number >= 0:
                results.add(item.name, number, sample)


def run(item: Item) -> Sample:
    """Run *item* once. Raises ProbeError when it fails."""
    stdin = item.stdin.open("rb") if item.stdin else subprocess.DEVNULL
    try:
        start = time.perf_counter()
        process = subprocess.Popen(
            item.command,
            stdin=stdin,
            stdout=subprocess.DEVNULL if item.whole else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **item.env},
            preexec_fn=_pinning(item.cpu),
        )
    finally:
        if not isinstance(stdin, int):
            stdin.close()
    assert process.stderr
    # A probe prints one line, and little on standard error: no pipe fills up.
    output = process.stdout.read() if process.stdout else b""
    messages = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stderr.close()
    if process.stdout:
        process.stdout.close()
    if process.returncode != 0:
        said = messages.decode(errors="replace").strip() or f"status {status}"
        raise ProbeError(f"{item.name}: {said}")
    if item.whole:
        return Sample(usage.ru_utime + usage.ru_stime, wall, 1, usage.ru_maxrss, 0)
    return Sample(**json.loads(output))


def _pinning(cpu: int | None) -> Callable[[], None] | None:
    return None if cpu is None else lambda: os.sched_setaffinity(0, {cpu})


def busy() -> float:
    """How many other processes wanted to run in the last minute."""
    return os.getloadavg()[0]


def say(text: str) -> None:
    """Tell how far the run is, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
