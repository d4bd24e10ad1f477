"""Capture the running kernel, to be asked elsewhere: symbols, types and facts.

`ksyms bpf check --kernel DIR` takes the folder in place of the running kernel, on
any machine and as any user who may read it. The symbols come from /dev/ksyms (or
-k FILE) where that is there, else from /proc/kallsyms; their file is readable by its
owner alone, as the addresses are a secret where KASLR is on.
"""

from __future__ import annotations

import os
import sys

from ksyms.capture import write_capture

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_EPILOG = """\
An existing capture is replaced only with --force, and never in part; a folder that
holds anything else is never touched. --json prints the facts.

examples:
  ksyms capture here
  ksyms capture --force here
  ksyms bpf check prog.bpf.o --kernel captures/6.1
"""


_ORIGINS = {
    "probe": "{} structs have a destructor: the kernel was asked",
    "heuristic": "{} structs have a destructor, to judge by the names of functions: "
    "the kernel could not be asked (it takes CAP_BPF)",
    "file": "{} structs have a destructor",
}


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of capture to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument("directory", metavar="DIR", help="the folder to make")
    parser.add_argument(
        "--force", action="store_true", help="replace the capture that DIR holds"
    )


def run(args: Namespace) -> int:
    """Write the capture and tell what is in it."""
    facts = write_capture(
        args.directory,
        ksyms=args.ksyms or os.environ.get("KSYMS") or None,
        force=args.force,
        progress=_tell if sys.stderr.isatty() else None,
    )
    if args.json:
        print(facts.to_json(), end="")
        return 0
    modules = len(facts.modules)
    print(
        f"{args.directory}: {facts.release} {facts.machine}, "
        f"BTF of {modules} module{'s' * (modules != 1)}"
    )
    if facts.destructors is not None:
        count = len(facts.destructors.types)
        print(f"{args.directory}: {_ORIGINS[facts.destructors.found_by].format(count)}")
    else:
        print(f"{args.directory}: no BTF: typed externs cannot be checked on it")
    return 0


def _tell(done: int, total: int) -> None:
    if done % 100 == 0 or done == total:
        end = "\r" if done < total else "\r\033[K"
        print(f"asking for destructors: {done}/{total}", end=end, file=sys.stderr)
