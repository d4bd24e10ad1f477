"""Name the symbol at each address: ``name+0xoff/0xsize [module]``, ?? where none is.

Addresses are hexadecimal, with or without 0x; name+0xoff will do as well. Without
any on the command line they are read from standard input, separated by white space,
and answered as they come.
"""

from __future__ import annotations

import sys

from ksyms.address import parse_address
from ksyms.errors import AddressSyntaxError, KsymsError
from ksyms.image import Image, read_image
from ksyms.options import add_json_lines
from ksyms.sprint import sprint_symbol
from ksyms.symbolizer import Symbolizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator, Sequence

    from ksyms.symbol import Symbol
    from ksyms.table import SymbolTable

_EPILOG = """\
--json prints a list of {"address", "name", "offset", "size", "module"}: addresses
are "0x...", offset and size bytes; name is null where no symbol covers the address,
module is null in the kernel itself. Exit status: 0 all named, 1 some not, 2 some of
the input is no address.

examples:
  ksyms addr2sym ffffffff81000010 0xffffffff81000020
  ksyms addr2sym vfs_read+0x1c
  ksyms -k later.ksyms addr2sym --json-lines < addresses
"""

# No word of the input is longer: whatever is, is no address.
_LONGEST_WORD = 4096


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of addr2sym to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument("addresses", nargs="*", metavar="ADDR", help="what to name")
    parser.add_argument(
        "-a", "--addresses", dest="show", action="store_true",
        help="print each address before its symbol",
    )  # fmt: skip
    parser.add_argument(
        "--all", action="store_true",
        help="print all the symbols at an address, one a line",
    )  # fmt: skip
    parser.add_argument(
        "--return-address", action="store_true",
        help="take each address for where a call returns to, as %%pB does: name the"
        " call before it",
    )  # fmt: skip
    add_json_lines(parser)


def run(args: Namespace) -> int:
    """Answer args.addresses, or standard input, and return the exit code."""
    if args.ksyms == "-" and not args.addresses:
        print(
            "ksyms: standard input cannot be both image and addresses", file=sys.stderr
        )
        return 2
    answers = _Answers(read_image(args.ksyms), args)
    if args.json or args.json_lines:
        from ksyms.output import print_records

        print_records(answers.records(), args)
    else:
        for batch in _words(args.addresses):
            sys.stdout.write("".join(map(answers.text, batch)))
            sys.stdout.flush()
    return answers.status


class _Answers:
    # What addr2sym says to each word, and how well that went in all.
    def __init__(self, image: Image, args: Namespace) -> None:
        self.status = 0
        self._image = image
        self._full_table: SymbolTable | None = None
        self._symbolizer = Symbolizer(image)
        self._words: Sequence[str] = args.addresses
        self._show: bool = args.show
        self._all: bool = args.all
        self._back: bool = args.return_address

    def _table(self) -> SymbolTable:
        # For names and for records: its import takes longer than most answers.
        if self._full_table is None:
            from ksyms.table import SymbolTable

            self._full_table = SymbolTable.of_image(self._image)
        return self._full_table

    def _address(self, word: str) -> int | None:
        try:
            return parse_address(word, self._table)
        except KsymsError as error:
            print(f"ksyms: {error}", file=sys.stderr)
            wrong = 2 if isinstance(error, AddressSyntaxError) else 1
            self.status = max(self.status, wrong)
            return None

    def text(self, word: str) -> str:
        address = self._address(word)
        if address is None:
            return "??\n"
        before = f"0x{address:016x}: " if self._show else ""
        if self._all:
            lines = [
                sprint_symbol(s.name, address - s.address, s.size, s.module)
                for s in self._symbols(address)
            ]
        else:
            line = self._symbolizer.sprint(address, return_address=self._back)
            lines = [line] if line else []
        if not lines:
            self.status = max(self.status, 1)
        return "".join(f"{before}{line}\n" for line in lines or ["??"])

    def records(self) -> Iterator[dict[str, object]]:
        for word in (word for batch in _words(self._words) for word in batch):
            address = self._address(word)
            if address is None:
                yield {"address": None, "name": None, "input": word}
                continue
            symbols = self._symbols(address)
            if not symbols:
                self.status = max(self.status, 1)
                yield {"address": f"{address:#x}", "name": None}
            for symbol in symbols:
                yield _record(address, symbol)

    def _symbols(self, address: int) -> Sequence[Symbol]:
        if self._back:
            address -= 1
        if self._all:
            return self._table().aliases(address)
        (found,) = self._table().symbolize_all((address,))
        return (found.symbol,) if found else ()


def _record(address: int, symbol: Symbol) -> dict[str, object]:
    return {
        "address": f"{address:#x}",
        "name": symbol.name,
        "offset": address - symbol.address,
        "size": symbol.size,
        "module": symbol.module,
    }


def _words(given: Sequence[str]) -> Iterator[Sequence[str]]:
    # What was given, or else what standard input holds, in batches as it arrives: a
    # program that writes one address and waits for the answer gets it.
    if given:
        yield given
        return
    rest = b""
    read = sys.stdin.buffer.read1  # type: ignore[union-attr]
    while chunk := read(1 << 16):
        *whole, rest = _split(rest + chunk)
        if len(rest) > _LONGEST_WORD:
            rest = rest[:_LONGEST_WORD]
        yield [word.decode("utf-8", "surrogateescape") for word in whole]
    if rest:
        yield [rest.decode("utf-8", "surrogateescape")]


def _split(data: bytes) -> list[bytes]:
    # The words of data, the last one unfinished: b"" where data ends in white space.
    words = data.split()
    return words if data and not data[-1:].isspace() else [*words, b""]
