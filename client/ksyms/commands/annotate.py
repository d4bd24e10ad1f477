"""Put names in place of the kernel addresses in a text, as it streams by.

For dmesg, stack traces, perf script, bpftrace, /proc/PID/stack and JSON lines: every
kernel address becomes name+0xoff/0xsize [module]. What is hidden or unknown stays as
it is.
"""

from __future__ import annotations

import os
import sys

from ksyms.image import read_image
from ksyms.symbolizer import Symbolizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

    from ksyms.annotator import Annotator

_EPILOG = """\
Addresses have all their digits, or 0x in front; in lines of JSON decimal ones count
too. -k takes the image, capture or kallsyms text of the machine that the text is from.

examples:
  dmesg | ksyms annotate
  ksyms -k captures/6.1 annotate oops.txt     an oops of that machine
  perf record -q -a -g sleep 1
  perf script -F comm,pid,time,ip | ksyms annotate --folded --return-address
"""

# Text is cut at the ends of lines; lines without end are cut too.
_CHUNK = 1 << 20
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
    symbolizer = Symbolizer(read_image(args.ksyms))
    files = args.files or ["-"]
    if args.folded:
        _fold(files, symbolizer, args.return_address)
        return 0
    from ksyms.annotator import Annotator

    colours = (_COLOUR, _PLAIN) if _wants_colour() else (b"", b"")
    annotator = Annotator(
        symbolizer,
        return_address=args.return_address,
        before=colours[0],
        after=colours[1],
    )
    for file in files:
        _annotate(file, annotator)
    return 0


def _annotate(file: str, annotator: Annotator) -> None:
    # stdout's buffer is passed by: what is done is written at once.
    sys.stdout.flush()
    out = sys.stdout.buffer
    for text in _texts(file):
        out.write(annotator.annotate(text))
        out.flush()


def _fold(files: list[str], symbolizer: Symbolizer, return_address: bool) -> None:
    from ksyms.folded import StackFolder

    folder = StackFolder(symbolizer, return_address=return_address)
    for file in files:
        for text in _texts(file):
            for line in text.decode("utf-8", "surrogateescape").splitlines():
                folder.feed(line)
        folder.feed("")
    sys.stdout.writelines(f"{line}\n" for line in folder.folded())


def _texts(file: str) -> Iterator[bytes]:
    # The text in pieces of whole lines, as they arrive.
    with sys.stdin.buffer if file == "-" else open(file, "rb") as stream:
        read = stream.read1  # type: ignore[union-attr]
        rest = b""
        while chunk := read(_CHUNK):
            end = chunk.rfind(b"\n") + 1
            if end:
                yield rest + chunk[:end]
                rest = chunk[end:]
            else:
                rest += chunk
            if len(rest) > _CHUNK:
                # A line without end: cut it where no address can be.
                end = max(rest.rfind(mark) for mark in (b" ", b",", b'"')) + 1
                yield rest[: end or -1]
                rest = rest[end or -1 :]
        if rest:
            yield rest


def _wants_colour() -> bool:
    return (
        sys.stdout.isatty()
        and not os.environ.get("NO_COLOR")
        and os.environ.get("TERM") != "dumb"
    )
