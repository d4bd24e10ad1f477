"""Folds stack traces for flame graphs: a line ``root;...;leaf count`` for each stack.

Input is what perf script, bpftrace and the kernel print: a frame a line, the innermost
first. A line that is no frame ends a stack.
"""

from __future__ import annotations

import re
from collections import Counter

from ksyms.symbolizer import Symbolizer

# A frame: indented or numbered or after a time stamp, an address, maybe a name. Or,
# where somebody has put names already, a name and an offset.
_BEFORE = r"(?P<before>\s*(?:\[\s*\d+\.\d+\](?:\[\s*[TC]\d+\])?\s+)?(?:#?\d+[:.]?\s+)?"
_FRAME = re.compile(
    _BEFORE + r"(?:\[?<)?)"
    r"(?P<address>(?:0[xX])?[0-9a-fA-F]{1,16})(?:>\]?)?(?:\s+(?P<name>\S.*))?\s*$"
)
_NAMED = re.compile(
    _BEFORE + r"(?:\[<0>\]\s+)?)(?P<name>[^\s+]+)\+(?:0x[0-9a-f]+/0x[0-9a-f]+|\d+)"
    r"(?P<module>\s\[(?!unknown\])\w+\])?(?:\s.*)?$"
)
# The kernel marks like that what lies on the stack and may be no part of the trace.
_UNSURE = re.compile(_BEFORE + r"(?:\[<[0-9a-f]+>\]\s+)?)\?\s")
# No address alone on a line is shorter.
_SHORTEST = 8
# perf script: ``comm pid/tid [cpu] time: ...``; the kernel's names are no longer.
_HEADER = re.compile(r"(?P<comm>\S.{0,63}?)\s{1,64}(?:\d+/)?\d+\s.*:")
# bpftrace: ``@name[comm,`` before a stack, ``, comm]: count`` behind it.
_MAP_START = re.compile(r"@\w*\[(?P<key>.*)$")
_MAP_END = re.compile(r"\s*(?:,(?P<key>.*))?\]:\s*(?P<count>\d+)\s*$")


_MEMO_SIZE = 1 << 16
# perf_event_max_stack goes no further than that; a text of nothing but frames must end
# somewhere too.
_MOST_FRAMES = 1 << 12


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
            if len(self._frames) >= _MOST_FRAMES:
                self._finish(1)
            self._frames.append(name)
            return
        if _UNSURE.match(line):
            return
        end = _MAP_END.match(line)
        if end and self._frames:
            self._root = (end["key"] or "").strip() or self._root
            self._finish(int(end["count"]))
            return
        self._finish(1)
        start = _MAP_START.match(line) or _HEADER.match(line)
        self._root = start[1].rstrip().removesuffix(",") if start else ""

    def folded(self) -> list[str]:
        """The lines for all stacks so far, sorted."""
        self._finish(1)
        return sorted(f"{';'.join(s)} {n}" for s, n in self._stacks.items())

    def _finish(self, count: int) -> None:
        if self._frames:
            root = [_plain(self._root)] if self._root else []
            self._stacks[(*root, *reversed(self._frames))] += count
        self._frames = []

    def _frame_name(self, line: str) -> str:
        # The kernel's name; else the one that stands there; else what stands there.
        # "" where the line is no frame.
        is_caller = bool(self._frames)
        if named := _NAMED.match(line):
            name = named["name"] + (named["module"] or "") if named["before"] else ""
        elif (frame := _FRAME.match(line)) and not _UNSURE.match(line):
            name = self._addressed(frame, is_caller)
        else:
            return ""
        name = _plain(name)
        names = self._names[is_caller]
        if len(names) >= _MEMO_SIZE:
            names.clear()
        names[line] = name
        return name

    def _addressed(self, frame: re.Match[str], is_caller: bool) -> str:
        digits, said = frame["address"], frame["name"]
        if not frame["before"] and (said is not None or len(digits) < _SHORTEST):
            return ""
        address = int(digits, 16) - (self._return_address and is_caller)
        name = self._symbolizer.name(address)
        if name is None and said and not said.startswith("[unknown]"):
            name = re.split(r"\+0x|\s\(", said)[0]
        return name or digits


def _plain(name: str) -> str:
    # A semicolon stands between the frames.
    return name.replace(";", ":")
