"""The options that say where symbols come from and what the image looks like."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ksymsfs.errors import OptionError
from ksymsfs.flavor import FLAVORS, LAYOUTS, Flavor, Layout
from ksymsfs.sources import Source
from ksymsfs.sources.saved_tables import SavedTables


def add_source_arguments(parser: ArgumentParser) -> None:
    """The options that `source_from` understands; none of them: the running kernel."""
    group = parser.add_argument_group(
        "where symbols come from", "default: the kernel that runs here"
    )
    group.add_argument(
        "--kallsyms",
        type=Path,
        metavar="FILE",
        help="a saved /proc/kallsyms, or a System.map",
    )
    group.add_argument(
        "--modules", type=Path, metavar="FILE", help="the /proc/modules saved with it"
    )


def add_image_arguments(parser: ArgumentParser) -> None:
    """The options that `flavor_from` and `layout_from` understand."""
    group = parser.add_argument_group("what the image looks like")
    group.add_argument(
        "--flavor",
        choices=sorted(FLAVORS),
        default="freebsd",
        help="whose /dev/ksyms to be (default: %(default)s)",
    )
    group.add_argument(
        "--layout",
        choices=sorted(LAYOUTS),
        help="the image's layout (default: the flavor's own)",
    )


def source_from(args: Namespace) -> Source:
    """The source that the parsed options name.

    Raises OptionError where options contradict each other.
    """
    if args.kallsyms:
        return SavedTables(args.kallsyms, args.modules)
    if args.modules:
        raise OptionError("--modules needs --kallsyms")
    raise OptionError("no source of symbols given: use --kallsyms FILE")


def flavor_from(args: Namespace) -> Flavor:
    """The flavor that the parsed options name."""
    return FLAVORS[args.flavor]


def layout_from(args: Namespace) -> Layout:
    """The layout that the parsed options name, which need not be the flavor's."""
    return LAYOUTS[args.layout] if args.layout else flavor_from(args).layout
