"""Put names in place of the kernel addresses in a text, as it streams by.

For dmesg, stack traces, perf script, bpftrace, /proc/PID/stack and JSON lines: every
kernel address becomes name+0xoff/0xsize [module]. What is hidden or unknown stays as
it is.
"""

from __future__ import annotations

import os
import string
import sys

from ksyms.image import read_image
from ksyms.symbolizer import Symbolizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator
    from typing import BinaryIO

_EPILOG = """\
Addresses have all their digits, or 0x in front; in lines of JSON decimal ones count
too. -k takes the image, capture or kallsyms text of the machine that the text is from.

examples:
  dmesg | ksyms annotate
  ksyms -k captures/6.1 annotate oops.txt     an oops of that machine
  perf record -q -a -g sleep 1
  perf script -F comm,pid,time,ip | ksyms annotate --folded --return-address
"""

# Text is cut at the ends of lines; lines without end are cut between words, and of a
# word without end so much is kept that what follows is seen to be part of it.
_CHUNK = 1 << 20
_WORD = string.ascii_letters.encode() + string.digits.encode() + b"_"
_WORD_KEPT = 64
_COLOUR, _PLAIN = b"\x1b[36m", b"\x1b[0m"


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of annotate to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "files", nargs="*", metavar="FILE", help="texts (default: standard input)"
    )
    parser.add_argument(
        "--return-address", action="store_true",
        help="take each address for where a call returns to, as %%pB does: name the"
        " call before it (with --folded, but for the innermost)",
    )  # fmt: skip
    parser.add_argument(
        "--folded", action="store_true",
        help="print stacks for flame graphs, a line 'root;...;leaf count' for each",
    )  # fmt: skip


def run(args: Namespace) -> int:
    """Annotate args.files, or standard input."""
    if args.json:
        print("ksyms: annotate: the text is the output, not JSON", file=sys.stderr)
        return 2
    files = args.files or ["-"]
    if args.ksyms == "-" and "-" in files:
        print("ksyms: standard input cannot be both image and text", file=sys.stderr)
        return 2
    symbolizer = Symbolizer(read_image(args.ksyms))
    if args.folded:
        return _fold(files, symbolizer, args.return_address)
    from ksyms.annotator import Annotator

    colours = (_COLOUR, _PLAIN) if _wants_colour() else (b"", b"")
    annotator = Annotator(
        symbolizer,
        return_address=args.return_address,
        before=colours[0],
        after=colours[1],
    )
    out = sys.stdout.buffer
    texts = _Texts()
    for file in files:
        for text in texts.of(file):
            out.write(annotator.annotate(text))
            out.flush()
    return texts.status


def _fold(files: list[str], symbolizer: Symbolizer, return_address: bool) -> int:
    from ksyms.folded import StackFolder

    folder = StackFolder(symbolizer, return_address=return_address)
    texts = _Texts()
    for file in files:
        for text in texts.of(file):
            lines = text.decode("utf-8", "surrogateescape").removesuffix("\n")
            for line in lines.split("\n"):
                folder.feed(line.removesuffix("\r"))
        folder.feed("")
    sys.stdout.writelines(f"{line}\n" for line in folder.folded())
    return texts.status


class _Texts:
    # Files in pieces of whole lines, as they arrive. Status is 2 once one could not be
    # read; the others are, as by cat(1).
    def __init__(self) -> None:
        self.status = 0

    def of(self, file: str) -> Iterator[bytes]:
        try:
            if file == "-":
                yield from _pieces(sys.stdin.buffer)
            else:
                with open(file, "rb") as stream:
                    yield from _pieces(stream)
        except OSError as error:
            print(f"ksyms: {file}: {error.strerror}", file=sys.stderr)
            self.status = 2


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    read = stream.read1  # type: ignore[attr-defined]
    rest = b""
    while chunk := read(_CHUNK):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
            rest = chunk[end:]
        else:
            rest += chunk
        if len(rest) > _CHUNK:
            end = len(rest.rstrip(_WORD)) or len(rest) - _WORD_KEPT
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _wants_colour() -> bool:
    return (
        sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
