"""The running Linux kernel: its symbols, its modules, and how to see them change."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import time
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import SourceChangingError, SourceError
from ksymsfs.kernel_file import KernelFile
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import Source
from ksymsfs.sources.bpf_programs import jited_lengths
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.ksymbol_events import KsymbolEvents
from ksymsfs.sources.modules import Module, parse_modules, require_settled

_CHUNK = 1 << 12  # the kernel gives a page at a time, whatever is asked for
_LOOK = 16 * _CHUNK  # bytes between two looks at the modules, read in a millisecond
_PATIENCE = 0.1  # seconds; for less, mostly, a module is Loading or Unloading
# Why perf events may fail today and not tomorrow; a CPU may just have gone offline.
_PASSING = {errno.ENODEV, errno.EMFILE, errno.ENFILE, errno.ENOMEM}

log = logging.getLogger(__name__)


class _State(NamedTuple):
    # What differs after a module or another symbol came or went.
    uevents: bytes
    modules: tuple[bytes, frozenset[int]] | None
    watched: Hashable
    events: int


class RunningKernel(Source):
    """The symbols of the kernel below this process.

    *proc* and *sys* are where procfs and sysfs are mounted. With *events* False, or
    where perf_event_open(2) refuses, a change is found by reading all of kallsyms.
    """

    is_live = True

    def __init__(
        self, *, proc: str = "/proc", sys: str = "/sys", events: bool = True
    ) -> None:
        self.kallsyms_reads = 0
        self._kallsyms = Path(proc, "kallsyms")
        self._modules = KernelFile(f"{proc}/modules")
        self._sys_module = f"{sys}/module"
        self._online = KernelFile(f"{sys}/devices/system/cpu/online")
        self._uevent_seqnum = KernelFile(f"{sys}/kernel/uevent_seqnum")
        self._identified = b""
        self._inodes: frozenset[int] = frozenset()
        self._events: KsymbolEvents | None = None
        self._events_cpus = b""
        self._events_begun = 0
        self._use_events = events
        self._refusal = ""
        # The lines of the kernel's own symbols, how often they were others than the
        # last time, and the linker file that they make.
        self._own = b""
        self._own_changes = 0
        self._kernel: LinkerFile | None = None

    @property
    def name(self) -> str:
        return "running kernel"

    @property
    def format(self) -> ElfFormat:
        return ElfFormat.native()

    def fingerprint(self) -> Hashable:
        """Modules with their identity, and the symbol events so far on the online CPUs.

        A module that was unloaded and loaded again at the same address has a new
        /sys/module/NAME directory. Where other CPUs are online, counting begins again,
        and how often it did is part of the value.
        """
        return self._module_state(), self._watch(), self._changes()

    def is_reloaded(self, before: Hashable, after: Hashable) -> bool:
        """Whether there are other /sys/module directories in one than in the other."""
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        return _identities_in(before) != _identities_in(after)

    def linker_files(self) -> Sequence[LinkerFile]:
        """The kernel, its modules in load order, then [bpf] and the like.

        Raises SourceError where /proc/kallsyms cannot be read, RestrictedError where
        it holds no addresses, SourceChangingError while a module comes or goes.
        """
        return self.snapshot()[1]

    def snapshot(self) -> tuple[Hashable, Sequence[LinkerFile]]:
        """The linker files of one state, and its fingerprint: see Source.

        Modules, BPF programs and the like are at the end of kallsyms, behind the
        kernel's own symbols, which take nearly all of the time to read and never
        change. Only a change while the end is read makes the table a mixture.

        A module that comes and goes again meanwhile leaves the list of modules as it
        was, but the kernel's place in it slips: symbols of others are missing, or there
        twice. Such a module has announced itself to user space, which is counted. One
        that its own init function refused has not, but stays in the list for an RCU
        grace period (kernel/module/main.c do_init_module): more than a few pages take.
        """
        rest, states = self._read_kallsyms()
        if len({*states}) != 1:
            raise SourceChangingError(self.name, "the symbols changed while being read")
        _, modules, watched, events = states[0]
        listed: list[Module] = []
        if modules is not None:
            listed = parse_modules(modules[0], self._modules.path)
            require_settled(listed, self._modules.path)
        files = self._linker_files(rest, listed)
        for file in files:
            if file.name == "bpf":
                _shorten(file, jited_lengths())
        if self._refusal:
            # Said once, to those who get symbols at all.
            log.info(
                "perf events are refused (%s): every open reads and compares "
                "%s; CAP_PERFMON or a lower kernel.perf_event_paranoid helps",
                self._refusal,
                self._kallsyms,
            )
            self._refusal = ""
        changes = self._digest(rest) if self._events is None else events
        return (modules, watched, changes), files

    def close(self) -> None:
        """End the perf events, close what is open."""
        self._modules.close()
        self._online.close()
        self._uevent_seqnum.close()
        self._end_events()

    def _end_events(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
            self._events_cpus = b""

    def _linker_files(self, rest: bytes, modules: list[Module]) -> list[LinkerFile]:
        # Those of all lines. The kernel's own are nearly all, and the same each time:
        # their linker file is made once.
        def of(text: bytes) -> list[LinkerFile]:
            return kallsyms_linker_files(
                text, modules, self.format, name=str(self._kallsyms)
            )

        if self._own and rest:
            if self._kernel is None:
                self._kernel = of(self._own)[0]
            kernel, *others = of(rest)
            if len(kernel.symtab) == 2:  # none of its lines is among the rest
                return [self._kernel, *others]
        return of(self._own + rest)

    def _read_kallsyms(self) -> tuple[bytes, list[_State]]:
        # The table behind the kernel's own lines (_own), and states: one from before
        # the kernel looked for the first line with a module (a tab is in it), some from
        # while it gave those lines, and one from behind the last. None at all where
        # they came earlier than the last time. It looks for the first one a read too
        # early, for the line behind a full page, and remembers where it found none
        # (kernel/kallsyms.c pos_mod_end).
        self.kallsyms_reads += 1
        pages, chunks = self._pages(), list[bytes]()
        looks: list[tuple[int, _State]] = []
        length, due = 0, len(self._own) - 2 * _CHUNK
        same = 0  # so many bytes are those of _own
        while True:
            if length >= due:
                if not looks:
                    self._wait_for_modules()
                looks.append((length, self._state()))
                due = length + _LOOK
            chunk = next(pages, b"")
            if not chunk:
                break
            length += len(chunk)
            if not chunks and self._own.startswith(chunk, same):
                same = length
            else:
                chunks.append(chunk)
        # Before anything else: to join the chunks takes as long as their end took.
        looks.append((length, self._state()))
        rest = self._without_own(same, b"".join(chunks))
        first, _ = looks[0]
        is_late = first > max(len(self._own) - _CHUNK, 0)
        return rest, [] if is_late else [state for _, state in looks]

    def _without_own(self, same: int, text: bytes) -> bytes:
        # What comes after the kernel's own lines in the first *same* bytes of the ones
        # from the last time and *text*.
        end = len(self._own) - same
        if text.startswith(self._own[same:]) and _has_module(text, end):
            return text[end:]
        text = self._own[:same] + text
        tab = text.find(b"\t")
        end = len(text) if tab < 0 else text.rfind(b"\n", 0, tab) + 1
        self._own = text[:end]
        self._own_changes += 1
        self._kernel = None
        return text[end:]

    def _wait_for_modules(self) -> None:
        # Have the ones that are being loaded or unloaded settle, within reason.
        end = time.monotonic() + _PATIENCE
        while (state := self._module_state()) and time.monotonic() < end:
            if state[0].count(b" Live ") == state[0].count(b"\n"):
                break
            time.sleep(_PATIENCE / 50)

    def _pages(self) -> Iterator[bytes]:
        try:
            with self._kallsyms.open("rb", buffering=0) as table:
                while chunk := table.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise SourceError(
                str(self._kallsyms), error.strerror or str(error)
            ) from error

    def _state(self) -> _State:
        # The uevents first: the list of modules is then at least as new.
        uevents = self._uevents()
        modules, watched = self._module_state(), self._watch()
        events = self._events.value() if self._events is not None else 0
        return _State(uevents, modules, watched, events)

    def _module_state(self) -> tuple[bytes, frozenset[int]] | None:
        # /proc/modules and who is who in it; None: a kernel built without modules.
        try:
            modules = self._modules.read_lines()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(
                self._modules.path, error.strerror or str(error)
            ) from error
        return modules, self._identities()

    def _uevents(self) -> bytes:
        # How many uevents there were: one at least for each module that comes or goes.
        try:
            return self._uevent_seqnum.read()
        except OSError:
            return b""

    def _identities(self) -> frozenset[int]:
        # The directories of modules, and of some parts of the kernel that have one: the
        # same ones for as long as there was no uevent.
        uevents = self._uevents()
        if not uevents or uevents != self._identified:
            self._identified = uevents
            try:
                with os.scandir(self._sys_module) as entries:
                    self._inodes = frozenset(entry.inode() for entry in entries)
            except OSError:
                self._inodes = frozenset()
        return self._inodes

    def _watch(self) -> Hashable:
        # Have the events of all online CPUs counted; how often that began.
        if not self._use_events:
            return None
        online = b"0\n"
        with contextlib.suppress(OSError):
            online = self._online.read()
        if self._events is None or online != self._events_cpus:
            self._end_events()
            try:
                self._events = KsymbolEvents(_parse_cpus(online))
            except OSError as error:
                if error.errno not in _PASSING:
                    self._refusal = error.strerror or str(error)
                    self._use_events = False
                return None
            self._events_cpus = online
            self._events_begun += 1
        return self._events_begun

    def _changes(self) -> Hashable:
        # What differs after a symbol came or went.
        if self._events is not None:
            return self._events.value()
        return self._digest(self._read_kallsyms()[0])

    def _digest(self, rest: bytes) -> Hashable:
        import hashlib  # 3 MiB of OpenSSL, which are seldom needed

        return self._own_changes, hashlib.blake2b(rest).digest()


def _has_module(text: bytes, start: int) -> bool:
    # Whether the line there, if there is one, names a module.
    return start == len(text) or b"\t" in text[start : text.find(b"\n", start)]


def _shorten(file: LinkerFile, lengths: dict[int, int]) -> None:
    # Up to the next symbol is the most that a function can be.
    for symbol in file.symtab[2:]:
        size, length = int(symbol["st_size"]), lengths.get(int(symbol["st_value"]))
        if length is not None and length < size:
            symbol["st_size"] = length


def _parse_cpus(text: bytes) -> list[int]:
    # "0-3,5": lib/vsprintf.c bitmap_list_string
    cpus: list[int] = []
    for part in text.decode().strip().split(","):
        low, _, high = part.partition("-")
        cpus.extend(range(int(low), int(high or low) + 1))
    return cpus


def _identities_in(fingerprint: tuple[Any, ...]) -> frozenset[int]:
    modules = fingerprint[0]
    return modules[1] if modules else frozenset()
