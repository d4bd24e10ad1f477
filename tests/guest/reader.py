"""A reader of the stress test: opens the device again and again, and checks each image.

    python3 -m tests.guest.reader DEVICE REFERENCE STOP

REFERENCE is an image with `dummy` as its last module; the reader ends when the file
STOP is there, and prints what it saw as JSON. No image may be torn: with `dummy` it has
all that REFERENCE has, and without `dummy` all but that.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import sys
import time
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
        """The names of the symbols from number *start* on."""
        return {
            self.strtab[name : self.strtab.index(b"\0", name)]
            for (name,) in struct.iter_unpack("<I20x", self.symtab[24 * start :])
        }


def main() -> int:
    """Read until told to stop; the status is 1 when an image was torn."""
    device, stop = sys.argv[1], Path(sys.argv[3])
    reference = Tables.of(Path(sys.argv[2]).read_bytes())
    # Where the block of `dummy` starts: at its null symbol, before its STT_FILE one.
    last = reference.strtab.rindex(b"\0" + MODULE + b"\0") + 1
    first = next(
        number
        for number, (name,) in enumerate(struct.iter_unpack("<I20x", reference.symtab))
        if name == last
    )
    base = reference.symtab[: 24 * (first - 1)]
    wanted = reference.names(first)
    seen = {"with": 0, "without": 0, "enxio": 0, "in a row": 0, "torn": 0}
    row = 0
    while not stop.exists():
        try:
            fd = os.open(device, os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            row += 1
            seen["enxio"] += 1
            seen["in a row"] = max(row, seen["in a row"])
            time.sleep(0.05)
            continue
        row = 0
        try:
            size = os.fstat(fd).st_size
            parts = []
            while part := os.read(fd, 1 << 20):
                parts.append(part)
        finally:
            os.close(fd)
        image = b"".join(parts)
        tables = Tables.of(image)
        whole = len(image) == size and tables.symtab.startswith(base)
        if len(tables.symtab) == len(base):
            seen["without"] += 1
        else:
            seen["with"] += 1
            # Right after a load there are the symbols of its init section, too.
            whole = whole and tables.names(first) >= wanted
        seen["torn"] += not whole
    print(json.dumps(seen))
    return 1 if seen["torn"] else 0


if __name__ == "__main__":
    sys.exit(main())
