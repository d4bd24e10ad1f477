"""Show where text, data and modules lie, and how large they are.

What counts is what symbols cover. As a table, or with -o as a picture: a treemap by
size, and rows by address.
"""

from __future__ import annotations

import os
import sys

from ksyms.image import default_image, read_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from ksyms.memory_map import MemoryMap

_EPILOG = """\
--json prints a list of {"name", "address", "size", "symbols", "text", "rodata",
"data", "bss", "other", "parts": [{"kind", "start", "end", "symbols"}]}, a linker file
each: sizes are bytes, addresses "0x...", end one past the last byte.

examples:
  ksyms map
  ksyms map -o kernel.svg
  ksyms -k captures/6.1 map -o kernel.html
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of map to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="draw it, to *.svg or *.html"
    )


def run(args: Namespace) -> int:
    """Write the picture, print the records; the table if neither is wanted."""
    kind = os.path.splitext(args.output or "")[1].lower()
    if args.output and kind not in (".svg", ".html"):
        print(f"ksyms: {args.output}: a picture is *.svg or *.html", file=sys.stderr)
        return 2
    from ksyms.memory_map import memory_map

    memory = memory_map(read_image(args.ksyms))
    if args.output:
        _write_picture(memory, args.output, args.ksyms or default_image())
    if args.json:
        from ksyms.output import print_records

        print_records(_records(memory), args)
    elif not args.output:
        print("\n".join(_table(memory)))
    return 0


def _write_picture(memory: MemoryMap, output: str, source: str) -> None:
    from ksyms.report.map_html import map_html
    from ksyms.report.map_svg import map_svg

    draw = map_svg if output.lower().endswith(".svg") else map_html
    picture = draw(memory, f"Kernel symbols of {source}")
    with open(output, "w", encoding="utf-8") as file:
        file.write(picture)


def _table(memory: MemoryMap) -> list[str]:
    from ksyms.memory_map import KINDS

    digits = memory.bits // 4
    name_width = max((len(f.name) for f in memory.files), default=0)
    columns = "".join(f"{head:>10}" for head in ("size", "symbols", *KINDS))
    lines = [f"{'name':{name_width}} {'address':>{digits}}{columns}"]
    for f in memory.files:
        numbers = (f.size, f.symbols, *(f.sizes[kind] for kind in KINDS))
        columns = "".join(f"{number:>10}" for number in numbers)
        lines.append(f"{f.name:{name_width}} {f.address:0{digits}x}{columns}")
    return lines


def _records(memory: MemoryMap) -> Iterator[dict[str, object]]:
    for f in memory.files:
        yield {
            "name": f.name,
            "address": f"{f.address:#x}",
            "size": f.size,
            "symbols": f.symbols,
            **f.sizes,
            "parts": [
                {
                    "kind": part.kind,
                    "start": f"{part.start:#x}",
                    "end": f"{part.end:#x}",
                    "symbols": part.symbols,
                }
                for part in memory.parts
                if part.file == f.name
            ],
        }
