"""JSON as every command prints it: one document, or one line a record."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import TextIO


def print_records(
    records: Iterable[object], args: Namespace, out: TextIO | None = None
) -> None:
    """Print *records* as args.json, args.pretty and args.json_lines ask.

    They are written as they come: a long list needs no memory, and a reader of
    --json-lines gets each line at once. *out* is standard output by default.
    """
    out = out or sys.stdout
    if getattr(args, "json_lines", False):
        for record in records:
            out.write(json.dumps(record) + "\n")
            out.flush()
        return
    indent = 2 if args.pretty else None
    separator = "["
    for record in records:
        text = json.dumps(record, indent=indent)
        if indent:
            text = "\n" + text.replace("\n", "\n  ").join(["  ", ""])
        out.write(separator + text)
        separator = "," if indent else ", "
    out.write("[]\n" if separator == "[" else "\n]\n" if indent else "]\n")
