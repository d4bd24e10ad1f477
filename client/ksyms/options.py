"""The options that every ksyms command takes, before or after its name."""

from __future__ import annotations

from ksyms.arguments import PlainArguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser


def add_global_options(parser: ArgumentParser | PlainArguments) -> None:
    """Add -k, -j, -p, -d and -V to *parser*.

    Their defaults come from the namespace that ksyms.cli passes in, so that a parser
    of a subcommand may have them too without undoing what came before its name.
    """
    suppress = PlainArguments.SUPPRESS
    if not isinstance(parser, PlainArguments):
        from argparse import SUPPRESS as suppress
    group = parser.add_argument_group("options of every command")
    group.add_argument(
        "-k", "--ksyms", metavar="FILE", default=suppress,
        help="the image to read: a ksymsfs file, FreeBSD's /dev/ksyms, any ELF file, a"
        " capture, a saved /proc/kallsyms, - for standard input (default: $KSYMS, else"
        " /dev/ksyms)",
    )  # fmt: skip
    group.add_argument(
        "-j", "--json", action="store_true", default=suppress,
        help="print one JSON document",
    )  # fmt: skip
    group.add_argument(
        "-p", "--pretty", action="store_true", default=suppress,
        help="print JSON for people to read (implies -j)",
    )  # fmt: skip
    group.add_argument(
        "-d", "--debug", action="store_true", default=suppress,
        help="show the traceback of an error",
    )  # fmt: skip
    group.add_argument(
        "-V", "--version", action="store_true", default=suppress,
        help="print the version and exit",
    )  # fmt: skip


def add_json_lines(parser: ArgumentParser) -> None:
    """Add --json-lines to the parser of a command that answers in records."""
    parser.add_argument(
        "--json-lines", action="store_true",
        help="print one JSON record a line, as the answers come",
    )  # fmt: skip
