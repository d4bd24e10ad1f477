"""List the symbols as nm(1) does: address, letter, name and module.

Sorted by name unless another order is asked for. Images of ksymsfs have the letters
of /proc/kallsyms, other ELF files those of nm. NAME limits the list: shell patterns,
of which one must match.
"""

from __future__ import annotations

import sys
from itertools import islice

from ksyms.elf import SHN_ABS, SHN_UNDEF, STT_FILE, STT_SECTION
from ksyms.image import Image, indexes, read_image
from ksyms.listing import bsd_lines, nm_value, posix_lines, symbol_record
from ksyms.options import add_json_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable, Iterable

_PART = 4096  # lines

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
    names = image.names()
    shown = _ordered(image, names, _chosen(image, names, args), args)
    if args.json or args.json_lines:
        from ksyms.output import print_records

        print_records((symbol_record(image, i, names[i]) for i in shown), args)
    else:
        lines = iter(_lines(image, names, shown, args))
        # A part at a time takes less memory, and so less time.
        while part := list(islice(lines, _PART)):
            part.append("")
            sys.stdout.write("\n".join(part))
    return 1 if args.names and not shown else 0


def _lines(
    image: Image, names: list[str], shown: list[int], args: Namespace
) -> Iterable[str]:
    if args.format == "just-symbols":
        return [names[i] for i in shown]
    if args.format == "posix":
        return posix_lines(image, names, shown, args.radix)
    return bsd_lines(
        image,
        names,
        shown,
        radix=args.radix,
        with_size=args.print_size,
        size_for_value=args.size_sort and not args.print_size,
    )


def _chosen(image: Image, names: list[str], args: Namespace) -> list[int]:
    info, shndx, size = image.st_info, image.st_shndx, image.st_size
    hidden = {i for i in indexes(info, b"\0") if image.is_null(i)}
    hidden |= image.mapping_symbols
    hidden.update(image.of_types((STT_SECTION, STT_FILE)))
    chosen = list(range(len(image)))
    if len(hidden) < 1000:
        for i in sorted(hidden, reverse=True):
            del chosen[i]
    else:
        chosen = [i for i in chosen if i not in hidden]
    if args.extern_only:
        chosen = [i for i in chosen if info[i] >> 4 or shndx[i] == SHN_UNDEF]
    if args.size_sort:
        # As nm: neither undefined nor absolute symbols, nor those without a size.
        chosen = [i for i in chosen if size[i] and shndx[i] not in (SHN_UNDEF, SHN_ABS)]
    if args.names:
        import re
        from fnmatch import translate

        matches = re.compile("|".join(map(translate, args.names))).match
        chosen = [i for i in chosen if matches(names[i])]
    return chosen


def _ordered(
    image: Image, names: list[str], chosen: list[int], args: Namespace
) -> list[int]:
    # By the bytes of names, whatever the locale. Ties keep the table's order, which in
    # a kernel's is the kernel's own; in other files symbols of one address go by name.
    back = args.reverse_sort
    by_name: Callable[[int], str | bytes] = names.__getitem__
    if not image.has_ascii_names:
        by_name = [n.encode("utf-8", "surrogateescape") for n in names].__getitem__
    if args.size_sort:
        # nm sorts by address before: what is equal in size and name stays so.
        size, by_address = image.st_size, sorted(chosen, key=image.st_value.__getitem__)
        return sorted(by_address, key=lambda i: (size[i], by_name(i)), reverse=back)
    if args.no_sort:
        return chosen
    if not args.numeric_sort:
        return sorted(chosen, key=by_name, reverse=back)
    if image.has_linker_files:
        return sorted(chosen, key=image.st_value.__getitem__, reverse=back)

    def by_value(i: int) -> tuple[bool, int, str | bytes]:
        # Undefined symbols come first.
        defined = image.st_shndx[i] != SHN_UNDEF
        return defined, nm_value(image, i) if defined else 0, by_name(i)

    return sorted(chosen, key=by_value, reverse=back)
