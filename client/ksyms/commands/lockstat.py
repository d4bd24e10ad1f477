"""Report who waited for which kernel lock, and how long, while a command ran.

The report is that of FreeBSD's lockstat(1): of each kind of wait how often a caller
waited for a lock (Count), which part of all these waits that is (indv), also of all
lines so far (cuml), an average reference count (rcnt: always 0.00 for waits) and the
average wait (nsec). All processes count, not the command alone. perf(1) records the
kernel's events, and the image names the locks and their callers.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from contextlib import AbstractContextManager
    from typing import TextIO

    from ksyms.contention import Gap

_EPILOG = """\
--json prints a list of {"event", "kind", "count", "indv", "cuml", "rcnt", "nsec",
"total_nsec", "lock", "lock_address", "caller", "caller_address"}: one record a line
of the report, percentages of its event; with -s also "stack", and "histogram", which
counts the waits below each power of two of nanoseconds. Exit status: 0; 1 where
events were lost, or -A asked for more than there is; 2 nothing could be recorded.

examples:
  ksyms lockstat sleep 1
  ksyms lockstat -s 8 -n 10 -o report.txt -- make -j8
  mkksyms --kernel vmlinux --kallsyms /proc/kallsyms -o full.ksyms
  ksyms -k full.ksyms lockstat sleep 1    names of data, which kallsyms may lack
"""

_NO_HOLDS = (
    "hold times cannot be had: Linux tells when a wait for a lock begins and ends "
    "(lock:contention_begin, lock:contention_end), and of no release"
)

_NOT_LINUX = (
    "perf(1) and the events of Linux are needed; FreeBSD has a lockstat(1) of its own, "
    "which reads /dev/ksyms"
)


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of lockstat to *parser*."""
    from argparse import REMAINDER

    parser.epilog = _EPILOG
    parser.usage = (
        "ksyms lockstat [-A | -C | -H] [-s DEPTH] [-n N] [-o FILE] [-j [-p]] "
        "[-k FILE] [-d] [-V] [--] COMMAND [ARG ...]"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "-A", dest="watch", action="store_const", const="all",
        default="contention", help="watch all lock events: -C and -H",
    )  # fmt: skip
    what.add_argument(
        "-C", dest="watch", action="store_const", const="contention",
        help="watch waits (default)",
    )  # fmt: skip
    what.add_argument(
        "-H", dest="watch", action="store_const", const="hold",
        help="watch how long locks are held: Linux has no events for that",
    )  # fmt: skip
    parser.add_argument(
        "-s", dest="depth", type=_number, default=0, metavar="DEPTH",
        help="print distributions of the waits, and stacks of up to DEPTH frames",
    )  # fmt: skip
    parser.add_argument(
        "-n", dest="most", type=_number, metavar="N",
        help="print the N most frequent waits of each kind (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "-o", dest="output", default="-", metavar="FILE",
        help="write the report there, apart from what COMMAND prints",
    )  # fmt: skip
    parser.add_argument(
        "command", nargs=REMAINDER, metavar="COMMAND", help="what to run meanwhile"
    )


def _number(text: str) -> int:
    from argparse import ArgumentTypeError

    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1 << 31:
        raise ArgumentTypeError(f"not a number from 1: {text!r}")
    return int(text)


def run(args: Namespace) -> int:
    """Run args.command, report what it and all others waited for, return 0, 1 or 2."""
    from ksyms.contention import Waits
    from ksyms.lockstat import LOCK_FRAMES, LockNames, LockStatistics
    from ksyms.perf import Recording, sees_all_threads
    from ksyms.table import load

    command = args.command[args.command[:1] == ["--"] :]
    if not command:
        return _say("lockstat: no COMMAND to run; 'sleep 5' will do", 2)
    if sys.platform != "linux":
        return _say(f"lockstat: {_NOT_LINUX}", 2)
    if args.watch == "hold":
        return _say(f"lockstat -H: {_NO_HOLDS}", 2)
    status = 0
    if args.watch == "all":
        status = _say(f"lockstat -A: {_NO_HOLDS}; waits only", 1)
    if not sees_all_threads():
        status = _say(
            "lockstat: the waits of processes outside this pid namespace are left out",
            1,
        )
    names = LockNames(load(args.ksyms))
    with (
        # What cannot be written need not be measured.
        _output(args.output) as out,
        Recording(LOCK_FRAMES + args.depth) as recording,
    ):
        recording.run(command)
        if args.ksyms != "-":
            names = LockNames(load(args.ksyms))  # it may have loaded modules
        gaps: list[Gap] = []
        while True:
            waits = Waits(recording.events(), gaps)
            statistics = LockStatistics(waits, recording.seconds, names, args.depth)
            if gaps == waits.gaps:
                break
            gaps = waits.gaps
        if args.json:
            from ksyms.output import print_records

            print_records(statistics.rows(args.most), args, out)
        else:
            out.writelines(f"{line}\n" for line in statistics.text(args.most))
    if recording.status:
        _say(f"lockstat: {command[0]}: {_ended(recording.status)}", 0)
    if waits.lost:
        status = _say(
            f"lockstat: {waits.lost} events were lost, and with them some waits", 1
        )
    return status


def _output(path: str) -> AbstractContextManager[TextIO]:
    if path == "-":
        return nullcontext(sys.stdout)
    return open(path, "w", encoding="utf-8", errors="surrogateescape")


def _ended(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"ended by signal {-status}"


def _say(message: str, status: int) -> int:
    print(f"ksyms: {message}", file=sys.stderr)
    return status
