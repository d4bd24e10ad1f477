"""The command line of vmtest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vagrant.vmtest.guest import GUESTS
from vagrant.vmtest.initrd import build_initrd
from vagrant.vmtest.kernel import build_kernel
from vagrant.vmtest.machine import Machine, shell_command
from vagrant.vmtest.parts import VmError, cache_directory, require
from vagrant.vmtest.userland import build_userland

CHECKOUT = Path(__file__).resolve().parents[2]

# What a guest runs when nothing else is said.
SUITE = "sh vagrant/suite.sh"

_EXAMPLES = """\
examples:
  python3 -m vagrant.vmtest                      the suite, on bookworm
  python3 -m vagrant.vmtest -g trixie -- true    does trixie boot?
  python3 -m vagrant.vmtest -- 'modprobe dummy; tail -3 /proc/kallsyms'

The status is the command's own, or 125 when the guest panicked or was out of time
(the end of its console is then on standard error), or 2 when it cannot be built.
Kernels and userlands are kept in $KSYMSFS_VM_CACHE (default ~/.cache/ksymsfs/vm).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Builds what is missing, boots the guest, and returns the command's status."""
    parser = argparse.ArgumentParser(
        prog="vmtest",
        description="Run a command in a Debian guest under QEMU, in this checkout.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "-g",
        "--guest",
        choices=GUESTS,
        default="bookworm",
        help="kernel and userland (default: %(default)s)",
    )
    parser.add_argument(
        "--accel",
        choices=("tcg", "kvm"),
        default="tcg",
        help="emulate (default), or use /dev/kvm",
    )
    parser.add_argument(
        "--kaslr", action="store_true", help="boot vmlinuz, at a random address"
    )
    parser.add_argument(
        "--boot-limit", type=float, default=60, metavar="S", help="seconds to a shell"
    )
    parser.add_argument(
        "--limit", type=float, default=1800, metavar="S", help="seconds in all"
    )
    parser.add_argument(
        "--times", action="store_true", help="say how long booting and the run took"
    )
    parser.add_argument("command", nargs="*", help=f"default: {SUITE}")
    args = parser.parse_args(argv)
    guest = GUESTS[args.guest]
    cache = cache_directory()
    try:
        require("qemu-system-x86_64")
        kernel = build_kernel(guest.kernel, cache)
        machine = Machine(
            kernel=kernel,
            initrd=build_initrd(kernel),
            userland=build_userland(guest, CHECKOUT, cache),
            checkout=CHECKOUT,
            accel=args.accel,
            kaslr=args.kaslr,
            boot_limit=args.boot_limit,
            limit=args.limit,
            times=args.times,
        )
        return machine.run(shell_command(args.command or [SUITE]))
    except VmError as error:
        print(f"vmtest: {error}", file=sys.stderr)
        return 2
