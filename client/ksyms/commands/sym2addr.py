"""Print where each name is: address, size, letter, name and module, as nm -S does.

NAME may be module:name. All symbols of a name are printed, one a line: static
functions share names.
"""

from __future__ import annotations

import sys

from ksyms.image import Image, read_image
from ksyms.listing import bsd_lines, symbol_record
from ksyms.names import NameIndex
from ksyms.options import add_json_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

_EPILOG = """\
--json prints a list of {"name", "address", "size", "type", "module"}: address is
"0x...", size bytes, type nm's letter; address is null where the name is not found,
module is null in the kernel itself. Exit status: 0 all found, 1 some not.

examples:
  ksyms sym2addr vfs_read schedule
  ksyms sym2addr nf_tables:nf_hook
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of sym2addr to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument("names", nargs="+", metavar="NAME", help="what to look up")
    add_json_lines(parser)


def run(args: Namespace) -> int:
    """Answer args.names and return the exit code."""
    image = read_image(args.ksyms)
    index = NameIndex(image)
    status = 0

    def found() -> Iterator[tuple[str, list[int]]]:
        nonlocal status
        for name in args.names:
            symbols = _lookup(image, index, name)
            if not symbols:
                print(f"ksyms: symbol {name!r} not found", file=sys.stderr)
                status = 1
            yield name, symbols

    if args.json or args.json_lines:
        from ksyms.output import print_records

        print_records((r for answer in found() for r in _records(image, *answer)), args)
    else:
        for _, symbols in found():
            names = {i: image.name(i) for i in symbols}
            for line in bsd_lines(image, names, symbols, with_size=True):
                print(line)
    return status


def _lookup(image: Image, index: NameIndex, text: str) -> list[int]:
    # A name may have a colon of its own: only what is none is module:name.
    found = index.find(text)
    module, colon, name = text.partition(":")
    if found or not colon:
        return found
    wanted = None if module == "kernel" else module
    return [i for i in index.find(name) if image.module(i) == wanted]


def _records(
    image: Image, name: str, symbols: list[int]
) -> Iterator[dict[str, object]]:
    if not symbols:
        yield {"name": name, "address": None}
    for i in symbols:
        yield symbol_record(image, i, image.name(i))
