"""Folds stack traces for flame graphs: a line ``root;...;leaf count`` for each stack.

Input is what perf script, bpftrace and the kernel print: a frame a line, the innermost
first. A line that is no frame ends a stack.
"""

from __future__ import annotations

import re
from collections import Counter

from ksyms.symbolizer import Symbolizer

# A frame: indented or numbered or after a time stamp, an address, maybe a name.
_FRAME = re.compile(
    r"(?P<before>\s*(?:\[\s*\d+\.\d+\]\s+)?(?:#?\d+[:.]?\s+)?(?:\[?<)?)"
    r"(?P<address>(?:0[xX])?[0-9a-fA-F]{1,16})(?:>\]?)?(?:\s+(?P<name>\S.*))?\s*$"
)
# perf script: ``comm pid/tid [cpu] time: ...``
_HEADER = re.compile(r"(?P<comm>\S.*?)\s+(?:\d+/)?\d+\s.*:")
# bpftrace: ``@name[comm,`` before a stack, ``, comm]: count`` behind it.
_MAP_START = re.compile(r"@\w*\[(?P<key>.*?),?\s*$")
_MAP_END = re.compile(r"\s*(?:,\s*(?P<key>.*?))?\]:\s*(?P<count>\d+)\s*$")


_MEMO_SIZE = 1 << 16


class StackFolder:
    """Takes lines, counts stacks."""

    def __init__(self, symbolizer: Symbolizer, *, return_address: bool = False) -> None:
        """With *return_address*, all frames but the innermost are where calls return
        to (see Symbolizer.sprint)."""
        self._symbolizer = symbolizer
        self._return_address = return_address
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._root = ""
        self._frames: list[str] = []
        # Lines that came before: as the innermost frame, as one of the others.
        self._names: tuple[dict[str, str], dict[str, str]] = {}, {}

    def feed(self, line: str) -> None:
        """Take the next line."""
        name = self._names[bool(self._frames)].get(line)
        if name is None:
            name = self._frame_name(line)
        if name:
            self._frames.append(name)
            return
        end = _MAP_END.match(line)
        if end and self._frames:
            self._root = end["key"] or self._root
            self._finish(int(end["count"]))
            return
        self._finish(1)
        start = _MAP_START.match(line) or _HEADER.match(line)
        self._root = start[1] if start else ""

    def folded(self) -> list[str]:
        """The lines for all stacks so far, sorted."""
        self._finish(1)
        return sorted(f"{';'.join(s)} {n}" for s, n in self._stacks.items())

    def _finish(self, count: int) -> None:
        if self._frames:
            root = [self._root] if self._root else []
            self._stacks[(*root, *reversed(self._frames))] += count
        self._frames = []

    def _frame_name(self, line: str) -> str:
        # The kernel's name; else the one that stands there; else what stands there.
        # "" where the line is no frame.
        frame = _FRAME.match(line)
        if not frame or not (frame["before"] or frame["name"] is None):
            return ""
        is_caller = bool(self._frames)
        address = int(frame["address"], 16) - (self._return_address and is_caller)
        name = self._symbolizer.name(address)
        if name is None and frame["name"] and not frame["name"].startswith("[unknown]"):
            name = re.split(r"\+0x|\s\(", frame["name"])[0]
        name = (name or frame["address"]).replace(";", ":")
        names = self._names[is_caller]
        if len(names) >= _MEMO_SIZE:
            names.clear()
        names[line] = name
        return name
