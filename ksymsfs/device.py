"""The rules of the device, as ksyms(4) has them: who may open it, and which state.

What differs from one system's device to another's is in its flavor.

No FUSE here: fs.py translates. Errors leave as OSError with the errno of the manual.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from ksymsfs.aside import Aside
from ksymsfs.flavor import FREEBSD, Flavor
from ksymsfs.generation import Generation, Generations
from ksymsfs.ioctl import Ioctl
from ksymsfs.memory import Memory
from ksymsfs.process import Descriptor, Processes, ProcessId

INODE = int.from_bytes(b"ksyms")
"""st_ino of every snapshot. Constant, so that cp(1), which looks before and after it
opens, does not take a newer generation for a file that was replaced."""

_MOST_STALE = 256  # walks that are remembered to have been told ESTALE


@dataclass(eq=False, slots=True)
class Handle:
    """One open of one generation."""

    generation: Generation
    owner: ProcessId | None
    flushed: bool = False


class Device:
    """Serves *generations* by the rules of *flavor*.

    *live* says that the symbols are those of the kernel the callers run on, which may
    hide its addresses from them.
    """

    def __init__(
        self,
        generations: Generations,
        *,
        flavor: Flavor = FREEBSD,
        live: bool = True,
        processes: Processes | None = None,
        aside: Aside | None = None,
    ) -> None:
        self.generations = generations
        self._flavor = flavor
        self._live = live
        self._processes = processes or Processes()
        self._aside = aside or Aside()
        self._handles: dict[int, Handle] = {}
        self._owners: dict[ProcessId, int] = {}
        self._told_stale: dict[int, bool] = {}
        self._last = 0

    def open(self, number: int, tid: int, flags: int) -> int:
        """A handle on generation *number* for the process of thread *tid*.

        Raises OSError: the flavor's errno for writing, EPERM where the kernel would
        hide its addresses from the caller, EBUSY when the process has it open already
        and the flavor minds, ESTALE when the generation is no longer current, else what
        a snapshot may raise. *tid* 0 is a caller that this process cannot see (an outer
        pid namespace): it has no limit.
        """
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(self._flavor.write_errno, "the device is read-only")
        self.check_access(tid)
        owner = None
        if tid and self._flavor.is_exclusive:
            owner = self._processes.identify(tid)
        if owner is not None and self._has_open(owner):
            raise OSError(errno.EBUSY, f"process {owner.tgid} has the device open")
        current = self._confirm(number, tid)
        self._last += 1
        self._handles[self._last] = Handle(current, owner)
        if owner is not None:
            self._owners[owner] = self._last
        self.generations.hold(current)
        return self._last

    def check_access(self, tid: int) -> None:
        """Raise EPERM where /proc/kallsyms would show thread *tid* only zeros."""
        if self._live and tid and not self._processes.sees_kernel_addresses(tid):
            raise OSError(
                errno.EPERM, f"the kernel hides its addresses from thread {tid}"
            )

    def _confirm(self, number: int, tid: int) -> Generation:
        # ESTALE makes the kernel walk the path again, once. Where symbols change all
        # the time, what the second walk's READLINK took is a state at open, too.
        second = self._told_stale.pop(tid, False)
        generation = self.generations.confirm(number, again=second)
        if generation is None:
            while len(self._told_stale) >= _MOST_STALE:
                self._told_stale.pop(next(iter(self._told_stale)))
            self._told_stale[tid] = True
            raise OSError(errno.ESTALE, f"generation {number} is not current")
        return generation

    def _has_open(self, owner: ProcessId) -> bool:
        number = self._owners.get(owner)
        if number is None:
            return False
        handle = self._handles[number]
        # A descriptor cannot leave a process without a FLUSH.
        if handle.flushed and not self._is_held(handle):
            # The RELEASE is under way, or only a mapping is left: the slot is free.
            del self._owners[owner]
            handle.owner = None
            return False
        return True

    def _is_held(self, handle: Handle) -> bool:
        # Whether some process still has a descriptor of this very open. Descriptors
        # tell only the generation, so the opens that share it are told apart by who
        # has them: the owner of another handle explains one open file among its own.
        assert handle.owner is not None
        others = [
            h.owner.tgid
            for h in self._handles.values()
            if h is not handle and h.owner and h.generation is handle.generation
        ]
        unexplained = []
        for file in self._open_files(handle.generation):
            explained = next((d.tgid for d in file if d.tgid in others), None)
            if explained is None:
                unexplained.append(file)
            else:
                others.remove(explained)
        owner = handle.owner.tgid
        if any(self._processes.descends(d.tgid, owner) for f in unexplained for d in f):
            return True
        # A file in strange hands was passed there by the owner of a handle that has no
        # descriptor left, which is either this one or one of those still in others.
        return len(unexplained) > len(others)

    def _open_files(self, generation: Generation) -> list[list[Descriptor]]:
        files: list[list[Descriptor]] = []
        path = snapshot_path(generation.number)
        for found in self._processes.descriptors(path, INODE):
            for file in files:
                if self._processes.same_file(file[0], found):
                    file.append(found)
                    break
            else:
                files.append([found])
        return files

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Up to *size* bytes from *offset*; none at or past the end."""
        return self._handles[number].generation.image[offset : offset + size]

    def flush(self, number: int) -> None:
        """Some descriptor of the handle was closed; maybe not the last."""
        self._handles[number].flushed = True

    def release(self, number: int) -> None:
        """The last descriptor and the last mapping of the handle are gone."""
        handle = self._handles.pop(number)
        if handle.owner is not None and self._owners.get(handle.owner) == number:
            del self._owners[handle.owner]
        self.generations.release(handle.generation)

    def ioctl(self, number: int, tid: int, request: int, argument: int) -> bytes:
        """What the request copies out to its caller, by the flavor's rules.

        Raises OSError with what ioctl(2) is to fail with.
        """
        generation = self._handles[number].generation
        return self._flavor.ioctl(
            Ioctl(
                request,
                argument,
                generation.image,
                lambda: self.generations.current().image,
                lambda: self._mapped_at(tid, generation),
                Memory(tid, self._aside),
            )
        )

    def _mapped_at(self, tid: int, generation: Generation) -> int:
        suffix = snapshot_path(generation.number)

        def find() -> int:
            for mapping in self._processes.mappings(tid):
                if (
                    mapping.inode == INODE
                    and mapping.offset == 0
                    and mapping.path.endswith(suffix)
                ):
                    return mapping.address
            raise OSError(errno.ENXIO, "the caller has not mapped the snapshot")

        if not tid:
            raise OSError(errno.ENXIO, "the caller is in an outer pid namespace")
        try:
            return self._aside.run(find)
        except OSError as error:
            if error.errno in (errno.EFAULT, errno.EAGAIN):
                raise
            raise OSError(errno.ENXIO, str(error)) from error


def snapshot_path(number: int) -> str:
    """The path of a generation's snapshot, from the root of the mount."""
    return f"/snapshots/{number}"
