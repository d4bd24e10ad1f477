"""The manual pages: what they say of options, errors and commands is what there is."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from ksyms.cli import COMMANDS
from ksyms.options import add_global_options
from ksymsfs import cli, mkksyms
from ksymsfs.options import add_image_arguments, add_source_arguments
from tests.completions import Command, programs
from tests.examples import PAGES, ROOT, help_of
from tests.test_layering import GRAPH


def section(page: str, name: str) -> str:
    """The text of a section (.Sh) or subsection (.Ss) of a page."""
    text = PAGES[page].read_text()
    found = re.search(rf"^\.(Sh|Ss) {re.escape(name)}\n", text, re.M)
    assert found, f"{page} has no section {name}"
    end = r"^\.Sh " if found[1] == "Sh" else r"^\.S[sh] "
    return re.split(end, text[found.end() :], maxsplit=1, flags=re.M)[0]


def flags(line: str) -> Iterator[str]:
    """The options that a line of mdoc(7) sets with Fl."""
    words = line.replace("|", " ").replace(",", " ").split()
    is_flag = False
    for word in words:
        if word == "Fl":
            is_flag = True
        elif re.fullmatch(r"[A-Z][a-z]", word):
            is_flag = False  # another macro
        elif is_flag and word.startswith("-"):
            yield f"-{word}"
        elif is_flag:
            yield from (f"-{letter}" for letter in word)


def described(text: str) -> set[str]:
    """The options that have an item of their own."""
    items = re.findall(r"^\.It (Fl .*)$", text, re.M)
    return {flag for item in items for flag in flags(item)}


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


def parser_with(add: object) -> argparse.ArgumentParser:
    assert callable(add)
    parser = argparse.ArgumentParser(add_help=False)
    add(parser)
    return parser


GLOBAL = options(parser_with(add_global_options)) | {"-h", "--help"}
SHARED = options(parser_with(add_source_arguments)) | options(
    parser_with(add_image_arguments)
)


def subcommands(
    name: str, parser: argparse.ArgumentParser
) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    nested = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not nested:
        yield name, parser
    for action in nested:
        for word, child in action.choices.items():
            yield from subcommands(f"{name} {word}", child)


CLIENT = dict(
    item
    for command in COMMANDS
    for item in subcommands(
        command, parser_with(import_module(f"ksyms.commands.{command}").configure)
    )
)
"""The parsers of all commands of ksyms, and of their own commands."""


# -- form


@pytest.mark.parametrize("page", PAGES)
def test_mandoc_finds_no_fault(page: str, tmp_path: Path) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    for name, path in PAGES.items():
        directory = tmp_path / f"man{name[-1]}"
        directory.mkdir(exist_ok=True)
        shutil.copy(path, directory)

    printed = subprocess.run(
        ["mandoc", "-T", "lint", PAGES[page]],
        capture_output=True,
        text=True,
        env={**os.environ, "MANPATH": f"{tmp_path}:/usr/share/man"},
    ).stdout

    # Others' pages need not be installed here.
    ours = {f"Xr {name.replace('.', ' ')}" for name in PAGES}
    absent = "referenced manual not found: "
    faults = [
        line
        for line in printed.splitlines()
        if absent not in line or line.partition(absent)[2][: len("Xr x")] in ours
    ]
    assert faults == []


@pytest.mark.parametrize("page", PAGES)
def test_references_between_the_pages_lead_somewhere(page: str) -> None:
    references = re.findall(r"^\.Xr (m?kksyms|ksyms\w*) (\d)", PAGES[page].read_text())

    assert {f"{name}.{number}" for name, number in references} <= PAGES.keys()


# -- options


def test_ksymsfs_8_describes_every_option_and_no_other() -> None:
    parser = cli.parser()

    assert described(PAGES["ksymsfs.8"].read_text()) == options(parser) - SHARED


def test_mkksyms_1_describes_every_option_and_no_other() -> None:
    assert described(PAGES["mkksyms.1"].read_text()) == options(mkksyms.parser())


@pytest.mark.parametrize(
    ("page", "parser"),
    [("ksymsfs.8", cli.parser()), ("mkksyms.1", mkksyms.parser())],
    ids=["ksymsfs", "mkksyms"],
)
def test_a_synopsis_has_every_option_and_no_other(
    page: str, parser: argparse.ArgumentParser
) -> None:
    synopsis = section(page, "SYNOPSIS")

    assert {f for line in synopsis.splitlines() for f in flags(line)} == options(parser)


def test_ksyms_1_describes_the_options_of_every_command() -> None:
    assert described(section("ksyms.1", "DESCRIPTION")) == GLOBAL


def test_ksyms_1_has_every_command_and_no_other() -> None:
    page = PAGES["ksyms.1"].read_text()

    commands = re.findall(r"^\.Ss (.*)$", page, re.M)

    assert commands == sorted(CLIENT)


@pytest.mark.parametrize("command", sorted(CLIENT))
def test_ksyms_1_describes_every_option_of_a_command_and_no_other(
    command: str,
) -> None:
    text = section("ksyms.1", command)
    expected = options(CLIENT[command]) - GLOBAL

    assert described(text) == expected
    (synopsis,) = re.findall(r"^\.D1 Nm Cm (.*)$", text, re.M)
    assert synopsis.startswith(command)
    if "Ar options" not in synopsis:
        assert set(flags(synopsis)) <= expected
        # One of two spellings is enough.
        for action in CLIENT[command]._actions:
            spellings = set(action.option_strings) - GLOBAL
            assert not spellings or spellings & set(flags(synopsis)), spellings


@pytest.mark.parametrize(
    ("page", "parser"),
    [
        ("ksymsfs.8", cli.parser()),
        ("mkksyms.1", mkksyms.parser()),
        *(("ksyms.1", parser) for parser in CLIENT.values()),
    ],
)
def test_every_word_that_an_option_takes_is_told(
    page: str, parser: argparse.ArgumentParser
) -> None:
    text = PAGES["mkksyms.1"].read_text() + PAGES[page].read_text()

    for action in parser._actions:
        if action.option_strings:
            for choice in action.choices or ():
                assert re.search(rf"\bCm {re.escape(choice)}( |$)", text, re.M), choice


# -- one story

_PUNCTUATION = set(",.;:()")
_SYSTEMS = {"Fx": "FreeBSD", "Nx": "NetBSD", "Nm": "ksyms"}


def rendered(text: str) -> str:
    """The words of a paragraph of mdoc(7), up to what is no text."""
    words: list[str] = []
    for line in text.splitlines():
        macro, *rest = line[1:].split() if line.startswith(".") else ["", *line.split()]
        if macro in ("It", "El", "Bl", "Pp", "Ss", "Sh"):
            break
        rest = [w for w in rest if not re.fullmatch("Cm|Ar|Pa|Dv|Li|Ns", w)]
        if macro == "Xr":
            rest = [f"{rest[0]}({rest[1]})", *rest[2:]]
        elif macro == "Fl":
            rest = [w if w in _PUNCTUATION else f"-{w}" for w in rest]
        elif macro in _SYSTEMS:
            rest = [_SYSTEMS[macro], *rest]
        for word in rest:
            if word in _PUNCTUATION and words:
                words[-1] += word
            else:
                words.append(word)
    return " ".join(words)


def meanings(text: str) -> dict[str, str]:
    """What a part of a page says of each option, by each of its names."""
    items = re.split(r"^\.It (Fl .*)\n", text, flags=re.M)[1:]
    return {
        flag: rendered(said)
        for line, said in zip(items[::2], items[1::2], strict=True)
        for flag in flags(line)
    }


def described_commands() -> Iterator[tuple[str, Command]]:
    for program in programs():
        for path, command in program.walk():
            if not command.commands or not path:
                yield f"{program.name} {path}".strip(), command


def manual_of(name: str) -> str:
    """Where options of a command are described."""
    program, *words = name.split()
    shared = PAGES["mkksyms.1"].read_text()
    if program != "ksyms":
        page = "ksymsfs.8" if program == "ksymsfs" else "mkksyms.1"
        return shared + PAGES[page].read_text()
    own = section("ksyms.1", " ".join(words)) if words else ""
    return section("ksyms.1", "DESCRIPTION") + own


def begins_with(text: str, start: str) -> bool:
    return text.lower().startswith(start.lower())


@pytest.mark.parametrize(
    ("name", "command"),
    [pytest.param(*item, id=item[0]) for item in described_commands()],
)
def test_an_option_means_in_the_manual_what_it_means_in_help_and_completion(
    name: str, command: Command
) -> None:
    told = meanings(manual_of(name))

    for option in command.options:
        if "--help" not in option.names:  # argparse's words
            for flag in option.names:
                assert begins_with(told[flag], option.help), (flag, told[flag])


@pytest.mark.parametrize("name", sorted(CLIENT))
def test_a_command_does_in_the_manual_what_it_does_in_help_and_completion(
    name: str,
) -> None:
    (command,) = (c for n, c in described_commands() if n == f"ksyms {name}")
    paragraph = section("ksyms.1", name).partition("\n")[2]
    _, description, *_ = help_of(f"ksyms {name}").split("\n\n")

    assert begins_with(rendered(paragraph), command.help)
    assert begins_with(description, command.help)


# -- errors and requests


def errnos(path: Path) -> Iterator[str]:
    """The errnos that a module answers with: those that it does not just compare."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare | ast.Set)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "errno"
            and node.attr.isupper()
            and node not in skipped
        ):
            yield node.attr


def device_modules() -> set[str]:
    """What the file system is made of, but for the sources of symbols."""
    found: set[str] = set()
    wanted = {"ksymsfs.fs"}
    while wanted:
        found |= wanted
        imported = {name for module in wanted for name in GRAPH[module]}
        wanted = {
            name
            for name in imported & GRAPH.keys() - found
            if not name.startswith("ksymsfs.sources")
        }
    return found


def test_ksyms_4_has_every_errno_of_the_device_and_no_other() -> None:
    answered = {
        name
        for module in device_modules()
        for name in errnos(ROOT / f"{module.replace('.', '/')}.py")
    }
    # The kernel asks nobody to read a link that it does not take for one.
    answered.remove("EINVAL")

    told = re.findall(r"^\.It Bq Er (\w+)$", section("ksyms.4", "ERRORS"), re.M)

    # ENXIO is open's and ioctl's.
    assert sorted(told) == sorted([*answered, "ENXIO"])


def test_ksyms_4_has_every_request_and_no_other() -> None:
    header = (ROOT / "client/include/sys/ksyms.h").read_text()
    defined = set(re.findall(r"^#define\s+(O?KIOC\w+)", header, re.M))

    told = re.findall(r"^\.It Dv (.*)$", section("ksyms.4", "IOCTLS"), re.M)

    assert {word for line in told for word in re.findall(r"O?KIOC\w+", line)} == defined
