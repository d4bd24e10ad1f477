"""Print where each name is: address, size, letter, name and module, as nm -S does.

NAME may be module:name. All symbols of a name are printed, one a line: static
functions share names.
"""

from __future__ import annotations

import sys

from ksyms.options import add_json_lines
from ksyms.table import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from ksyms.symbol import Symbol
    from ksyms.table import SymbolTable

_EPILOG = """\
--json prints a list of {"name", "address", "size", "type", "module"}: address is
"0x...", size bytes, type nm's letter; address is null where the name is not found,
module is null in the kernel itself. Exit status: 0 all found, 1 some not.

examples:
  ksyms sym2addr vfs_read schedule
  ksyms sym2addr nf_tables:nft_do_chain
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of sym2addr to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument("names", nargs="+", metavar="NAME", help="what to look up")
    add_json_lines(parser)


def run(args: Namespace) -> int:
    """Answer args.names and return the exit code."""
    table = load(args.ksyms)
    status = 0

    def found() -> Iterator[tuple[str, tuple[Symbol, ...]]]:
        nonlocal status
        for name in args.names:
            symbols = lookup_all_named(name, table)
            if not symbols:
                print(f"ksyms: symbol {name!r} not found", file=sys.stderr)
                status = 1
            yield name, symbols

    if args.json or args.json_lines:
        from ksyms.output import print_records

        print_records((r for answer in found() for r in _records(*answer)), args)
    else:
        for _, symbols in found():
            for s in symbols:
                module = f"\t[{s.module}]" if s.module else ""
                print(f"{s.address:016x} {s.size:016x} {s.nm_type} {s.name}{module}")
    return status


def lookup_all_named(text: str, table: SymbolTable) -> tuple[Symbol, ...]:
    """All symbols that ``name`` or ``module:name`` means."""
    found = table.lookup_all(text)
    if not found and ":" in text:
        module, _, name = text.partition(":")
        found = table.lookup_all(name, module=module)
    return found


def _records(name: str, symbols: tuple[Symbol, ...]) -> Iterator[dict[str, object]]:
    if not symbols:
        yield {"name": name, "address": None}
    for s in symbols:
        yield {
            "name": s.name,
            "address": f"{s.address:#x}",
            "size": s.size,
            "type": s.nm_type,
            "module": s.module,
        }
