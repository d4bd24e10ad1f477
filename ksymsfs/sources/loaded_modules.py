"""The modules of the running kernel: which there are, and whether they are others."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from ksymsfs.errors import SourceError
from ksymsfs.kernel_file import KernelFile

_PATIENCE = 0.1  # seconds; for less, mostly, a module is Loading or Unloading


class ModuleState(NamedTuple):
    """What differs after a module came or went."""

    listing: bytes
    """/proc/modules."""
    identities: frozenset[int]
    """The inode numbers of the directories in /sys/module. A module that was unloaded
    and loaded again at the same address has a new one."""


class LoadedModules:
    """What procfs at *proc* and sysfs at *sys* tell of the modules."""

    def __init__(self, proc: str, sys: str) -> None:
        self._listing = KernelFile(f"{proc}/modules")
        self._directory = f"{sys}/module"
        self._uevent_seqnum = KernelFile(f"{sys}/kernel/uevent_seqnum")
        self._identified = b""
        self._inodes: frozenset[int] = frozenset()

    @property
    def path(self) -> str:
        """The list of modules."""
        return self._listing.path

    def state(self) -> ModuleState | None:
        """The modules now; None of a kernel built without modules.

        Raises SourceError where the list cannot be read.
        """
        try:
            listing = self._listing.read_lines()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(self.path, error.strerror or str(error)) from error
        return ModuleState(listing, self._identities())

    def uevents(self) -> bytes:
        """How many uevents there were: one at least for each that comes or goes."""
        try:
            return self._uevent_seqnum.read()
        except OSError:
            return b""

    def wait(self) -> None:
        """Have those that are being loaded or unloaded settle, within reason."""
        end = time.monotonic() + _PATIENCE
        while (state := self.state()) and time.monotonic() < end:
            if state.listing.count(b" Live ") == state.listing.count(b"\n"):
                break
            time.sleep(_PATIENCE / 50)

    def close(self) -> None:
        """Close what is open."""
        self._listing.close()
        self._uevent_seqnum.close()

    def _identities(self) -> frozenset[int]:
        # The directories of modules, and of some parts of the kernel that have one: the
        # same ones for as long as there was no uevent.
        uevents = self.uevents()
        if not uevents or uevents != self._identified:
            self._identified = uevents
            try:
                with os.scandir(self._directory) as entries:
                    self._inodes = frozenset(entry.inode() for entry in entries)
            except OSError:
                self._inodes = frozenset()
        return self._inodes
