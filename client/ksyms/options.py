"""The options that every ksyms command takes, before or after its name."""

from __future__ import annotations

import argparse


def add_global_options(parser: argparse.ArgumentParser) -> None:
    """Add -k, -j, -p, -d and -V to *parser*.

    Their defaults come from the namespace that ksyms.cli passes in, so that a parser
    of a subcommand may have them too without undoing what came before its name.
    """
    group = parser.add_argument_group("options of every command")
    group.add_argument(
        "-k", "--ksyms", metavar="FILE", default=argparse.SUPPRESS,
        help="image to read: a ksymsfs file, FreeBSD's /dev/ksyms, any ELF file, - for"
        " standard input (default: $KSYMS, else /dev/ksyms)",
    )  # fmt: skip
    group.add_argument(
        "-j", "--json", action="store_true", default=argparse.SUPPRESS,
        help="print one JSON document",
    )  # fmt: skip
    group.add_argument(
        "-p", "--pretty", action="store_true", default=argparse.SUPPRESS,
        help="print JSON for people to read (implies -j)",
    )  # fmt: skip
    group.add_argument(
        "-d", "--debug", action="store_true", default=argparse.SUPPRESS,
        help="show the traceback of an error",
    )  # fmt: skip
    group.add_argument(
        "-V", "--version", action=_Version, nargs=0, default=argparse.SUPPRESS,
        help="print the version and exit",
    )  # fmt: skip


class _Version(argparse.Action):
    # Reading the metadata of the distribution takes 60 ms, so only when asked.
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("ksymsfs")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"ksyms {version}")
        parser.exit()


def add_json_lines(parser: argparse.ArgumentParser) -> None:
    """Add --json-lines to the parser of a command that answers in records."""
    parser.add_argument(
        "--json-lines", action="store_true",
        help="print one JSON record a line, as the answers come",
    )  # fmt: skip
