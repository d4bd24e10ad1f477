"""An image that was saved: ours, FreeBSD's, NetBSD's or illumos's, served as it is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np

from ksymsfs.elf import SHN, STB, STT, ElfFormat, st_info
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import Source
from ksymsfs.sources.files import files_fingerprint, read_file
from ksymsfs.sources.objectfile import ObjectFile, parse_object

MAX_IMAGE = 1 << 30


class SavedImage(Source):
    """The source that a saved image makes; its `layout` is the image itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._image = b""

    @property
    def name(self) -> str:
        return str(self._path)

    def fingerprint(self) -> Hashable:
        return files_fingerprint([self._path])

    def linker_files(self) -> Sequence[LinkerFile]:
        """The linker files that the image tells apart.

        Those of a foreign image are unnamed but for the kernel: ``#2``, ``#3`` ...
        """
        self._image = read_file(self._path, MAX_IMAGE)
        image = parse_object(self._path, BytesIO(self._image))
        if not len(image.symtab):
            raise image.error("holds no symbols")
        self._format = image.format
        return _linker_files(image)

    def layout(self, files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
        """The image as it was when `linker_files` was called last."""
        return self._image

    def close(self) -> None:
        self._image = b""


def _linker_files(image: ObjectFile) -> list[LinkerFile]:
    symtab, names = image.symtab, np.frombuffer(image.strtab, np.uint8)
    is_file = symtab["st_info"] == st_info(STB.LOCAL, STT.FILE)
    starts = np.flatnonzero(is_file & (symtab["st_size"] != 0))
    if len(starts):
        # Each has its null symbol before it.
        bounds = [*np.maximum(starts - 1, 0).tolist(), len(symtab)]
        named = symtab[starts]
        return [
            LinkerFile(
                image.name_at(s["st_name"]).decode(errors="surrogateescape"),
                int(s["st_value"]),
                int(s["st_size"]),
                symtab[first:last],
                image.strtab,
            )
            for s, (first, last) in zip(named, pairwise(bounds), strict=True)
        ]
    # Every linker file's table was copied whole, with its null symbol.
    null = (symtab["st_info"] == 0) & (symtab["st_shndx"] == SHN.UNDEF)
    null &= (symtab["st_size"] == 0) & (names[symtab["st_name"]] == 0)
    bounds = [0, *np.flatnonzero(null[1:]) + 1, len(symtab)]
    return [
        LinkerFile(
            f"#{n}" if n > 1 else "kernel", 0, 0, symtab[first:last], image.strtab
        )
        for n, (first, last) in enumerate(pairwise(bounds), 1)
    ]
