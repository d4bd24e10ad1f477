"""List the symbols of the image, as nm(1) does: address, letter, name and module.

Sorted by name unless another order is asked for. Images of ksymsfs have the letters
of /proc/kallsyms, other ELF files those of nm. NAME limits the list: shell patterns,
of which one must match.
"""

from __future__ import annotations

import re
import sys
from fnmatch import translate

from ksyms.elf import SHN_ABS, SHN_COMMON, SHN_UNDEF, STT_FILE, STT_SECTION
from ksyms.image import Image, read_image
from ksyms.options import add_json_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

_EPILOG = """\
--json prints a list of {"name", "address", "size", "type", "module"}: address is
"0x..." (null where the symbol is undefined), size bytes, type the letter, module
null in the kernel itself.

examples:
  ksyms nm -n                     every symbol, by address
  ksyms nm -n 'tcp_*' 'udp_*'     some of them
  ksyms nm -S --size-sort -r      the largest first
  ksyms -k vmlinux nm -g -f posix
"""


def configure(parser: ArgumentParser) -> None:
    """Add the options of nm to *parser*."""
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help="print only what matches NAME")
    add("-g", "--extern-only", action="store_true", help="external symbols only")
    add("-n", "--numeric-sort", action="store_true", help="sort by address")
    add("-r", "--reverse-sort", action="store_true", help="sort the other way round")
    add("-S", "--print-size", action="store_true", help="print sizes too")
    add(
        "-t", "--radix", choices="dox", default="x",
        help="radix of addresses and sizes (default: x)",
    )  # fmt: skip
    add(
        "-f", "--format", choices=("bsd", "posix", "just-symbols"), default="bsd",
        help="shape of a line (default: bsd)",
    )  # fmt: skip
    add("--no-sort", action="store_true", help="keep the order of the table")
    add(
        "--size-sort", action="store_true",
        help="sort by size, and print it for the address unless -S is given",
    )  # fmt: skip
    add_json_lines(parser)


def run(args: Namespace) -> int:
    """List the symbols that *args* ask for; 1 when there is none for a NAME."""
    image = read_image(args.ksyms)
    shown = _ordered(image, _chosen(image, args), args)
    if args.json or args.json_lines:
        from ksyms.output import print_records

        print_records((_record(image, i) for i in shown), args)
    else:
        line = _line_format(image, args)
        sys.stdout.writelines(map(line, shown))
    return 1 if args.names and not shown else 0


def _chosen(image: Image, args: Namespace) -> list[int]:
    info, shndx, size = image.st_info, image.st_shndx, image.st_size
    chosen = [
        i
        for i, type_and_bind in enumerate(info)
        if type_and_bind & 15 not in (STT_SECTION, STT_FILE)
        and (type_and_bind or shndx[i] or not image.is_null(i))
    ]
    if args.extern_only:
        chosen = [i for i in chosen if info[i] >> 4 or shndx[i] == SHN_UNDEF]
    if args.size_sort:
        # As nm: neither undefined nor absolute symbols, nor those without a size.
        chosen = [i for i in chosen if size[i] and shndx[i] not in (SHN_UNDEF, SHN_ABS)]
    if args.names:
        matches = re.compile("|".join(map(translate, args.names))).match
        chosen = [i for i in chosen if matches(image.name(i))]
    return chosen


def _ordered(image: Image, chosen: list[int], args: Namespace) -> list[int]:
    if args.no_sort and not args.size_sort:
        return chosen

    def by_name(i: int) -> bytes:
        return image.name(i).encode("utf-8", "surrogateescape")

    def by_address(i: int) -> tuple[bool, int, bytes]:
        # Undefined symbols come first. Where the kernel gave an order to symbols of
        # one address, it stays.
        defined = image.st_shndx[i] != SHN_UNDEF
        value = _value(image, i) if defined else 0
        return defined, value, b"" if image.has_linker_files else by_name(i)

    def by_size(i: int) -> tuple[int, bytes]:
        return image.st_size[i], by_name(i)

    key: Callable[[int], object] = (
        by_size if args.size_sort else by_address if args.numeric_sort else by_name
    )
    return sorted(chosen, key=key, reverse=args.reverse_sort)  # type: ignore[arg-type]


def _value(image: Image, index: int) -> int:
    # The value of a common symbol is its alignment; nm prints its size.
    if image.st_shndx[index] == SHN_COMMON:
        return image.st_size[index]
    return image.st_value[index]


def _line_format(image: Image, args: Namespace) -> Callable[[int], str]:
    digits = image.bits // 4

    def number(value: int) -> str:
        return f"{value:0{digits}{args.radix}}"

    def address(i: int) -> str:
        if image.st_shndx[i] == SHN_UNDEF:
            return " " * digits
        if args.size_sort and not args.print_size:
            return number(image.st_size[i])
        return number(_value(image, i))

    def just_symbols(i: int) -> str:
        return f"{image.name(i)}\n"

    def posix(i: int) -> str:
        text = f"{image.name(i)} {image.nm_type(i)} "
        if image.st_shndx[i] == SHN_UNDEF:
            return f"{text}        \n"
        size = image.st_size[i]
        value = f"{_value(image, i):{args.radix}}"
        return f"{text}{value} {f'{size:{args.radix}}' if size else ''}\n"

    def bsd(i: int) -> str:
        size = image.st_size[i] if args.print_size else 0
        module = image.module(i)
        suffix = f"\t[{module}]" if module else ""
        return (
            f"{address(i)}{f' {number(size)}' if size else ''} {image.nm_type(i)}"
            f" {image.name(i)}{suffix}\n"
        )

    return {"just-symbols": just_symbols, "posix": posix, "bsd": bsd}[args.format]


def _record(image: Image, index: int) -> dict[str, object]:
    undefined = image.st_shndx[index] == SHN_UNDEF
    return {
        "name": image.name(index),
        "address": None if undefined else f"{_value(image, index):#x}",
        "size": image.st_size[index],
        "type": image.nm_type(index),
        "module": image.module(index),
    }
