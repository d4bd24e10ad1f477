"""The running Linux kernel: its symbols, its modules, and how to see them change."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Hashable, Sequence
from pathlib import Path

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import SourceError
from ksymsfs.linker import LinkerFile
from ksymsfs.sources.bpf_programs import jited_lengths
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.ksymbol_events import KsymbolEvents
from ksymsfs.sources.modules import Module, parse_modules, require_settled

log = logging.getLogger(__name__)


class RunningKernel:
    """The symbols of the kernel below this process.

    *proc* and *sys* are where procfs and sysfs are mounted. With *events* False, or
    where perf_event_open(2) refuses, a change is found by reading all of kallsyms.
    """

    name = "running kernel"
    is_live = True

    def __init__(
        self, *, proc: str = "/proc", sys: str = "/sys", events: bool = True
    ) -> None:
        self.format = ElfFormat.native()
        self.kallsyms_reads = 0
        self._kallsyms = Path(proc, "kallsyms")
        self._modules = Path(proc, "modules")
        self._sys_module = Path(sys, "module")
        self._online = Path(sys, "devices/system/cpu/online")
        self._events: KsymbolEvents | None = None
        self._events_cpus = b""
        self._use_events = events

    def fingerprint(self) -> Hashable:
        """Modules with their identity, the online CPUs, and the symbol events so far.

        A module that was unloaded and loaded again at the same address has a new
        /sys/module/NAME directory. Events counted on CPUs that have since gone offline
        are void, so the set of CPUs is part of the value.
        """
        modules = self._read_modules()
        identities = tuple(
            self._identity(line.split(b" ", 1)[0].decode(errors="surrogateescape"))
            for line in modules.splitlines()
        )
        return (modules, identities, *self._symbol_events())

    def linker_files(self) -> Sequence[LinkerFile]:
        """The kernel, its modules in load order, then [bpf] and the like.

        Raises SourceError where /proc/kallsyms cannot be read, RestrictedError where
        it holds no addresses, SourceChangingError while a module comes or goes.
        """
        modules: list[Module] | None = None
        if self._modules.exists():
            modules = parse_modules(self._read_modules(), str(self._modules))
            require_settled(modules, str(self._modules))
        files = kallsyms_linker_files(
            self._read_kallsyms(), modules or [], self.format, name=str(self._kallsyms)
        )
        for file in files:
            if file.name == "bpf":
                _shorten(file, jited_lengths())
        return files

    def close(self) -> None:
        """End the perf events."""
        if self._events is not None:
            self._events.close()
            self._events = None
            self._events_cpus = b""

    def _read_kallsyms(self) -> bytes:
        self.kallsyms_reads += 1
        try:
            return self._kallsyms.read_bytes()
        except OSError as error:
            raise SourceError(
                str(self._kallsyms), error.strerror or str(error)
            ) from error

    def _read_modules(self) -> bytes:
        # A kernel built without modules has no such file.
        try:
            return self._modules.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise SourceError(
                str(self._modules), error.strerror or str(error)
            ) from error

    def _identity(self, module: str) -> int:
        try:
            return (self._sys_module / module).stat().st_ino
        except OSError:
            return 0

    def _symbol_events(self) -> tuple[Hashable, ...]:
        if not self._use_events:
            return (hashlib.blake2b(self._read_kallsyms()).digest(),)
        online = b"0\n"
        with contextlib.suppress(OSError):
            online = self._online.read_bytes()
        if self._events is None or online != self._events_cpus:
            self.close()
            try:
                self._events = KsymbolEvents(_parse_cpus(online))
            except OSError as error:
                log.warning(
                    "perf events are refused (%s): every open reads and compares "
                    "%s; CAP_PERFMON or a lower kernel.perf_event_paranoid helps",
                    error.strerror,
                    self._kallsyms,
                )
                self._use_events = False
                return self._symbol_events()
            self._events_cpus = online
        return (online, id(self._events), self._events.value())


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
