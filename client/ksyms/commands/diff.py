"""Compare two images: symbols added, removed, moved and resized, by linker file.

Images, captures, kallsyms texts and ELF files will do. A kernel or module that moved
as a whole, as KASLR has it, says so once; its symbols are compared by their distance
from its start.
"""

from __future__ import annotations

from ksyms.diff import Entry, FileDiff, diff_images
from ksyms.image import read_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

_EPILOG = """\
Lines begin with + (added), - (removed), > (moved) and ~ (resized).

--json prints a list of {"name", "status": "common", "added" or "removed", "shift",
"symbols": [old, new], "added": [{"name", "address", "size", "type"}], "removed",
"moved": [{"name", "type", "old_address", "new_address"}], "resized": [{"name", "type",
"old_size", "new_size"}]}. Exit status: 0 no difference, 1 some, 2 unreadable input.

examples:
  ksyms diff captures/6.1 captures/6.12
  ksyms diff --summary demo.ksyms /dev/ksyms
  ksyms diff -j vmlinux.old vmlinux | jq '.[].resized'
"""


def configure(parser: ArgumentParser) -> None:
    """Add the arguments of diff to *parser*."""
    parser.epilog = _EPILOG
    parser.add_argument("old", metavar="A", help="the image to compare with")
    parser.add_argument("new", metavar="B", help="the image that may differ")
    parser.add_argument(
        "-s",
        "--summary",
        action="store_true",
        help="print one line for each linker file",
    )


def run(args: Namespace) -> int:
    """Print how args.new differs from args.old; 1 if it does."""
    found = diff_images(read_image(args.old), read_image(args.new))
    if args.json:
        from ksyms.output import print_records

        print_records(map(_record, found), args)
    else:
        for diff in found:
            print(_summary(diff))
            if not args.summary:
                for line in _lines(diff):
                    print(line)
    return 1 if found else 0


def _summary(diff: FileDiff) -> str:
    if diff.old is None or diff.new is None:
        status = "added" if diff.old is None else "removed"
        return f"{diff.name}: {status}, with {sum(diff.symbols)} symbols"
    said = [
        f"{len(found)} {word}"
        for found, word in (
            (diff.added, "added"),
            (diff.removed, "removed"),
            (diff.moved, "moved"),
            (diff.resized, "resized"),
        )
        if found
    ]
    if diff.shift:
        said.append(f"all of it by {diff.shift:+#x}")
    return f"{diff.name}: {', '.join(said)}"


def _lines(diff: FileDiff) -> Iterator[str]:
    for sign, entries in (("-", diff.removed), ("+", diff.added)):
        for e in entries:
            yield f"{sign} {e.address:016x} {e.size:016x} {e.nm_type} {e.name}"
    for old, new in diff.moved:
        yield f"> {old.address:016x} {new.address:016x} {new.nm_type} {new.name}"
    for old, new in diff.resized:
        yield f"~ {old.size:016x} {new.size:016x} {new.nm_type} {new.name}"


def _record(diff: FileDiff) -> dict[str, object]:
    status = "common"
    if diff.old is None or diff.new is None:
        status = "added" if diff.old is None else "removed"
    return {
        "name": diff.name,
        "status": status,
        "shift": diff.shift,
        "symbols": diff.symbols,
        "added": list(map(_entry, diff.added)),
        "removed": list(map(_entry, diff.removed)),
        "moved": [
            {
                "name": new.name,
                "type": new.nm_type,
                "old_address": f"{old.address:#x}",
                "new_address": f"{new.address:#x}",
            }
            for old, new in diff.moved
        ],
        "resized": [
            {
                "name": new.name,
                "type": new.nm_type,
                "old_size": old.size,
                "new_size": new.size,
            }
            for old, new in diff.resized
        ],
    }


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "address": f"{entry.address:#x}",
        "size": entry.size,
        "type": entry.nm_type,
    }
