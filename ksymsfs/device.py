"""The rules of the device, as ksyms(4) has them: who may open it, and which state.

What differs from one system's device to another's is in its flavor.

No FUSE here: fs.py translates. Refusals leave as RefusedError with the manual's errno.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from ksymsfs.aside import Aside, AsideError
from ksymsfs.errors import RefusedError
from ksymsfs.flavor import FREEBSD, Flavor
from ksymsfs.generation import Generation, Generations
from ksymsfs.handle import Handle, is_held
from ksymsfs.ioctl import Ioctl
from ksymsfs.memory import Memory
from ksymsfs.process import Descriptor, Processes, ProcessId
from ksymsfs.walk import Walks

INODE = int.from_bytes(b"ksyms")
"""st_ino of every snapshot. Constant, so that cp(1), which looks before and after it
opens, does not take a newer generation for a file that was replaced."""


class Device:
    """Serves *generations* by the rules of *flavor*.

    *live* says that the symbols are those of the kernel the callers run on, which may
    hide its addresses from them; *public* that the file's mode lets others than its
    owner read. A thread id that is not positive stands for a caller that /proc does not
    show (0: one in an outer pid namespace, others only tell such callers apart): it has
    no limit of one open.
    """

    def __init__(
        self,
        generations: Generations,
        *,
        flavor: Flavor = FREEBSD,
        live: bool = True,
        public: bool = False,
        processes: Processes | None = None,
        aside: Aside | None = None,
    ) -> None:
        self.generations = generations
        self.walks = Walks(generations)
        self._flavor = flavor
        self._live = live
        self._public = public
        self._processes = processes or Processes()
        self._aside = aside or Aside()
        self._handles: dict[int, Handle] = {}
        self._owners: dict[ProcessId, Handle] = {}
        self._last = 0

    def open(self, number: int, tid: int, flags: int) -> int:
        """A handle on generation *number* for the process of thread *tid*.

        Raises RefusedError: the flavor's errno for writing, EPERM where the kernel
        would hide its addresses from the caller, EBUSY when the process has it open
        already and the flavor minds, ESTALE when the generation is no longer current;
        else what a snapshot may raise.
        """
        if self.generations.get(number) is None:  # whoever asks, the sweeper too
            raise self.walks.stale(tid, number)
        self.check_access(tid, flags)
        owner = None
        if tid > 0 and self._flavor.is_exclusive:
            owner = self._processes.identify(tid)
        try:
            if owner is not None and not self._is_free(owner):
                raise RefusedError(
                    errno.EBUSY, f"process {owner.tgid} has the device open already"
                )
            generation = self.walks.opened(tid, number)
        except RefusedError as error:
            refusal = error
            if tid > 0 and self._processes.asks_for_attributes(tid):
                refusal = RefusedError(errno.ENOTTY, "no file attributes", quiet=True)
            if refusal.errno != errno.ESTALE:
                self.walks.forget(tid)
            raise refusal from None
        handle = Handle(generation, owner)
        self._last += 1
        self._handles[self._last] = handle
        try:
            if owner is not None and generation.holders > 1:
                handle.before = frozenset(self._has(handle))
        except OSError:
            self.release(self._last)
            raise
        if owner is not None:
            self._owners[owner] = handle
        return self._last

    def check_access(self, tid: int, flags: int) -> None:
        """Raise RefusedError unless thread *tid* may open with these *flags*.

        The errno of the flavor for writing, EPERM where /proc/kallsyms would show it
        only zeros.
        """
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            raise self.write_error()
        if not self._live:
            return
        if tid > 0 and not self._processes.sees_kernel_addresses(tid):
            raise RefusedError(
                errno.EPERM,
                f"thread {tid} may not see kernel addresses: it lacks CAP_SYSLOG, or "
                "kernel.kptr_restrict hides them from everybody",
            )
        if tid <= 0 and self._public:
            raise RefusedError(
                errno.EPERM,
                "a caller in an outer pid namespace cannot be checked for CAP_SYSLOG",
            )

    def write_error(self) -> RefusedError:
        """What becomes of an attempt to write."""
        return RefusedError(self._flavor.write_errno, "the device is read-only")

    def _is_free(self, owner: ProcessId) -> bool:
        handle = self._owners.get(owner)
        if handle is None:
            return True
        # A descriptor cannot leave a process without a FLUSH.
        if not handle.flushed or self._is_held(handle, owner):
            return False
        # The RELEASE is under way, or only a mapping is left.
        del self._owners[owner]
        handle.freed = True
        return True

    def _is_held(self, handle: Handle, owner: ProcessId) -> bool:
        processes, generation = self._processes, handle.generation
        path = snapshot_path(generation.number)
        found = processes.descriptors(path, INODE, first=owner.tgid)
        siblings = [
            h
            for h in self._handles.values()
            if h.generation is generation and h is not handle
        ]
        if not siblings:
            return any(True for _ in found)
        return is_held(
            handle,
            siblings,
            processes.open_files(found),
            descends=processes.descends,
            is_mapped_by=lambda tgid: self._is_mapped_by(tgid, generation),
        )

    def _is_mapped_by(self, tgid: int, generation: Generation) -> bool:
        try:
            return self._mapped_at(tgid, generation, ("scan", tgid)) is not None
        except (AsideError, OSError):
            return True

    def _mapped_at(self, tid: int, generation: Generation, key: object) -> int | None:
        path = snapshot_path(generation.number)
        return self._aside.run(
            key, lambda late: self._processes.mapped_at(tid, path, INODE)
        )

    def read(self, number: int, size: int, offset: int) -> bytes:
        """Up to *size* bytes from *offset*; none at or past the end."""
        return self._handles[number].generation.image[offset : offset + size]

    def flush(self, number: int, tid: int) -> None:
        """Thread *tid* has closed some descriptor of the handle; maybe not the last."""
        self._handles[number].flushed = True
        if tid > 0 and any(handle.before for handle in self._owners.values()):
            self._review_before(tid)

    def _review_before(self, tid: int) -> None:
        # The descriptor that was closed may be another file's by now (dup2(2)).
        owner = self._processes.identify(tid)
        handle = self._owners.get(owner) if owner else None
        if handle is None or not handle.before:
            return
        files = self._processes.open_files(self._has(handle))
        handle.before = frozenset(
            d for file in files if handle.before.issuperset(file) for d in file
        )

    def _has(self, handle: Handle) -> Iterator[Descriptor]:
        # The descriptors of the handle's generation that its owner has.
        assert handle.owner is not None
        path = snapshot_path(handle.generation.number)
        return self._processes.descriptors_of(handle.owner.tgid, path, INODE)

    def release(self, number: int) -> None:
        """The last descriptor and the last mapping of the handle are gone."""
        handle = self._handles.pop(number)
        if handle.owner is not None and self._owners.get(handle.owner) is handle:
            del self._owners[handle.owner]
        self.generations.release(handle.generation)

    def ioctl(self, number: int, tid: int, request: int, argument: int) -> bytes:
        """What the request copies out to its caller, by the flavor's rules.

        Raises RefusedError with what ioctl(2) is to fail with.
        """
        generation = self._handles[number].generation

        def mapped_at() -> int:
            if tid <= 0:
                raise RefusedError(errno.ENXIO, "a caller in an outer pid namespace")
            try:
                address = self._mapped_at(tid, generation, number)
            except AsideError as error:
                raise RefusedError(errno.EFAULT, f"thread {tid}: {error}") from error
            except (FileNotFoundError, ProcessLookupError, PermissionError) as error:
                raise RefusedError(errno.ENXIO, str(error)) from error
            if address is None:
                raise RefusedError(errno.ENXIO, "not mapped", quiet=True)
            return address

        return self._flavor.ioctl(
            Ioctl(
                request,
                argument,
                generation.image,
                lambda: self.generations.current().image,
                mapped_at,
                Memory(tid, self._aside, number),
            )
        )


def snapshot_path(number: int) -> str:
    """The path of a generation's snapshot, from the root of the mount."""
    return f"/snapshots/{number}"
