"""The ksyms command: finds the subcommand, runs it, turns errors into exit codes.

Start-up time matters, since people call addr2sym in loops: a command's module is
imported only when it was chosen, and argparse only for what is not plain.
"""

from __future__ import annotations

import os
import sys

from ksyms.arguments import Arguments, PlainArguments
from ksyms.errors import KsymsError
from ksyms.options import add_global_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from types import ModuleType
    from typing import NoReturn

# A command NAME is the module ksyms.commands.NAME, with configure(parser) and
# run(args) -> exit code; its docstring is the command's description.
COMMANDS = {
    "addr2sym": "name the symbol at each address",
    "annotate": "put names in place of the kernel addresses in a text",
    "bpf": "ask whether BPF objects would load on a kernel",
    "capture": "capture the running kernel, to be asked elsewhere",
    "lockstat": "report who waited for which kernel lock, and how long",
    "diff": "compare two images",
    "doctor": "check what works on this machine, and how to get the rest",
    "map": "show where text, data and modules lie, and how large they are",
    "nm": "list the symbols as nm(1) does",
    "sym2addr": "print where each name is",
}

_EXAMPLES = """\
examples:
  ksyms addr2sym ffffffff81000010      which symbol is at this address
  ksyms sym2addr vfs_read              where is this name
  ksyms -k vmlinux nm -n 'vfs_*'       symbols of a file, in address order
  ksyms nm --help                      the options of a command
"""


def command() -> NoReturn:
    """The program ksyms: main(), and an end without Python's own clearing up.

    That takes 2 ms, a tenth of addr2sym: nothing here is left for it to do.
    """
    # Where numpy is used, its linear algebra is not: without a thread of it for each
    # processor, `ksyms map` takes three fifths of the time.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    status = main()
    try:
        sys.stdout.flush()
    except OSError:
        status = status or 2
    os._exit(status)


def main(argv: list[str] | None = None) -> int:
    """Run one ksyms command line (default: sys.argv[1:]) and return its exit code.

    0: all answered; 1: something was not found; 2: usage, or unreadable input.
    """
    argv = sys.argv[1:] if argv is None else argv
    # Symbol names are bytes to the kernel: they pass through as they are.
    for stream in (sys.stdin, sys.stdout):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    debug = False
    try:
        command, rest = split_command(argv)
        if command not in COMMANDS:
            return _without_command(command, rest)
        # import_module() comes with a module that takes longer than the command's.
        __import__(f"ksyms.commands.{command}")
        module = sys.modules[f"ksyms.commands.{command}"]
        args = _parse(module, command, rest)
        if args.version:
            return _print_version()
        args.json |= args.pretty
        debug = args.debug
        status = int(module.run(args))
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Nobody reads any more: end as a program killed by SIGPIPE does, quietly.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    except (KsymsError, OSError) as error:
        if debug:
            raise
        print(f"ksyms: {_message(error)}", file=sys.stderr)
        return 2


def split_command(argv: list[str]) -> tuple[str | None, list[str]]:
    """The first word of *argv* that is no global option, and all the other words."""
    skip = False
    for position, word in enumerate(argv):
        if skip:
            skip = False
        elif word == "--ksyms":
            skip = True
        elif word.startswith("-") and not word.startswith("--") and word != "-":
            # A cluster of letters; what follows k in it is the file's name.
            skip = word.endswith("k") and "k" not in word[:-1]
        elif not word.startswith("-"):
            return word, [*argv[:position], *argv[position + 1 :]]
    return None, argv


def _parse(module: ModuleType, command: str, rest: list[str]) -> Arguments:
    args = Arguments(ksyms=None, json=False, pretty=False, debug=False, version=False)
    plain = PlainArguments()
    try:
        module.configure(plain)
        add_global_options(plain)
        is_plain = plain.parse(rest, args)
    except AttributeError:
        # The command has subcommands, or something else that only argparse knows.
        is_plain = False
    if not is_plain:
        parser = _argparse_parser(f"ksyms {command}", module.__doc__)
        module.configure(parser)
        add_global_options(parser)
        parser.parse_args(rest, args)
    return args


def _argparse_parser(prog: str, description: str | None) -> ArgumentParser:
    import argparse

    return argparse.ArgumentParser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _print_version() -> int:
    # Reading the metadata of the distribution takes 60 ms.
    from importlib import metadata

    try:
        print("ksyms", metadata.version("ksymsfs"))
    except metadata.PackageNotFoundError:
        print("ksyms, not installed")
    return 0


def _message(error: Exception) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    from ksyms.advice import advice

    # Only what is printed has no name.
    where = error.filename if error.filename is not None else "standard output"
    return ": ".join(filter(None, [f"{where}", error.strerror, advice(error)]))


def _without_command(command: str | None, rest: list[str]) -> int:
    if command == "help" and rest:
        return main([rest[0], "--help"])
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {COMMANDS[name]}" for name in sorted(COMMANDS)]
    parser = _argparse_parser(
        "ksyms", "Ask a ksyms image for symbols.\n\ncommands:\n" + "\n".join(lines)
    )
    parser.usage = "ksyms [-k FILE] [-j [-p]] [-d] [-V] COMMAND ..."
    parser.epilog = _EXAMPLES
    add_global_options(parser)
    if command == "help":
        parser.print_help()
        return 0
    if command is None:
        args = Arguments(version=False)
        parser.parse_args(rest, args)
        if args.version:
            return _print_version()
        parser.error("no command: choose from " + ", ".join(sorted(COMMANDS)))
    parser.error(f"no command {command!r}: choose from " + ", ".join(sorted(COMMANDS)))
