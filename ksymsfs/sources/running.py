"""The running Linux kernel: its symbols, its modules, and how to see them change."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import SourceChangingError, SourceError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import Source
from ksymsfs.sources.bpf_programs import jited_lengths
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.loaded_modules import LoadedModules, ModuleState
from ksymsfs.sources.modules import Module, parse_modules, require_settled
from ksymsfs.sources.symbol_watch import SymbolWatch

_CHUNK = 1 << 12  # the kernel gives a page at a time, whatever is asked for
_LOOK = 16 * _CHUNK  # bytes between two looks at the modules, read in a millisecond

log = logging.getLogger(__name__)


class _State(NamedTuple):
    # What differs after a module or another symbol came or went.
    uevents: bytes
    modules: ModuleState | None
    begun: int | None
    events: int | None


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
        self._modules = LoadedModules(proc, sys)
        self._watch = SymbolWatch(sys, enabled=events)
        self._refusal_said = False
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

        Where other CPUs are online, counting begins again, and how often it did is part
        of the value.
        """
        modules, begun = self._modules.state(), self._watch.begun()
        events = self._watch.value()
        if events is None:
            return modules, begun, self._digest(self._read_kallsyms()[0])
        return modules, begun, events

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
        _, modules, begun, events = states[0]
        listed: list[Module] = []
        if modules is not None:
            listed = parse_modules(modules.listing, self._modules.path)
            require_settled(listed, self._modules.path)
        files = self._linker_files(rest, listed)
        for file in files:
            if file.name == "bpf":
                _shorten(file, jited_lengths())
        if self._watch.refusal and not self._refusal_said:
            # Said once, to those who get symbols at all.
            log.info(
                "perf events are refused (%s): every open reads and compares "
                "%s; CAP_PERFMON or a lower kernel.perf_event_paranoid helps",
                self._watch.refusal,
                self._kallsyms,
            )
            self._refusal_said = True
        changes = self._digest(rest) if events is None else events
        return (modules, begun, changes), files

    def close(self) -> None:
        """End the perf events, close what is open."""
        self._modules.close()
        self._watch.close()

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
                    self._modules.wait()
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
        uevents = self._modules.uevents()
        modules, begun = self._modules.state(), self._watch.begun()
        return _State(uevents, modules, begun, self._watch.value())

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


def _identities_in(fingerprint: tuple[Any, ...]) -> frozenset[int]:
    modules: ModuleState | None = fingerprint[0]
    return modules.identities if modules else frozenset()
