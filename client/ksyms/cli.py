"""The ksyms command: finds the subcommand, runs it, turns errors into exit codes.

Start-up time matters (addr2sym answers in the time of a bare interpreter plus
argparse), so a command's module is imported only when it was chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from ksyms.errors import KsymsError
from ksyms.options import add_global_options

# A command NAME is the module ksyms.commands.NAME, with configure(parser) and
# run(args) -> exit code; its docstring is the command's description.
COMMANDS = {
    "addr2sym": "name the symbol at each address",
    "bpf": "ask whether BPF objects would load on a kernel",
    "capture": "capture the running kernel, to be asked elsewhere",
    "lockstat": "report who waited for which kernel lock, and how long",
    "nm": "list the symbols, in the formats of nm(1)",
    "sym2addr": "print the addresses of each name",
}

_EXAMPLES = """\
examples:
  ksyms addr2sym ffffffff81000010      which symbol is at this address
  ksyms sym2addr vfs_read              where is this name
  ksyms -k vmlinux nm -n 'tcp_*'       symbols of a file, in address order
  ksyms COMMAND --help                 the options of a command
"""


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
        module = import_module(f"ksyms.commands.{command}")
        parser = argparse.ArgumentParser(
            prog=f"ksyms {command}",
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.configure(parser)
        add_global_options(parser)
        args = parser.parse_args(rest, _defaults())
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


def _defaults() -> argparse.Namespace:
    return argparse.Namespace(ksyms=None, json=False, pretty=False, debug=False)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = error.filename if error.filename is not None else "standard output"
        return f"{where}: {error.strerror}"
    return str(error)


def _without_command(command: str | None, rest: list[str]) -> int:
    if command == "help" and rest:
        return main([rest[0], "--help"])
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {COMMANDS[name]}" for name in sorted(COMMANDS)]
    parser = argparse.ArgumentParser(
        prog="ksyms",
        usage="ksyms [-k FILE] [-j [-p]] [-d] [-V] COMMAND ...",
        description="Ask a ksyms image for symbols.\n\ncommands:\n" + "\n".join(lines),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_global_options(parser)
    if command == "help":
        parser.print_help()
        return 0
    if command is None:
        parser.parse_args(rest, _defaults())
        parser.error("no command: choose from " + ", ".join(sorted(COMMANDS)))
    parser.error(f"no command {command!r}: choose from " + ", ".join(sorted(COMMANDS)))
