"""What sources that are files have in common: their fingerprint, and how they fail."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from ksymsfs.errors import SourceError

# Far above any kernel's, far below what would hurt.
MAX_KALLSYMS = 512 << 20
MAX_MODULES = 16 << 20

Fingerprint: TypeAlias = tuple[tuple[int, ...], ...]


def files_fingerprint(paths: Iterable[Path]) -> Fingerprint:
    """What stat(2) tells of each file: device, inode, size, time of change in ns.

    An edit in place, a rename over the file and a symlink that moves all change it, and
    so does a file that comes or goes.
    """
    return tuple(map(_identity, paths))


def _identity(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        return (error.errno or 0,)
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def read_file(path: Path, limit: int) -> bytes:
    """All bytes of a file of a source, which may be *limit* at most.

    Raises SourceError when there are more, and as `source_errors` does.
    """
    with source_errors(path), path.open("rb") as file:
        # A file of procfs does not tell its size.
        size = os.fstat(file.fileno()).st_size
        data = file.read(limit + 1) if size <= limit else b""
    if size > limit or len(data) > limit:
        raise SourceError(str(path), f"is larger than {limit} bytes")
    return data


@contextmanager
def source_errors(path: Path) -> Iterator[None]:
    """Turn the OSError of a file of the source into a SourceError that names it."""
    try:
        yield
    except SourceError:
        raise
    except OSError as error:
        name = error.filename or path
        raise SourceError(str(name), error.strerror or str(error)) from error
