"""lockstat on the running kernel: a contended workload, and perf's own counts of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from ksyms import SymbolTable
from ksyms.contention import WRITE, Waits
from ksyms.lockstat import LOCK_FRAMES, LockNames, LockStatistics
from ksyms.perf import Recording
from ksymsfs.mkksyms import main as mkksyms
from tests.integration.server import as_nobody, environment, wait_until

pytestmark = pytest.mark.perf

# Four processes write to one file, whose semaphore is held for as long as each write.
WORK = """
import os, sys
fd = os.open(sys.argv[1] + "/file", os.O_CREAT | os.O_WRONLY)
for number in range(4):
    if os.fork() == 0:
        for turn in range(12):
            os.pwrite(fd, bytes(8 << 20), 0)
        os._exit(0)
for number in range(4):
    os.wait()
"""


@pytest.fixture(scope="module", autouse=True)
def tracefs() -> Iterator[None]:
    """Where tracefs is not mounted, perf mounts it: undone after the tests."""
    place = "/sys/kernel/tracing"
    was_mounted = os.path.isdir(f"{place}/events")
    yield
    if not was_mounted and os.path.isdir(f"{place}/events"):
        subprocess.run(["umount", place], check=True)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "ksyms"
    assert mkksyms(["-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    directory = tmp_path_factory.mktemp("work")
    with Recording(LOCK_FRAMES + 8) as recording:
        recording.run([sys.executable, "-c", WORK, str(directory)])
        assert recording.status == 0
        yield recording


def perf(recording: Recording, *words: str) -> str:
    """What perf prints of the recording."""
    result = subprocess.run(
        ["perf", *words, "-i", recording.path],
        pass_fds=[recording.fd],
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout + result.stderr


class Line(NamedTuple):
    """One event, read from perf script's output in another way than ours."""

    tid: int
    cpu: str
    nsec: int
    event: str
    lock: str


def lines(recording: Recording) -> Iterator[Line]:
    printed = perf(recording, "script", "--ns", "-F", "trace:tid,cpu,time,event,trace")
    for line in printed.splitlines():
        if ":contention_" in line:
            tid, cpu, time, event, lock, *_ = line.split()
            nsec = int(time.replace(".", "").rstrip(":"))
            yield Line(int(tid), cpu, nsec, event.strip(":"), lock)


class Recount(NamedTuple):
    """Waits of each thread, those that did not end, and nanoseconds for each lock."""

    waits: Counter[int]
    unfinished: Counter[int]
    nsec: dict[str, int]


def recount(recording: Recording) -> Recount:
    begun: dict[tuple[object, str], int] = {}
    waits: Counter[int] = Counter()
    nsec: Counter[str] = Counter()
    for line in lines(recording):
        key = (line.tid or line.cpu, line.lock)
        if line.event.endswith("begin"):
            begun.setdefault(key, line.nsec)
        elif key in begun:
            waits[line.tid] += 1
            nsec[line.lock] += line.nsec - begun.pop(key)
    unfinished = Counter(thread for thread, _ in begun if isinstance(thread, int))
    return Recount(waits, unfinished, dict(nsec))


def test_counts_and_times_are_those_of_a_recount_of_perf_script(
    recording: Recording,
) -> None:
    expected = recount(recording)

    waits = Waits(recording.events())
    found = list(waits)

    assert waits.lost == 0
    assert len(found) == expected.waits.total() > 0
    ours: Counter[str] = Counter()
    for wait in found:
        ours[f"{wait.lock:#x}"] += wait.nsec
    assert dict(ours) == expected.nsec


def test_counts_are_those_of_perf_lock(recording: Recording) -> None:
    waits, unfinished, _ = recount(recording)

    printed = perf(recording, "lock", "contention", "--threads")

    rows = re.findall(
        r"^ *(\d+) +[\d.]+ \S+ +[\d.]+ \S+ +[\d.]+ \S+ +(\d+) ", printed, re.M
    )
    # perf takes the idle threads of all CPUs for one, and counts what only begins.
    theirs = {int(tid): int(count) for count, tid in rows if int(tid) > 0}
    ours = waits + unfinished
    assert theirs == {tid: count for tid, count in ours.items() if tid > 0}


def test_the_contended_lock_is_found_and_its_callers_are_named(
    recording: Recording, image: Path
) -> None:
    names = LockNames(SymbolTable.from_bytes(image.read_bytes()))
    waits = [wait for wait in Waits(recording.events()) if wait.flags == WRITE]

    ((kind, records),) = LockStatistics(waits, recording.seconds, names, 8).events()

    assert kind.lock == "rwsem:W"
    longest = max(records, key=lambda record: record.nsec)
    stack = [names.code(frame) for frame in (longest.caller, *longest.stack)]
    assert any("pwrite64" in name for name in stack), stack
    assert not any(name.startswith(("down_write", "rwsem_")) for name in stack), stack


def test_code_has_the_names_that_perf_gives_it(
    recording: Recording, image: Path
) -> None:
    names = LockNames(SymbolTable.from_bytes(image.read_bytes()))
    lines = Path("/proc/kallsyms").read_text().splitlines()
    # Functions share names, and addresses: perf has its own idea of which one to take.
    addresses: dict[str, set[str]] = {}
    for address, _, name in (line.split()[:3] for line in lines):
        addresses.setdefault(name, set()).add(address)

    printed = perf(recording, "script", "-F", "trace:ip,sym,symoff")

    theirs = re.findall(r"^\t *([0-9a-f]{16}) (\S+)\+(0x[1-9a-f]\S*)", printed, re.M)
    assert len(theirs) > 10
    # None of them is at the start of a function, where it is not certain who is meant:
    # who was interrupted there, or who called what never returns.
    for address, name, offset in theirs:
        our_name, _, our_offset = names.code(int(address, 16)).partition("+")
        assert our_offset == offset
        assert addresses[our_name] & addresses[name]


def run_lockstat(image: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ksyms", "-k", str(image), "lockstat", *words],
        capture_output=True,
        text=True,
        env=environment(),
    )


def test_the_command_reports_after_what_it_ran(image: Path, tmp_path: Path) -> None:
    result = run_lockstat(
        image,
        "-n",
        "3",
        "-o",
        "-",
        "--",
        sys.executable,
        "-c",
        WORK + "print('done')",
        str(tmp_path),
    )

    assert (result.returncode, result.stderr) == (0, "")
    first, *report = result.stdout.splitlines()
    assert first == "done"
    assert "R/W semaphore writer block: " in result.stdout
    assert all(
        re.fullmatch(
            r"( *\d+ +\d+% +\d+% 0\.00 +\d+ \S+ +\S+|Count .* Caller|-{79}|"
            r"[\w/ -]+: \d+ events in \d+\.\d{3} seconds \(\d+ events/sec\)|)",
            line,
        )
        for line in report
    ), report


def test_the_report_goes_to_a_file_as_json_and_a_failure_is_told(
    image: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    command = ["sh", "-c", "echo from the command; exit 3"]

    result = run_lockstat(image, "-s", "4", "--json", "-o", str(report), "--", *command)

    assert (result.returncode, result.stdout) == (0, "from the command\n")
    assert result.stderr == "ksyms: lockstat: sh: exit status 3\n"
    records = json.loads(report.read_text())
    assert all(len(record["stack"]) <= 4 for record in records)


def test_what_cannot_be_seen_is_told(image: Path) -> None:
    # All threads outside a pid namespace have the number 0 in it.
    result = subprocess.run(
        [
            *("unshare", "--pid", "--fork", "--mount-proc", sys.executable),
            *("-m", "ksyms", "-k", image, "lockstat", "-A", "true"),
        ],
        capture_output=True,
        text=True,
        env=environment(),
    )

    assert result.returncode == 1
    assert "hold times cannot be had" in result.stderr
    assert "waits of processes outside this pid namespace are left out" in result.stderr


def test_an_interrupt_ends_the_command_and_not_the_report(
    image: Path, tmp_path: Path
) -> None:
    ready, report = tmp_path / "ready", tmp_path / "report"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ksyms", "-k", str(image), "lockstat"),
            *("--json", "-o", str(report), "--"),
            *("sh", "-c", f"touch {ready}; exec sleep 60"),
        ],
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    wait_until(lambda: ready.exists() or process.poll() is not None, "the command")

    os.killpg(process.pid, signal.SIGINT)

    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (
        0,
        "ksyms: lockstat: sh: ended by signal 2\n",
    )
    assert isinstance(json.loads(report.read_text()), list)


def test_perf_ends_with_the_client_even_if_that_is_killed(
    image: Path, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ksyms", "-k", str(image), "lockstat", "--"),
            *("sh", "-c", f"touch {ready}; exec sleep 60"),
        ],
        env=environment(),
        start_new_session=True,
    )
    wait_until(lambda: ready.exists() or process.poll() is not None, "the command")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(pid) for pid in children.read_text().split()]

    process.kill()
    process.wait()

    (recorder,) = (pid for pid in pids if _command(pid) == "perf")
    os.killpg(process.pid, signal.SIGKILL)  # the sleep
    wait_until(lambda: _command(recorder) != "perf", "the end of perf")


def _command(pid: int) -> str:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return ""
    name, state = re.search(r"\((.*)\) (.)", status).groups()  # type: ignore[union-attr]
    return "" if state == "Z" else name


def test_an_ordinary_user_is_told_what_it_needs(image: Path) -> None:
    words = ["-m", "ksyms", "-k", "-", "lockstat", "true"]
    result = as_nobody(*words, stdin=image.read_bytes())

    assert result.returncode == 2
    assert result.stderr.startswith("ksyms: recording what all processes do needs root")
