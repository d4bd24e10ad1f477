"""PlainArguments reads a command line as argparse does, or leaves it to argparse."""

from __future__ import annotations

import argparse
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms.arguments import Arguments, PlainArguments
from ksyms.commands import addr2sym, nm, sym2addr
from ksyms.options import add_global_options

COMMANDS = [addr2sym, nm, sym2addr]
WORDS = st.sampled_from(
    [
        "-k", "--ksyms", "--ksyms=x", "-kx", "-jk", "-j", "--json", "--js", "-p",
        "--pretty", "-d", "-V", "-n", "-r", "-nr", "-a", "--all", "--addresses", "-t",
        "x", "d", "-S", "-f", "posix", "--no-sort", "--return-address", "--json-lines",
        "-", "--", "-1", "", "ffffffff81000000", "vfs_read+0x10", "a b", "-x y", "-h",
    ]
)  # fmt: skip


def plainly(module: ModuleType, argv: list[str]) -> dict[str, object] | None:
    parser, args = PlainArguments(), Arguments(ksyms=None, json=False)
    module.configure(parser)
    add_global_options(parser)
    return vars(args) if parser.parse(argv, args) else None


def by_argparse(module: ModuleType, argv: list[str]) -> dict[str, object] | None:
    parser, args = (
        argparse.ArgumentParser(allow_abbrev=False),
        Arguments(ksyms=None, json=False),
    )
    module.configure(parser)
    add_global_options(parser)
    try:
        parser.parse_args(argv, args)
    except SystemExit:
        return None
    return vars(args)


@pytest.mark.parametrize("module", COMMANDS)
@settings(derandomize=True, max_examples=150, deadline=None)
@given(argv=st.lists(WORDS, max_size=6))
def test_what_is_read_plainly_is_what_argparse_reads(
    module: ModuleType, argv: list[str]
) -> None:
    found = plainly(module, argv)

    assert found is None or found == by_argparse(module, argv)


@pytest.mark.parametrize(
    ("module", "argv"),
    [
        (addr2sym, ["ffffffff81000000"]),
        (addr2sym, ["-k", "image", "ffffffff81000000", "0x10", "-a"]),
        (sym2addr, ["--json", "vfs_read"]),
        (nm, ["-n"]),
        (nm, []),
    ],
)
def test_usual_command_lines_are_read_plainly(
    module: ModuleType, argv: list[str]
) -> None:
    assert plainly(module, argv) == by_argparse(module, argv)


def test_a_command_with_other_arguments_is_left_to_argparse() -> None:
    parser = PlainArguments()
    parser.add_argument("one")

    assert not parser.parse(["word"], Arguments())
