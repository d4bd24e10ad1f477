"""ksymsfs(8): mounts the device."""

from __future__ import annotations

import argparse
import ctypes
import logging
import logging.handlers
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from ksymsfs.daemon import detach, notify
from ksymsfs.device import Device
from ksymsfs.errors import (
    ImageTooLargeError,
    KsymsFSError,
    OptionError,
    SnapshotError,
)
from ksymsfs.flavor import Layout
from ksymsfs.fs import Filesystem
from ksymsfs.generation import Generations
from ksymsfs.mountpoint import Mountpoint, device_link
from ksymsfs.options import (
    add_image_arguments,
    add_source,
    add_source_arguments,
    add_version_argument,
    flavor_from,
    layout_from,
    source_from,
    with_absolute_paths,
)
from ksymsfs.process import Processes
from ksymsfs.sources import Source

log = logging.getLogger(__name__)

DEFAULT_MOUNTPOINT = "/run/ksymsfs"
DEFAULT_DEVICE = "/dev/ksyms"

# mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE = 2 << 20

_EXAMPLES = """\
examples:
  ksymsfs                       serve the running kernel at /dev/ksyms
  fusermount3 -u /run/ksymsfs   end it (as does SIGTERM)
  ksymsfs -f -d /mnt            in the foreground, on /mnt, with debug messages
  ksymsfs --device none /mnt    no link in /dev: the device is /mnt/ksyms
"""


def parser() -> ArgumentParser:
    """The command line of ksymsfs."""
    parser = ArgumentParser(
        "ksymsfs",
        description="Serve a kernel's symbols as FreeBSD's /dev/ksyms does.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="[SOURCE] MOUNTPOINT",
        help="the directory to mount on (default: " + DEFAULT_MOUNTPOINT + "); "
        "SOURCE is a manifest, a saved image or a saved kallsyms; as mount(8) needs "
        "something there, ksymsfs or none says the running kernel",
    )
    parser.add_argument(
        "-f", "--foreground", action="store_true", help="do not become a daemon"
    )
    parser.add_argument(
        "-d", "--debug", action="store_true", help="say more; implies -f"
    )
    parser.add_argument(
        "-o",
        dest="mount_options",
        action="append",
        default=[],
        metavar="OPT[,OPT...]",
        help="options as mount(8) gives them: device=PATH, mode=OCTAL, and any long "
        "option of ksymsfs without its dashes; the generic ones are ignored",
    )
    parser.add_argument(
        "--device",
        default=DEFAULT_DEVICE,
        metavar="PATH",
        help="the symbolic link to the device, or none (default: %(default)s)",
    )
    parser.add_argument(
        "--mode",
        type=_mode,
        metavar="OCTAL",
        help="permissions of the device (default: the flavor's, 0400 for freebsd); "
        "whatever they are, a caller "
        "from whom the running kernel would hide its addresses is refused",
    )
    parser.add_argument(
        "--max-image",
        type=_size,
        metavar="BYTES",
        help="refuse larger images, with ENOMEM (K, M and G are understood)",
    )
    parser.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="append messages to FILE, not to syslog or the terminal",
    )
    parser.add_argument(
        "--binding",
        metavar="MODULE",
        help="the FUSE binding to use: fuse (fusepy), fusepy or mfusepy "
        "(default: the first that works)",
    )
    add_version_argument(parser)
    add_source_arguments(parser)
    add_image_arguments(parser)
    return parser


# What mount(8) and fstab(5) add, and what is always so.
_GENERIC = {
    *("rw", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "auto"),
    *("noauto", "user", "nouser", "users", "defaults", "nofail", "_netdev"),
    *("allow_other", "default_permissions", "relatime", "noatime", "atime"),
}


def _mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise ArgumentTypeError(f"not permissions like 0440: {text!r}")
    if int(text, 8) & ~0o444:
        raise ArgumentTypeError(f"the device is only ever read, so not {text}")
    return int(text, 8)


def _size(text: str) -> int:
    match = re.fullmatch("([1-9][0-9]*)([KMG]?)", text.upper())
    if match is None:
        raise ArgumentTypeError(f"not a number of bytes like 64M: {text!r}")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[match[2]]


def parse(argv: Sequence[str] | None) -> Namespace:
    """The arguments, with those of -o among them as if they were long options."""
    args = parser().parse_args(argv)
    words = [word for group in args.mount_options for word in group.split(",")]
    extra = [
        f"--{word}"
        for word in words
        if word and word not in _GENERIC and not word.startswith(("x-", "comment="))
    ]
    if extra:
        given = list(sys.argv[1:] if argv is None else argv)
        args = parser().parse_args(given + extra)
    if len(args.paths) > 2:
        parser().error("at most a SOURCE and a MOUNTPOINT")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run ksymsfs; the exit status is 0, 1 (it cannot serve) or 2 (usage)."""
    args = parse(argv)
    foreground = args.foreground or args.debug
    try:
        if len(args.paths) == 2:
            add_source(args, args.paths[0])
        args = with_absolute_paths(args)
        source = source_from(args)
        layout = layout_from(args, source)
    except OptionError as error:
        return _fail(error, 2)
    if foreground:
        return _serve(args, source, layout, notify)
    return detach(lambda ready: _serve(args, source, layout, ready))


def _fail(error: Exception, status: int) -> int:
    print(f"ksymsfs: {error}", file=sys.stderr)
    return status


def _serve(
    args: Namespace, source: Source, layout: Layout, ready: Callable[[], None]
) -> int:
    # Imported here: without libfuse, --help and mkksyms still work.
    from ksymsfs.mount import BINDINGS, Sweeper, caller_of, load_binding, serve

    _give_memory_back()
    mountpoint = Mountpoint(args.paths[-1] if args.paths else DEFAULT_MOUNTPOINT)
    link = None if args.device == "none" else os.path.abspath(args.device)
    sweeper = Sweeper(mountpoint.path)
    generations = Generations(
        source, layout, limit=args.max_image, dropped=sweeper.sweep
    )
    flavor = flavor_from(args)
    mode = flavor.mode if args.mode is None else args.mode
    processes = Processes()
    try:
        _log_to_stderr(args.debug)
        handler = _log_handler(args)
        binding = load_binding((args.binding,) if args.binding else BINDINGS)
        _try(generations)
        # What FreeBSD may have at /proc is not read. There nothing can be done about a
        # second open of a process anyway: the kernel sends none (fuse_vnop_open).
        can_see = sys.platform == "linux" and processes.are_numbered_as_here()
        if sys.platform == "linux" and not can_see:
            log.warning(
                "no /proc of this pid namespace: callers cannot be told apart, so a "
                "process may open the device more than once"
            )

        def mounted() -> None:
            processes.device = mountpoint.device()
            sweeper.start()
            if handler is not None:
                level = logging.getLogger().level
                logging.basicConfig(handlers=[handler], level=level, force=True)
            ready()

        mountpoint.claim()
        try:
            device = Device(
                generations,
                flavor=flavor,
                # Only Linux hides its addresses from some who may read the device.
                live=source.is_live and sys.platform == "linux",
                public=mode & 0o044 != 0,
                processes=processes,
            )
            filesystem = Filesystem(
                device,
                caller=lambda: caller_of(binding) * (1 if can_see else -1),
                mode=mode,
            )
            filesystem.when_mounted(mounted)
            with device_link(link, f"{mountpoint.path}/ksyms"):
                serve(filesystem, mountpoint.path, binding)
        finally:
            mountpoint.release()
    except KsymsFSError as error:
        return _fail(error, 1)
    except OSError as error:
        return _fail(error, 1)
    finally:
        source.close()
    return 0


def _give_memory_back() -> None:
    # glibc keeps what was freed for what comes next: of a server that waits for years,
    # images of the past. Other libraries give large blocks back by themselves.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def _try(generations: Generations) -> None:
    # A source that cannot be read is an error now; one that will do later is not.
    try:
        generations.current()
    except (SnapshotError, ImageTooLargeError) as error:
        log.warning("until that changes, nobody can open the device: %s", error)


def _log_to_stderr(debug: bool) -> None:
    logging.basicConfig(
        format="ksymsfs: %(message)s",
        level=logging.DEBUG if debug else logging.INFO,
        force=True,
    )
    # A full disk must not turn each message into a traceback.
    logging.raiseExceptions = False
    # The bindings log every errno that a callback answers with, as trouble.
    logging.getLogger("fuse").setLevel(logging.CRITICAL)


def _log_handler(args: Namespace) -> logging.Handler | None:
    # Opened before it is used: there may be no descriptor left when there is something
    # to say. None: standard error.
    if args.log is not None:
        try:
            handler: logging.Handler = logging.FileHandler(args.log)
        except OSError as error:
            raise OptionError(f"--log: {args.log}: {error.strerror}") from error
        handler.setFormatter(logging.Formatter("%(asctime)s ksymsfs: %(message)s"))
        return handler
    if args.foreground or args.debug:
        return None
    try:
        handler = logging.handlers.SysLogHandler("/dev/log")
    except OSError:
        return logging.NullHandler()  # no syslogd: nobody to tell
    handler.setFormatter(logging.Formatter("ksymsfs: %(message)s"))
    return handler


if __name__ == "__main__":
    sys.exit(main())
