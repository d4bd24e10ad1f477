"""Where symbols come from: each module here is one kind of source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import SourceChangingError
from ksymsfs.linker import LinkerFile


class Source(ABC):
    """A kernel's symbols, as they are now.

    Methods raise SourceError (and its leaves) when the source cannot be read.
    """

    is_live = False
    """Whether these are the symbols of the kernel below this process."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What messages call this source: a path, or ``running kernel``."""

    _format: ElfFormat | None = None  # set by linker_files

    @property
    def format(self) -> ElfFormat:
        """The ELF class, byte order and machine of the image.

        Those of the last `linker_files`, which is called if it has not been.
        """
        if self._format is None:
            self.linker_files()
        assert self._format is not None
        return self._format

    @abstractmethod
    def fingerprint(self) -> Hashable:
        """A cheap value that differs whenever the symbols may have changed."""

    def is_reloaded(self, before: Hashable, after: Hashable) -> bool:
        """Whether equal symbols of two fingerprints are those of other linker files.

        A module that was unloaded and loaded again may well lie where it lay.
        """
        return False

    @abstractmethod
    def linker_files(self) -> Sequence[LinkerFile]:
        """The kernel first, then its modules in load order.

        Raises SourceChangingError while a module is being loaded or unloaded.
        """

    def snapshot(self) -> tuple[Hashable, Sequence[LinkerFile]]:
        """The linker files of one state, and the fingerprint of that state.

        Raises SourceChangingError also when the symbols changed while they were read.
        """
        before = self.fingerprint()
        files = self.linker_files()
        if self.fingerprint() != before:
            raise SourceChangingError(self.name, "changed while it was read")
        return before, files

    def close(self) -> None:  # noqa: B027 (most sources hold nothing)
        """Give back what the source holds (perf events, open files)."""
