"""Where symbols come from: each module here is one kind of source."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol

from ksymsfs.elf import ElfFormat
from ksymsfs.linker import LinkerFile


class Source(Protocol):
    """A kernel's symbols, as they are now.

    Methods raise SourceError (and its leaves) when the source cannot be read.
    """

    @property
    def name(self) -> str:
        """What messages call this source: a path, or ``running kernel``."""

    @property
    def is_live(self) -> bool:
        """Whether these are the symbols of the kernel below this process."""

    @property
    def format(self) -> ElfFormat:
        """The ELF class, byte order and machine of the image."""

    def fingerprint(self) -> Hashable:
        """A cheap value that differs whenever the symbols may have changed."""

    def linker_files(self) -> Sequence[LinkerFile]:
        """The kernel first, then its modules in load order.

        Raises SourceChangingError while a module is being loaded or unloaded.
        """

    def close(self) -> None:
        """Give back what the source holds (perf events, open files)."""
