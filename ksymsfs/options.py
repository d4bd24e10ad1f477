"""The options that say where symbols come from and what the image looks like."""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from pathlib import Path

from ksymsfs import __version__
from ksymsfs.errors import OptionError
from ksymsfs.flavor import FLAVORS, FREEBSD, LAYOUTS, Flavor, Layout
from ksymsfs.sources import Source
from ksymsfs.sources.elf_files import ElfFiles, LinuxFacts, ModuleFile
from ksymsfs.sources.manifest import Manifest
from ksymsfs.sources.running import RunningKernel
from ksymsfs.sources.running_freebsd import RunningFreeBSD
from ksymsfs.sources.saved_image import SavedImage
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
        help="a saved /proc/kallsyms, or a System.map; with --kernel it only tells "
        "where KASLR put the kernel",
    )
    group.add_argument(
        "--modules",
        type=Path,
        metavar="FILE",
        help="the /proc/modules that was saved with --kallsyms",
    )
    group.add_argument(
        "--kernel", type=Path, metavar="ELF", help="a kernel's ELF file, or a vmlinux"
    )
    group.add_argument(
        "-m",
        dest="module",
        action="append",
        default=[],
        type=_module_file,
        metavar="FILE[@ADDR[+SIZE]]",
        help="the ELF file of a module, where and how large kldstat(8) says it is; "
        "repeat it in load order",
    )
    group.add_argument(
        "--sections",
        type=Path,
        metavar="FILE",
        help="where Linux modules' sections are: the output of "
        "'grep -r . /sys/module/*/sections/', lines 'MODULE SECTION ADDRESS', or a "
        "copy of the folder (default: /sys/module)",
    )
    group.add_argument(
        "--relocate",
        type=_number,
        metavar="OFFSET",
        help="how many bytes KASLR moved the kernel (of --kernel, or of a System.map)",
    )
    group.add_argument(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="a TOML file that describes a kernel and its modules",
    )
    group.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="a saved image, of any system's /dev/ksyms: served unchanged",
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


def add_version_argument(parser: ArgumentParser) -> None:
    """The option that prints the version and exits."""
    parser.add_argument(
        "-V",
        "--version",
        action="version",
        version=__version__,
        help="print the version and exit",
    )


def with_absolute_paths(args: Namespace) -> Namespace:
    """The same source options, for a process that will change its directory."""
    absolute = {k: v.absolute() for k, v in vars(args).items() if isinstance(v, Path)}
    module = [m._replace(path=m.path.absolute()) for m in args.module]
    return Namespace(**{**vars(args), **absolute, "module": module})


def source_from(args: Namespace) -> Source:
    """The source that the parsed options name.

    Raises OptionError where options contradict each other.
    """
    kinds = [k for k in ("kernel", "manifest", "image") if getattr(args, k)]
    if len(kinds) > 1:
        raise OptionError(f"--{kinds[0]} and --{kinds[1]} exclude each other")
    kind = kinds[0] if kinds else "kallsyms" if args.kallsyms else ""
    for option, owners in _NEEDS.items():
        if getattr(args, option) and kind not in owners:
            name = "-m" if option == "module" else f"--{option}"
            raise OptionError(f"{name} needs " + " or ".join(f"--{o}" for o in owners))
    match kind:
        case "kernel":
            facts = LinuxFacts(
                args.relocate, args.kallsyms, args.modules, args.sections
            )
            return ElfFiles(args.kernel, args.module, facts)
        case "kallsyms":
            return SavedTables(args.kallsyms, args.modules, args.relocate or 0)
        case "manifest":
            return Manifest(args.manifest)
        case "image":
            return SavedImage(args.image)
    return RunningFreeBSD() if sys.platform.startswith("freebsd") else RunningKernel()


# What mount(8) and fstab(5) put first when there is nothing to say.
_RUNNING = {"", "ksymsfs", "none", "running"}


def add_source(args: Namespace, source: str) -> None:
    """Enter the file *source* into *args* as the option for files of its kind.

    A name ending in .toml is a manifest, an ELF file a saved image, anything else a
    saved kallsyms; ksymsfs, running or none is the running kernel. Raises OptionError
    where the file cannot be read.
    """
    if source in _RUNNING:
        return
    path = Path(source)
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise OptionError(
            f"{source}: {error.strerror}; SOURCE is a manifest, a saved image, a saved "
            "kallsyms, or the word ksymsfs for the running kernel"
        ) from error
    if path.suffix == ".toml":
        args.manifest = path
    elif magic == b"\x7fELF":
        args.image = path
    else:
        args.kallsyms = path


# Options that say more about a source, and the sources that they say it about.
_NEEDS = {
    "module": ("kernel",),
    "sections": ("kernel",),
    "kallsyms": ("kernel", "kallsyms"),
    "modules": ("kallsyms", "kernel"),
    "relocate": ("kernel", "kallsyms"),
}


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ArgumentTypeError(f"not a number like 0x1000: {text!r}") from None


_MODULE = re.compile(
    r"(?P<path>.+)@(?P<address>0x[0-9a-fA-F]+|[0-9]+)"
    r"(?:\+(?P<size>0x[0-9a-fA-F]+|[0-9]+))?"
)


def _module_file(text: str) -> ModuleFile:
    match = _MODULE.fullmatch(text)
    if match is None:
        path = Path(text)
        if "@" in path.name and not path.exists():
            raise ArgumentTypeError(
                f"not FILE@ADDRESS+SIZE with numbers like 0xffffffff80f18000: {text!r}"
            )
        return ModuleFile(path)
    size = match["size"]
    return ModuleFile(
        Path(match["path"]), int(match["address"], 0), int(size, 0) if size else None
    )


def flavor_from(args: Namespace) -> Flavor:
    """The flavor that the parsed options name."""
    return FLAVORS[args.flavor]


def layout_from(args: Namespace, source: Source) -> Layout:
    """The layout that the parsed options name, else the flavor's.

    A saved *source* has its own, and is not to be changed: raises OptionError.
    """
    if isinstance(source, SavedImage):
        if args.layout:
            raise OptionError("--layout: a saved image has its layout already")
        return source.layout
    flavor = flavor_from(args)
    if args.layout is None:
        return flavor.layout
    if flavor is not FREEBSD:
        raise OptionError(f"--layout: the {flavor.name} flavor has its own")
    return LAYOUTS[args.layout]
