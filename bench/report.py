"""The results as a table to read, and as JSON to plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.goals import BLAZESYM, FLOOR, Goal
from bench.measure import Results


@dataclass(frozen=True)
class Verdict:
    """A goal and what was measured, None where something was missing."""

    goal: Goal
    value: float | None

    @property
    def word(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        if self.value is None:
            return "not measured"
        return "met" if self.goal.is_met(self.value) else "missed"


def judge(goals: Sequence[Goal], results: Results) -> list[Verdict]:
    """What *results* say of every goal."""
    return [
        Verdict(
            goal,
            goal.measured(results)
            if all(name in results.samples for name in goal.compared)
            else None,
        )
        for goal in goals
    ]


def as_json(
    verdicts: Sequence[Verdict],
    results: Results,
    missing: dict[str, str],
    *,
    rounds: int,
    load: Sequence[float],
) -> dict[str, Any]:
    """Everything, as what json.dump takes: seconds, KiB and ratios.

    *load* is the load average before and after.
    """
    return {
        "machine": {
            "cpu": _cpu_model(),
            "processors": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "rounds": rounds,
        "load_average": list(load),
        "goals": [
            {
                "what": v.goal.what,
                "measured": v.value,
                "at_least" if v.goal.at_least else "at_most": v.goal.limit,
                "unit": v.goal.unit,
                "verdict": v.word,
            }
            for v in verdicts
        ],
        "items": [
            {
                "name": name,
                "cpu": results.median(name, "cpu"),
                "wall": results.median(name, "wall"),
                "rss": results.median(name, "rss"),
                "grown": results.median(name, "grown"),
                "rounds": len(results.samples[name]),
            }
            for name in results.samples
        ],
        "missing": missing,
    }


def as_text(report: dict[str, Any]) -> str:
    """The table: goals, then every measurement, then who is missing."""
    return "\n".join([*_head(report), *_goals(report), *_items(report), *_tail(report)])


def _head(report: dict[str, Any]) -> Iterator[str]:
    machine = report["machine"]
    before, after = report["load_average"]
    yield (
        f"{machine['cpu']}, {machine['processors']} processors, "
        f"Linux {machine['kernel']}, Python {machine['python']}"
    )
    yield (
        f"{report['rounds']} rounds; load average {before:.2f} before, "
        f"{after:.2f} after (the measurements themselves make one of 1)"
    )


def _goals(report: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{'goal: ratio of CPU times, median':58} {'measured':>10}  {'goal':>9}"
    for goal in report["goals"]:
        sign, limit = (
            (">=", goal["at_least"]) if "at_least" in goal else ("<=", goal["at_most"])
        )
        value = "-" if goal["measured"] is None else _number(goal["measured"])
        unit = "" if goal["unit"] == "x" else f" {goal['unit']}"
        yield (
            f"{goal['what']:58} {value + unit:>10}  {f'{sign} {limit:g}':>9}  "
            f"{goal['verdict']}"
        )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 20 else f"{value:.3g}"


def _items(report: dict[str, Any]) -> Iterator[str]:
    floor = next((i for i in report["items"] if i["name"] == FLOOR), None)
    yield ""
    yield (
        f"{'one operation, medians':46} {'CPU':>9} {'wall':>9} "
        f"{'CPU/floor':>9} {'wall/floor':>10} {'peak RSS':>9}"
    )
    for item in report["items"]:
        cpu, wall = item["cpu"], item["wall"]
        of_cpu = f"{cpu / floor['cpu']:.3g}" if floor and cpu else "-"
        of_wall = f"{wall / floor['wall']:.3g}" if floor and wall else "-"
        yield (
            f"{item['name']:46} {_seconds(cpu):>9} {_seconds(wall):>9} "
            f"{of_cpu:>9} {of_wall:>10} {item['rss'] / 1024:>5.0f} MiB"
        )


def _seconds(value: float) -> str:
    if value == 0:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


def _tail(report: dict[str, Any]) -> Iterator[str]:
    yield ""
    for name, reason in sorted(report["missing"].items()):
        yield f"not measured: {name}: {reason}"
    yield (
        f"blazesym's figure, {BLAZESYM} x C bsearch, comes from a build of 0.2.6 "
        "elsewhere on such a machine"
    )
    yield ""


def write(report: dict[str, Any], directory: Path) -> None:
    """Write results.txt and results.json."""
    (directory / "results.txt").write_text(as_text(report))
    (directory / "results.json").write_text(json.dumps(report, indent=1) + "\n")


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
