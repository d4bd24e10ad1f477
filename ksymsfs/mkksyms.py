"""mkksyms(1): writes the image of a kernel's symbols to a file, without FUSE."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from ksymsfs.errors import KsymsFSError, SnapshotError
from ksymsfs.generation import take_snapshot
from ksymsfs.options import (
    add_image_arguments,
    add_source_arguments,
    add_version_argument,
    layout_from,
    source_from,
)

_EXAMPLES = """\
examples:
  mkksyms -o ksyms.elf                       the running kernel
  mkksyms | ksyms -k - nm -n                 its symbols, by address
  mkksyms --kallsyms kallsyms.txt --modules modules.txt -o ksyms.elf
  mkksyms --kernel kernel -m ksyms.ko@0xffffffff80f18000+0x2248 -o ksyms.elf
  mkksyms --kernel vmlinux -m dummy.ko --sections sections.txt -o ksyms.elf
  mkksyms --manifest kernel.toml --layout debug -o ksyms.elf
"""


def parser() -> ArgumentParser:
    """The command line of mkksyms."""
    parser = ArgumentParser(
        "mkksyms",
        description="Write the ELF image of a kernel's symbols that /dev/ksyms shows.",
        epilog=_EXAMPLES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "-o",
        "--output",
        default="-",
        metavar="FILE",
        help="where to write it (default, or -: standard output)",
    )
    add_version_argument(parser)
    add_source_arguments(parser)
    add_image_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run mkksyms; the exit status is 0, 1 (try again) or 2 (usage, bad input)."""
    args = parser().parse_args(argv)
    if args.output == "-" and sys.stdout.isatty():
        return _fail("an image is no text for a terminal: use -o FILE", 2)
    try:
        source = source_from(args)
        try:
            layout = layout_from(args, source)
            _, files = take_snapshot(source)
            image = layout(files, source.format)
        finally:
            source.close()
        _write(args.output, image)
    except BrokenPipeError:
        # The reader has enough: not even Python's flush at exit may complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except SnapshotError as error:
        return _fail(str(error), 1)
    except KsymsFSError as error:
        return _fail(str(error), 2)
    except OSError as error:
        return _fail(f"{error.filename or args.output}: {error.strerror}", 2)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"mkksyms: {message}", file=sys.stderr)
    return status


def _write(output: str, image: bytes) -> None:
    if output == "-":
        sys.stdout.buffer.write(image)
        sys.stdout.buffer.flush()
        return
    path = Path(output)
    if path.exists() and not path.is_file():
        path.write_bytes(image)
        return
    # A reader of the old image, or of a half-written one, must never see a mixture.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(image)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


if __name__ == "__main__":
    sys.exit(main())
