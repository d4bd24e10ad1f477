"""The results as a picture: every goal as a bar, and how the build grows with size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import Any

_WIDTH, _LABELS, _VALUES, _ROW = 1000, 400, 130, 20
_COLORS = {"met": "#2a7f4f", "missed": "#c0392b"}
_LOW, _HIGH = 0.01, 10.0  # the bars' scale, in shares of the goal


def chart(report: dict[str, Any]) -> str:
    """An SVG document of *report*, as bench.report.as_json makes it."""
    told = [g for g in report["goals"] if g["measured"]]
    growth = _growth(report)
    top = 60
    bottom = top + _ROW * len(told)
    height = bottom + (300 if growth else 40)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" '
            f'height="{height}" font-family="sans-serif" font-size="12">',
            f'<rect width="{_WIDTH}" height="{height}" fill="white"/>',
            '<text x="12" y="22" font-size="15">ksymsfs: cost, as a share of each '
            "goal (left of the line: met)</text>",
            *_bars(told, top),
            *_plot(growth, bottom + 50),
            "</svg>\n",
        ]
    )


def _share(goal: dict[str, Any]) -> float:
    if "at_most" in goal:
        return float(goal["measured"] / goal["at_most"])
    return float(goal["at_least"] / goal["measured"])


def _across(share: float) -> float:
    part = math.log(max(_LOW, min(share, _HIGH)) / _LOW) / math.log(_HIGH / _LOW)
    return _LABELS + part * (_WIDTH - _LABELS - _VALUES)


def _bars(goals: list[dict[str, Any]], top: int) -> Iterator[str]:
    bottom = top + _ROW * len(goals)
    for tick in (0.01, 0.1, 1, 10):
        x = _across(tick)
        color = "#222" if tick == 1 else "#ccc"
        yield f'<path d="M{x:.1f} {top - 8}V{bottom}" stroke="{color}"/>'
        yield f'<text x="{x:.1f}" y="{top - 12}" text-anchor="middle">{tick:g}</text>'
    for row, goal in enumerate(goals):
        y = top + row * _ROW
        width = _across(_share(goal)) - _LABELS
        sign, limit = (
            ("≥", goal["at_least"]) if "at_least" in goal else ("≤", goal["at_most"])
        )
        yield (
            f'<text x="{_LABELS - 8}" y="{y + 14}" text-anchor="end">'
            f"{escape(goal['what'])}</text>"
        )
        yield (
            f'<rect x="{_LABELS}" y="{y + 3}" width="{max(width, 1):.1f}" '
            f'height="{_ROW - 6}" fill="{_COLORS[goal["verdict"]]}"/>'
        )
        yield (
            f'<text x="{_WIDTH - _VALUES + 6}" y="{y + 14}">{goal["measured"]:.3g} '
            f"({sign} {limit:g})</text>"
        )


def _growth(report: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    # "ksymsfs: build, 250000 symbols" -> {"ksymsfs": [(250000, seconds), ...]}
    lines: dict[str, list[tuple[int, float]]] = {}
    for item in report["items"]:
        who, _, what = item["name"].partition(": build, ")
        if what:
            lines.setdefault(who, []).append((int(what.split()[0]), item["cpu"]))
    return {who: sorted(points) for who, points in lines.items()}


def _plot(lines: dict[str, list[tuple[int, float]]], top: int) -> Iterator[str]:
    if not lines:
        return
    left, width, height = 80, 560, 190
    most = max(size for points in lines.values() for size, _ in points)
    longest = max(seconds for points in lines.values() for _, seconds in points)
    yield (
        f'<text x="12" y="{top - 16}" font-size="15">building the image: CPU ms by '
        "number of symbols</text>"
    )
    yield (
        f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" '
        'stroke="#222"/>'
    )
    for part in (0.5, 1):
        y = top + height * (1 - part)
        yield (
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{longest * part * 1e3:.0f}</text>"
        )
    sizes = {size for points in lines.values() for size, _ in points}
    for size in sorted(sizes):
        yield (
            f'<text x="{left + width * size / most:.1f}" y="{top + height + 16}" '
            f'text-anchor="middle">{size // 1000}k</text>'
        )
    for color, (who, points) in zip(
        ("#2c5f9e", "#e08e0b"), lines.items(), strict=False
    ):
        spots = [
            (left + width * n / most, top + height * (1 - t / longest))
            for n, t in points
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        yield f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>'
        for x, y in spots:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>'
        x, y = spots[-1]
        yield f'<text x="{x + 8:.1f}" y="{y + 4:.1f}" fill="{color}">{who}</text>'
