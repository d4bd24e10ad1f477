"""What stands for kernel, clock and processes where the device's rules are tested."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ksymsfs.aside import Aside
from ksymsfs.device import Device
from ksymsfs.elf import ElfFormat
from ksymsfs.errors import SourceChangingError
from ksymsfs.flavor import FREEBSD, Flavor
from ksymsfs.generation import Generations
from ksymsfs.linker import LinkerFile
from ksymsfs.process import Descriptor, Mapping, Processes, ProcessId
from ksymsfs.sources import Source


class FakeClock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeSource(Source):
    """A kernel in state *state*; *meanwhile* are the states it takes while read."""

    name = "fake kernel"
    format = ElfFormat()

    def __init__(self) -> None:
        self.state = 1
        self.announced = 0
        self.meanwhile: list[int] = []
        self.loading = ""
        self.error: BaseException | None = None
        self.reads = 0
        self.size = 1

    def fingerprint(self) -> Hashable:
        if self.error is not None:
            raise self.error
        return self.state, self.announced

    def linker_files(self) -> Sequence[LinkerFile]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        if self.loading:
            raise SourceChangingError(self.name, f"module {self.loading} is Loading")
        symtab = np.zeros(self.size, self.format.sym_dtype)
        file = LinkerFile("kernel", 0x1000, 1, symtab, b"%d\0" % self.state)
        if self.meanwhile:
            self.state = self.meanwhile.pop(0)
        return [file]


def build(files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
    """An image that tells the state, and is as long as the table."""
    return b"image %s" % files[0].strtab[:-1] + files[0].symtab.tobytes()


class FakeProcesses(Processes):
    """Processes that are as the test says."""

    def __init__(self) -> None:
        super().__init__("/nonexistent")
        self.threads: dict[int, ProcessId] = {}
        self.trusted: set[int] = set()
        self.files: list[tuple[str, set[int]]] = []
        """Open files: the path, and who has it as descriptor number *index*."""
        self.same: dict[int, int] = {}
        """Descriptor numbers that are dups of others."""
        self.maps: dict[int, list[Mapping]] = {}
        self.parents: dict[int, int] = {}
        self.asking_for_attributes: set[int] = set()
        self.scans = 0
        self.error: OSError | None = None

    def process(self, tgid: int, *tids: int, start: int = 1) -> ProcessId:
        """There is a process of these threads."""
        found = ProcessId(tgid, start)
        for tid in (tgid, *tids):
            self.threads[tid] = found
        return found

    def identify(self, tid: int) -> ProcessId | None:
        if self.error is not None:
            raise self.error
        return self.threads.get(tid)

    def sees_kernel_addresses(self, tid: int) -> bool:
        return tid in self.trusted

    def asks_for_attributes(self, tid: int) -> bool:
        return tid in self.asking_for_attributes

    def descriptors(
        self, suffix: str, inode: int, *, first: int = 0
    ) -> Iterator[Descriptor]:
        self.scans += 1
        return self._found(suffix)

    def _found(self, suffix: str) -> Iterator[Descriptor]:
        for number, (path, holders) in enumerate(self.files):
            if path.endswith(suffix):
                yield from (Descriptor(tgid, tgid, number) for tgid in sorted(holders))

    def descriptors_of(
        self, tgid: int, suffix: str, inode: int
    ) -> Iterator[Descriptor]:
        return (d for d in self._found(suffix) if d.tgid == tgid)

    def open_files(self, found: Iterable[Descriptor]) -> list[list[Descriptor]]:
        files: dict[int, list[Descriptor]] = {}
        for descriptor in found:
            number = self.same.get(descriptor.fd, descriptor.fd)
            files.setdefault(number, []).append(descriptor)
        return list(files.values())

    def descends(self, tgid: int, ancestor: int) -> bool:
        while tgid in self.parents:
            tgid = self.parents[tgid]
            if tgid == ancestor:
                return True
        return False

    def mappings(self, tid: int) -> Iterator[Mapping]:
        if self.error is not None:
            raise self.error
        return iter(self.maps.get(tid, []))


class World:
    """A device of fakes, and what processes do with it."""

    def __init__(
        self,
        *,
        flavor: Flavor = FREEBSD,
        live: bool = False,
        public: bool = False,
        limit: int | None = None,
    ) -> None:
        self.clock = FakeClock()
        self.source = FakeSource()
        self.dropped: list[int] = []
        self.generations = Generations(
            self.source,
            build,
            limit=limit,
            clock=self.clock,
            dropped=self.dropped.append,
        )
        self.processes = FakeProcesses()
        self.aside = Aside(seconds=5)
        self.device = Device(
            self.generations,
            flavor=flavor,
            live=live,
            public=public,
            processes=self.processes,
            aside=self.aside,
        )

    def walk(self, tid: int) -> int:
        """READLINK and LOOKUP by thread *tid*: the number of a generation."""
        number = self.device.walks.named(tid).number
        self.device.walks.found(tid, number)
        return number

    def open(self, tid: int, flags: int = 0) -> int:
        """What open(2) does: a walk, another after ESTALE; then the file is there."""
        for retries in (1, 0):
            number = self.walk(tid)
            try:
                handle = self.device.open(number, tid, flags)
            except OSError as error:
                if not retries or error.errno != 116:  # ESTALE
                    raise
                continue
            holder = self.processes.identify(tid)
            if holder is not None:
                self.processes.files.append((f"/mnt/snapshots/{number}", {holder.tgid}))
            return handle
        raise AssertionError("unreachable")


class ProcTree:
    """A directory that looks like /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = root.parent / "mnt" / "snapshots"
        self.files.mkdir(parents=True)
        root.mkdir()
        (root / "sys/kernel").mkdir(parents=True)
        self.sysctl(kptr_restrict=1, perf_event_paranoid=2)

    def sysctl(self, **values: int) -> None:
        """Set kernel.NAME."""
        for name, value in values.items():
            (self.root / "sys/kernel" / name).write_text(f"{value}\n")

    def process(
        self,
        tgid: int,
        *tids: int,
        name: str = "program",
        start: int = 5,
        parent: int = 1,
        capabilities: int = 0,
        namespace: str = "user:[4026531837]",
    ) -> None:
        """There is a process of these threads."""
        for tid in (tgid, *tids):
            for directory in {
                self.root / str(tid),
                self.root / str(tgid) / "task" / str(tid),
            }:
                (directory / "fd").mkdir(parents=True, exist_ok=True)
                (directory / "fdinfo").mkdir(exist_ok=True)
                (directory / "ns").mkdir(exist_ok=True)
                (directory / "ns/user").symlink_to(namespace)
                (directory / "status").write_text(
                    f"Name:\t{name}\nState:\tS (sleeping)\nTgid:\t{tgid}\nPid:\t{tid}\n"
                    f"PPid:\t{parent}\nCapEff:\t{capabilities:016x}\n"
                )
                (directory / "stat").write_text(
                    f"{tid} ({name}) S 1 1 1 0 -1 4194560 1 1 0 0 0 0 0 0 20 0 1 0 "
                    f"{start if tid == tgid else start + 100} 1 1\n"
                )

    def snapshot(self, number: int) -> Path:
        """The file of a generation."""
        path = self.files / str(number)
        path.touch()
        return path

    def descriptor(
        self, tgid: int, fd: int, target: Path | str, *, flags: int = 0, tid: int = 0
    ) -> None:
        """The thread's table has this descriptor of the file *target*."""
        task = self.root / str(tgid) / "task" / str(tid or tgid)
        (task / "fd" / str(fd)).symlink_to(target)
        (task / "fdinfo" / str(fd)).write_text(f"pos:\t0\nflags:\t{flags:07o}\n")
