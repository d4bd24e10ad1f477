"""Writes the completion files of the shells from the parsers of the commands.

    python -m tests.completions

from the top of the checkout, after a change of options. They are part of the
repository, so that a wheel can carry them; a test holds them to the parsers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from ksyms.cli import COMMANDS
from ksyms.options import add_global_options
from ksymsfs import cli, mkksyms

ROOT = Path(__file__).resolve().parent.parent
WRITTEN = "# Written by tests/completions.py from the command's own parser."

# What an argument is, by the last word of its metavar; others are anything.
_KINDS = {
    **dict.fromkeys(("FILE", "ELF", "PATH", "OBJ", "NAME=FILE"), "file"),
    **dict.fromkeys(("FILE[@ADDR[+SIZE]]",), "file"),
    **dict.fromkeys(("DIR", "CAPTURE", "MOUNTPOINT"), "directory"),
    "COMMAND": "command",
}


@dataclass(frozen=True)
class Argument:
    """What may be written for one option's argument, or for the other arguments."""

    kind: str = ""
    """file, directory, command, or nothing that could be completed."""
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """One option by all its names; argument None: it takes none."""

    names: tuple[str, ...]
    help: str
    argument: Argument | None


@dataclass
class Command:
    """A command with its options, other arguments, and commands of its own."""

    name: str
    help: str
    options: list[Option] = field(default_factory=list)
    arguments: Argument = Argument()
    commands: list[Command] = field(default_factory=list)

    def walk(self, path: str = "") -> Iterator[tuple[str, Command]]:
        """This command and those below it, each with the words that lead there."""
        yield path, self
        for command in self.commands:
            yield from command.walk(f"{path} {command.name}".strip())


def describe(name: str, help: str, parser: argparse.ArgumentParser) -> Command:
    """The command that *parser* parses."""
    command = Command(name, help)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {a.dest: a.help or "" for a in action._choices_actions}
            command.commands = [
                describe(word, helps[word], child)
                for word, child in action.choices.items()
            ]
        elif action.option_strings:
            argument = None if action.nargs == 0 else _argument(action)
            text = _first_clause(action.help or "")
            command.options.append(Option(tuple(action.option_strings), text, argument))
        else:
            command.arguments = _argument(action)
    return command


def _argument(action: argparse.Action) -> Argument:
    if action.choices:
        return Argument(words=tuple(map(str, action.choices)))
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    return Argument(_KINDS.get(metavar.split(" ")[-1].split(",")[0], ""))


def _first_clause(text: str) -> str:
    # "say more; implies -f": one line of a menu has room for its start.
    text = text.replace("%%", "%")
    for end in (";", " (", ":", ","):
        text = text.partition(end)[0]
    return text


def client() -> Command:
    """ksyms with all its commands."""
    root = Command("ksyms", "", _global_options())
    for name, help in sorted(COMMANDS.items()):
        parser = argparse.ArgumentParser(add_help=False)
        import_module(f"ksyms.commands.{name}").configure(parser)
        root.commands.append(describe(name, help, parser))
    for _, command in root.walk():
        known = {option.names for option in command.options}
        command.options += [o for o in _global_options() if o.names not in known]
    return root


def _global_options() -> list[Option]:
    parser = argparse.ArgumentParser()
    add_global_options(parser)
    return describe("ksyms", "", parser).options


def programs() -> list[Command]:
    """The three programs."""
    return [
        client(),
        describe("ksymsfs", "", cli.parser()),
        describe("mkksyms", "", mkksyms.parser()),
    ]


# -- bash


def bash(program: Command) -> str:
    """The completion file for bash(1), without what bash-completion would add."""
    steps = [
        f'\t\t"{path.rpartition(" ")[0]}:{command.name}") command="{path}" ;;'
        for path, command in program.walk()
        if path
    ]
    with_argument = "|".join(
        name
        for option in program.options
        if option.argument is not None
        for name in option.names
    )
    cases = []
    for path, command in program.walk():
        for option in command.options:
            if option.argument is not None:
                names = "|".join(f'"{path}:{name}"' for name in option.names)
                cases.append(f"\t{names}) {_bash_reply(option.argument)}; return ;;")
    words = []
    for path, command in program.walk():
        flags = " ".join(n for option in command.options for n in option.names)
        here = command.arguments
        if command.commands:
            here = Argument(words=tuple(c.name for c in command.commands))
        words += [
            f'\t"{path}:"-*) {_bash_words(flags)} ;;',
            f'\t"{path}:"*) {_bash_reply(here)} ;;',
        ]
    function = f"_{program.name}"
    return "\n".join(
        [
            WRITTEN,
            f"{function}()",
            "{",
            "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}",
            '\tlocal command=""',
            "\tCOMPREPLY=()",
            "\t# readline splits --option=argument at the =.",
            '\tif [[ $cur == "=" ]]; then',
            '\t\tcur=""',
            '\telif [[ $prev == "=" ]]; then',
            "\t\tprev=${COMP_WORDS[COMP_CWORD - 2]}",
            "\tfi",
            *(
                [
                    "\tlocal i",
                    "\tfor ((i = 1; i < COMP_CWORD; i++)); do",
                    "\t\tcase $command:${COMP_WORDS[i]} in",
                    f"\t\t*:{with_argument.replace('|', '|*:')}) ((i++)) ;;",
                    *steps,
                    "\t\tesac",
                    "\tdone",
                ]
                if steps
                else []
            ),
            "\tcase $command:$prev in",
            *cases,
            "\tesac",
            "\tcase $command:$cur in",
            *words,
            "\tesac",
            "}",
            f"complete -F {function} {program.name}",
            "",
        ]
    )


def _bash_words(words: str) -> str:
    return f"mapfile -t COMPREPLY < <(compgen -W '{words}' -- \"$cur\")"


def _bash_reply(argument: Argument) -> str:
    if argument.words:
        return _bash_words(" ".join(argument.words))
    letter = {"file": "f", "directory": "d", "command": "c"}.get(argument.kind)
    if letter is None:
        return ":"
    options = "compopt -o filenames; " if letter != "c" else ""
    return f'{options}mapfile -t COMPREPLY < <(compgen -{letter} -- "$cur")'


# -- zsh


def zsh(program: Command) -> str:
    """The completion file for zsh(1)."""
    lines = [f"#compdef {program.name}", WRITTEN, ""]
    for path, command in program.walk():
        function = "_" + "_".join([program.name, *path.split()])
        lines += [f"{function}()", "{"]
        specs = [_zsh_option(option) for option in command.options]
        if command.commands:
            lines += ["\tlocal state line", "\tlocal -a subcommands=("]
            lines += [f"\t\t{_quoted(f'{c.name}:{c.help}')}" for c in command.commands]
            lines += ["\t)"]
            specs += ["'1:command:->command'", "'*::argument:->argument'"]
        else:
            if command.arguments.kind == "command":
                # From the second word on, it is for that command to say.
                specs += ["'1:command:_command_names -e'"]
                specs += ["'*::argument:_normal'"]
            else:
                specs.append(f"'*:argument:{_zsh_action(command.arguments)}'")
        # The colon ends the options of _arguments, some of which look like ours.
        lines.append("\t_arguments -s -S -C :" + " \\\n\t\t".join(["", *specs]))
        if command.commands:
            lines += [
                "\tcase $state in",
                "\tcommand) _describe command subcommands ;;",
                f"\targument) (( $+functions[{function}_$line[1]] )) &&"
                f" {function}_$line[1] ;;",
                "\tesac",
            ]
        lines += ["}", ""]
    # The first time, the whole file is the function; it has replaced itself by then.
    return "\n".join([*lines, f'_{program.name} "$@"', ""])


def _zsh_option(option: Option) -> str:
    text = option.help.replace("[", "\\[").replace("]", "\\]").replace(":", "\\:")
    argument = ""
    if option.argument is not None:
        argument = f":argument:{_zsh_action(option.argument)}"
    names = [
        f"{name}{'=' if argument and name.startswith('--') else ''}"
        for name in option.names
    ]
    together = f"'({' '.join(option.names)})'" if len(names) > 1 else ""
    spelled = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    return f"{together}{spelled}{_quoted(f'[{text}]{argument}')}"


def _zsh_action(argument: Argument) -> str:
    if argument.words:
        return f"({' '.join(argument.words)})"
    return {"file": "_files", "directory": "_files -/"}.get(argument.kind, "")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish


def fish(program: Command) -> str:
    """The completion file for fish(1)."""
    name = program.name
    lines = [WRITTEN, f"complete -c {name} -f"]
    for path, command in program.walk():
        condition = _fish_condition(path, command) if program.commands else ""
        start = f"complete -c {name}{condition}"
        for child in command.commands:
            lines.append(f"{start} -a {child.name} -d {_quoted(child.help)}")
        for option in command.options:
            names = "".join(
                f" -l {n[2:]}" if n.startswith("--") else f" -s {n[1:]}"
                for n in option.names
            )
            takes = "" if option.argument is None else _fish_takes(option.argument)
            lines.append(f"{start}{names}{takes} -d {_quoted(option.help)}")
        if command.arguments.kind in ("file", "directory"):
            lines.append(f"{start} {_fish_files(command.arguments)}")
        elif command.arguments.kind == "command":
            lines.append(f"{start} -a '(__fish_complete_subcommand --fcs-skip=2)'")
    return "\n".join([*lines, ""])


def _fish_condition(path: str, command: Command) -> str:
    seen = [f"__fish_seen_subcommand_from {word}" for word in path.split()]
    if command.commands:
        children = " ".join(child.name for child in command.commands)
        seen.append(f"not __fish_seen_subcommand_from {children}")
    return f" -n '{'; and '.join(seen)}'"


def _fish_takes(argument: Argument) -> str:
    if argument.words:
        return f" -x -a '{' '.join(argument.words)}'"
    if argument.kind:
        return " -r " + _fish_files(argument)
    return " -x"


def _fish_files(argument: Argument) -> str:
    if argument.kind == "directory":
        return "-a '(__fish_complete_directories)'"
    return "-F"


def files() -> Iterator[tuple[Path, str]]:
    """Every file, and what is to be in it."""
    for program in programs():
        top = "client" if program.name == "ksyms" else "ksymsfs"
        directory = ROOT / top / "completion"
        yield directory / f"{program.name}.bash", bash(program)
        yield directory / f"_{program.name}", zsh(program)
        yield directory / f"{program.name}.fish", fish(program)


if __name__ == "__main__":
    for path, text in files():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
