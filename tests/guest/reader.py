"""A reader of the stress test: opens the device again and again, and checks each image.

    python3 -m tests.guest.reader DEVICE REFERENCE STOP

REFERENCE is an image with `dummy` as its last module. The reader says when it first
sees an image with it, and one without; it ends when the file STOP is there, and prints
how often it saw what as JSON. An image is torn when it lacks anything of the kernel or
of another module, or has some symbols of `dummy` but not all. An open that fails with
ENXIO is tried again at once.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

MODULE = b"dummy"


class Tables(NamedTuple):
    """The two tables of an image, taken apart without any code of the project."""

    symtab: bytes
    strtab: bytes

    @classmethod
    def of(cls, image: bytes) -> Tables:
        """The sections by their number: .symtab is 1, .strtab 2 (sys/dev/ksyms)."""
        (shoff,) = struct.unpack_from("<Q", image, 0x28)
        spans = [
            struct.unpack_from("<QQ", image, shoff + 64 * number + 0x18)
            for number in (1, 2)
        ]
        for offset, size in spans:
            if offset + size > len(image):
                raise ValueError("a section ends behind the image")
        return cls(*(image[offset : offset + size] for offset, size in spans))

    def names(self, start: int) -> set[bytes]:
        """The names of the symbols from number *start* to the next null symbol."""
        records = struct.iter_unpack("<I20x", self.symtab[24 * start :])
        return {
            self.strtab[name : self.strtab.index(b"\0", name)]
            for (name,) in takewhile(lambda record: record != (0,), records)
        }


def read(device: str) -> tuple[bytes, int]:
    """One open: all the bytes, and the size that fstat(2) tells."""
    fd = os.open(device, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        parts = []
        while part := os.read(fd, 1 << 20):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts), size


class Checker:
    """What a whole image with and without the module looks like."""

    def __init__(self, reference: bytes) -> None:
        self._tables = Tables.of(reference)
        # Where the module's block starts: its null symbol stands before this one.
        name = self._tables.strtab.rindex(b"\0" + MODULE + b"\0") + 1
        records = struct.iter_unpack("<I20x", self._tables.symtab)
        self._first = next(i for i, (st_name,) in enumerate(records) if st_name == name)
        self._before = self._tables.symtab[: 24 * (self._first - 1)]
        self._names = self._tables.names(self._first)
        self._only_here = {name for name in self._names if MODULE in name}

    def look(self, image: bytes, size: int) -> str:
        """``with`` or ``without`` the module, or ``torn``."""
        tables = Tables.of(image)
        if len(image) != size or not tables.symtab.startswith(self._before):
            return "torn"
        names = tables.names(self._first)
        if MODULE not in names:
            # The end of the table, or what comes after the last module ([bpf]).
            return "torn" if names & self._only_here else "without"
        # Right after a load there are the symbols of its init section, too.
        return "with" if names >= self._names else "torn"


def main() -> int:
    """Read until told to stop, and once more; the status is 1 for a torn image."""
    device, stop = sys.argv[1], Path(sys.argv[3])
    checker = Checker(Path(sys.argv[2]).read_bytes())
    seen = {"with": 0, "without": 0, "torn": 0, "enxio": 0, "most enxio in a row": 0}
    row = 0
    while not stop.exists():
        try:
            what = checker.look(*read(device))
            if not seen[what]:
                print(what, flush=True)
            seen[what] += 1
            row = 0
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            row += 1
            seen["enxio"] += 1
            seen["most enxio in a row"] = max(row, seen["most enxio in a row"])
    # Nothing changes any longer: now it must work at once.
    seen[checker.look(*read(device))] += 1
    print(json.dumps(seen))
    return 1 if seen["torn"] else 0


if __name__ == "__main__":
    sys.exit(main())
