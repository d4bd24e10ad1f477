"""The running kernel's source, on trees that look like /proc and /sys."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ksymsfs.errors import (
    RestrictedError,
    SnapshotError,
    SourceChangingError,
    SourceError,
)
from ksymsfs.generation import Generations, take_snapshot
from ksymsfs.linker import LinkerFile
from ksymsfs.sources import ksymbol_events, loaded_modules, symbol_watch
from ksymsfs.sources.kallsyms import kallsyms_linker_files
from ksymsfs.sources.modules import parse_modules
from ksymsfs.sources.running import RunningKernel

TABLE = """\
ffffffff81000000 T _text
ffffffff81000040 t do_one
ffffffffc0101000 t x_init\t[x]
"""


class Kernel:
    """A described kernel: edit *proc* and *sys* as the kernel would."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        (self.sys / "module").mkdir(parents=True)
        (self.sys / "devices/system/cpu").mkdir(parents=True)
        self.proc.mkdir()
        self.write("kallsyms", TABLE)
        self.load("x", "Live")
        (self.sys / "devices/system/cpu/online").write_text("0-1\n")

    def write(self, name: str, text: str) -> None:
        (self.proc / name).write_text(text)

    def load(self, module: str, state: str) -> None:
        self.write("modules", f"{module} 4096 0 - {state} 0xffffffffc0101000\n")
        (self.sys / "module" / module).mkdir(exist_ok=True)

    def source(self) -> RunningKernel:
        return RunningKernel(proc=str(self.proc), sys=str(self.sys), events=False)


class Events:
    """Stands in for KsymbolEvents: counts what the test says."""

    def __init__(self) -> None:
        self.count = 0

    def value(self) -> int:
        return self.count

    def close(self) -> None:
        pass


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_an_unchanged_kernel_keeps_its_fingerprint(kernel: Kernel) -> None:
    source = kernel.source()

    assert source.fingerprint() == source.fingerprint() == source.snapshot()[0]


def test_another_symbol_changes_the_fingerprint(kernel: Kernel) -> None:
    source = kernel.source()
    before = source.fingerprint()

    kernel.write("kallsyms", TABLE + "ffffffffc0201000 t bpf_prog_1_y\t[bpf]\n")

    assert source.fingerprint() != before


def test_a_module_loaded_again_at_its_old_address_changes_the_fingerprint(
    kernel: Kernel,
) -> None:
    source = kernel.source()
    before = source.fingerprint()

    module = kernel.sys / "module/x"
    (kernel.sys / "module/keeps_the_inode_busy").mkdir()
    module.rename(kernel.sys / "module/old")
    module.mkdir()

    assert source.fingerprint() != before


@pytest.mark.parametrize("state", ["Loading", "Unloading"])
def test_a_module_in_motion_is_no_consistent_snapshot(
    kernel: Kernel, state: str
) -> None:
    kernel.load("x", state)

    with pytest.raises(SnapshotError, match=f"in 3 tries: .*module x is {state}"):
        take_snapshot(kernel.source())


def test_a_module_that_settles_soon_is_waited_for(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.load("x", "Unloading")
    monkeypatch.setattr("time.sleep", lambda _: kernel.load("y", "Live"))
    source = kernel.source()

    _, files = take_snapshot(source)

    assert [file.name for file in files] == ["kernel", "y", "x"]
    assert source.kallsyms_reads == 1


def test_a_kernel_without_modules_has_no_proc_modules(kernel: Kernel) -> None:
    (kernel.proc / "modules").unlink()
    kernel.write("kallsyms", "ffffffff81000000 T _text\n")

    _, (file,) = kernel.source().snapshot()

    assert file.name == "kernel"


def test_every_snapshot_is_that_of_the_table_whatever_was_read_before(
    kernel: Kernel,
) -> None:
    def said(files: Sequence[LinkerFile]) -> list[tuple[str, bytes, bytes]]:
        return [(f.name, f.symtab.tobytes(), f.strtab) for f in files]

    source = kernel.source()
    own = OWN + "ffffffff81fffff0 t last\n"
    tables = [
        *(own, own + MODULE, own + MODULE.replace("t", "T"), own, OWN + MODULE),
        *(own + MODULE, OWN, own, own.replace("_9\n", "_8\n"), MODULE, own + MODULE),
        *(own + MODULE + "ffffffff82000000 t stray\n", own + MODULE, MODULE + own),
    ]
    for table in tables:
        kernel.write("kallsyms", table)
        modules = parse_modules((kernel.proc / "modules").read_bytes())
        files = kallsyms_linker_files(table.encode(), modules, source.format)

        assert said(take_snapshot(source)[1]) == said(files)


def test_the_kernels_own_symbols_are_the_same_object_while_they_do_not_change(
    kernel: Kernel,
) -> None:
    source = kernel.source()
    _, (before, *_) = source.snapshot()
    kernel.write("kallsyms", TABLE + "ffffffffc0201000 t bpf_prog_1_y\t[bpf]\n")

    _, (after, *_) = source.snapshot()

    assert after is before


def test_a_failing_kallsyms_is_named_with_the_reason(kernel: Kernel) -> None:
    (kernel.proc / "kallsyms").unlink()
    (kernel.proc / "kallsyms").mkdir()

    with pytest.raises(SourceError, match=r"proc/kallsyms: Is a directory"):
        kernel.source().snapshot()


def test_a_hidden_table_is_refused_with_the_remedy(kernel: Kernel) -> None:
    kernel.write("kallsyms", "0000000000000000 T _text\n")

    with pytest.raises(RestrictedError, match=r"kernel\.kptr_restrict"):
        kernel.source().snapshot()


def test_refused_perf_events_are_said_once_and_the_table_is_compared_instead(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ksymbol_events, "_NR_PERF_EVENT_OPEN", {})
    source = RunningKernel(proc=str(kernel.proc), sys=str(kernel.sys))

    with caplog.at_level(logging.INFO):
        before, _ = source.snapshot()
        kernel.write("kallsyms", TABLE.replace("do_one", "do_two"))
        after, _ = source.snapshot()

    assert before != after == source.fingerprint()
    assert [r.message.split(" (")[0] for r in caplog.records] == [
        "perf events are refused"
    ]


def test_where_there_are_no_symbols_nothing_is_said_of_perf_events(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ksymbol_events, "_NR_PERF_EVENT_OPEN", {})
    kernel.write("kallsyms", "0000000000000000 T _text\n")
    source = RunningKernel(proc=str(kernel.proc), sys=str(kernel.sys))

    with caplog.at_level(logging.INFO), pytest.raises(RestrictedError):
        source.snapshot()

    assert caplog.records == []


def test_other_cpus_online_change_the_fingerprint(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[list[int]] = []

    def events(cpus: list[int]) -> Events:
        opened.append(cpus)
        return Events()

    monkeypatch.setattr(symbol_watch, "KsymbolEvents", events)
    source = RunningKernel(proc=str(kernel.proc), sys=str(kernel.sys))
    found = set()
    for online in ["0-1", "0,2-3"] * 10:  # on who is offline nobody counts
        (kernel.sys / "devices/system/cpu/online").write_text(f"{online}\n")
        found.add(source.fingerprint())

    assert len(found) == 20
    assert opened == [[0, 1], [0, 2, 3]] * 10


def test_a_cpu_that_goes_offline_just_then_is_no_refusal_for_good(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(errno.ENODEV, "perf_event_open: No such device")]

    def events(cpus: list[int]) -> Events:
        if failures:
            raise failures.pop()
        return Events()

    monkeypatch.setattr(symbol_watch, "KsymbolEvents", events)
    source = RunningKernel(proc=str(kernel.proc), sys=str(kernel.sys))
    source.fingerprint()
    reads = source.kallsyms_reads
    assert reads  # compared instead

    assert source.fingerprint() == source.fingerprint()
    assert source.kallsyms_reads == reads


OWN = "".join(
    f"{0xFFFFFFFF81000000 + 16 * number:x} t function_{number}\n"
    for number in range(1000)
)
"""Many pages of the kernel's own symbols."""

MODULE = TABLE.splitlines(keepends=True)[-1] * 5000
"""As many of a module's."""


def when_read(
    monkeypatch: pytest.MonkeyPatch, position: int, change: Callable[[int], object]
) -> None:
    """Call *change* with 1, 2, ... each time that kallsyms is read at *position*."""
    pages = RunningKernel._pages

    def watched(source: RunningKernel) -> Iterator[bytes]:
        length = 0
        for page in pages(source):
            if length <= position < length + len(page):
                change(source.kallsyms_reads)
            length += len(page)
            yield page

    monkeypatch.setattr(RunningKernel, "_pages", watched)


@pytest.mark.parametrize("position", [0, 5000, len(OWN) - 10000])
def test_a_module_may_come_while_the_kernels_own_symbols_are_read(
    position: int, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.write("kallsyms", OWN + MODULE)
    source = kernel.source()
    take_snapshot(source)
    when_read(monkeypatch, position, lambda _: kernel.load("y", "Live"))

    _, files = take_snapshot(source)

    assert [file.name for file in files] == ["kernel", "y", "x"]
    assert source.kallsyms_reads == 2


@pytest.mark.parametrize(
    "position",
    [len(OWN) - 1, len(OWN), len(OWN) + len(MODULE) // 2, len(OWN + MODULE) - 1],
    ids=["looking ahead", "first", "middle", "last"],
)
def test_a_module_that_comes_while_those_of_modules_are_read_fails_the_try(
    position: int, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.write("kallsyms", OWN + MODULE)
    source = kernel.source()
    take_snapshot(source)
    when_read(monkeypatch, position, lambda read: kernel.load(f"y{read}", "Live"))

    with pytest.raises(SnapshotError, match="changed while being read"):
        take_snapshot(source)

    assert source.kallsyms_reads == 4


def test_a_module_refused_by_its_init_function_is_seen_while_it_is_loading(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a uevent: Debian's kvm_intel, where there is no VMX.
    kernel.write("kallsyms", OWN + MODULE)
    source = kernel.source()
    take_snapshot(source)
    calm = (kernel.proc / "modules").read_text()
    when_read(monkeypatch, len(OWN), lambda _: kernel.load("y", "Loading"))
    gone = len(OWN) + 20 * 4096
    when_read(monkeypatch, gone, lambda _: kernel.write("modules", calm))

    with pytest.raises(SnapshotError, match="changed while being read"):
        take_snapshot(source)


@pytest.mark.parametrize(
    "table", [TABLE, OWN[: OWN.index("f" * 8, 5000)]], ids=["a module", "no module"]
)
def test_a_table_with_fewer_symbols_of_the_kernels_own_is_read_again(
    table: str, kernel: Kernel
) -> None:
    kernel.write("kallsyms", OWN + MODULE)
    source = kernel.source()
    take_snapshot(source)
    kernel.write("kallsyms", table)

    _, (own, _) = take_snapshot(source)

    assert len(own.symtab) - 2 == sum("\t" not in x for x in table.splitlines())
    assert source.kallsyms_reads == 3


def test_a_bpf_program_that_comes_while_those_of_modules_are_read_fails_the_try(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Events()
    monkeypatch.setattr(symbol_watch, "KsymbolEvents", lambda cpus: events)
    kernel.write("kallsyms", OWN + MODULE)
    source = RunningKernel(proc=str(kernel.proc), sys=str(kernel.sys))
    take_snapshot(source)

    def come(read: int) -> None:
        events.count = read

    when_read(monkeypatch, len(OWN), come)
    with pytest.raises(SnapshotError, match="changed while being read"):
        take_snapshot(source)

    assert source.kallsyms_reads == 4


def test_a_module_that_comes_and_goes_while_the_table_is_read_is_a_try_that_failed(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its lines shift those of other modules, and /proc/modules is then as it was.
    seqnum = kernel.sys / "kernel/uevent_seqnum"
    seqnum.parent.mkdir()
    seqnum.write_text("620\n")
    source = kernel.source()
    when_read(monkeypatch, 0, lambda _: seqnum.write_text("628\n"))

    take_snapshot(source)

    assert source.kallsyms_reads == 2


def test_a_module_loaded_again_where_it_lay_is_a_new_generation(kernel: Kernel) -> None:
    # As on 6.12: equal symbols at equal addresses, and another module all the same.
    generations = Generations(kernel.source(), lambda files, fmt: files[0].strtab)
    first = generations.current()
    assert generations.current() is first

    module = kernel.sys / "module/x"
    (kernel.sys / "module/keeps_the_inode_busy").mkdir()
    module.rename(kernel.sys / "module/old")
    module.mkdir()
    second = generations.current()

    assert second.image == first.image
    assert second.number == first.number + 1


@pytest.mark.parametrize("release", ["5.10", "6.1", "6.12"])
def test_a_recorded_load_is_refused_while_it_lasts_and_each_is_another_generation(
    release: str, data: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded_modules, "_PATIENCE", 0)
    (kernel.sys / "kernel").mkdir()
    source = kernel.source()
    calm = (kernel.proc / "modules").read_text()
    seen: dict[str, list[object]] = {"Live": [], "": []}
    sizes: dict[str, set[str]] = {}
    inode = "0"
    for step in (data / "debian" / release / "motion.txt").read_text().splitlines():
        uevents, now, *module = step.split()
        if inode not in ("0", now):
            (kernel.sys / "module/dummy").rename(kernel.sys / f"module/old{inode}")
        if now != "0":
            (kernel.sys / "module/dummy").mkdir(exist_ok=True)
        inode = now
        kernel.write("modules", f"{' '.join(module)}\n{calm}")
        (kernel.sys / "kernel/uevent_seqnum").write_text(f"{uevents}\n")
        state = module[4] if module else ""
        if module:
            sizes.setdefault(state, set()).add(module[1])
        try:
            fingerprint, _ = source.snapshot()
        except SourceChangingError:
            assert state in ("Loading", "Unloading")
        else:
            if fingerprint not in seen[state]:
                seen[state].append(fingerprint)

    assert len(seen["Live"]) == 2
    # The init part has left when it is Live, so /proc/modules tells of that, too.
    assert max(map(int, sizes["Live"])) < max(map(int, sizes["Loading"]))
    assert len(sizes["Live"]) == 1
