"""ksyms lockstat: its report, its options, and what it says when it cannot record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from ksyms import SymbolTable
from ksyms.cli import main
from ksyms.contention import MUTEX, READ, SPIN, Wait
from ksyms.lockstat import LockNames, LockStatistics
from ksyms.output import print_records
from ksyms.perf import missing
from tests.ksyms.images import kernel_image

# Functions of spinning locks and of the scheduler in their sections, as the kernel's
# linker script has them, and two callers.
KALLSYMS = b"""\
81000000 T _text
81000100 T vfs_read
81000200 T tcp_input
810002f0 t __pfx_last_one
81000300 T last_one
81000400 T __traceiter_contention_begin
81001000 T __sched_text_start
81001000 T __schedule
81001100 T mutex_lock
81001200 t mutex_lock_slow
81001300 T __sched_text_end
81001300 T __lock_text_start
81001300 T _raw_spin_lock
81001400 T queued_slowpath
81001500 T __lock_text_end
81002000 D jiffies_lock
81002040 b table_locks
81003000 B _end
80001000 t old_probe\t[old]
80001080 d old_lock\t[old]
"""
SLOWPATH, SPIN_LOCK, SCHEDULE = 0x81001410, 0x81001310, 0x81001010
MUTEX_SLOW, MUTEX_LOCK, TRACING = 0x81001210, 0x81001110, 0x81000410
VFS_READ, TCP_INPUT, OLD_PROBE = 0x81000110, 0x81000220, 0x80001010
JIFFIES, TABLE, OLD, DYNAMIC = 0x81002000, 0x81002058, 0x80001080, 0x90000000


@pytest.fixture(scope="module")
def names() -> LockNames:
    return LockNames(SymbolTable.from_bytes(kernel_image(kallsyms=KALLSYMS)))


@pytest.mark.parametrize(
    ("flags", "stack", "expected"),
    [
        pytest.param(SPIN, (SLOWPATH, SPIN_LOCK, VFS_READ), VFS_READ, id="spin"),
        pytest.param(
            SPIN, (SLOWPATH, SPIN_LOCK, SCHEDULE, VFS_READ), SCHEDULE, id="run queue"
        ),
        pytest.param(
            MUTEX | SPIN, (MUTEX_SLOW, MUTEX_LOCK, VFS_READ), VFS_READ, id="mutex"
        ),
        pytest.param(
            READ, (TCP_INPUT, MUTEX_LOCK, VFS_READ), VFS_READ, id="odd slow path"
        ),
        pytest.param(
            SPIN, (TRACING, SLOWPATH, SPIN_LOCK, VFS_READ), VFS_READ, id="tracing"
        ),
        pytest.param(SPIN, (SLOWPATH, 0x81001300), 0x81001300, id="return at the end"),
        pytest.param(SPIN, (SLOWPATH, SPIN_LOCK), 0, id="cut short"),
        pytest.param(SPIN, (), 0, id="no stack"),
    ],
)
def test_the_caller_is_the_first_outside_the_lock(
    names: LockNames, flags: int, stack: tuple[int, ...], expected: int
) -> None:
    ((_, (record,)),) = LockStatistics([Wait(1, flags, 1, stack)], 1, names).events()

    assert record.caller == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (JIFFIES, "jiffies_lock"),
        (TABLE, "table_locks+0x18"),
        (OLD, "old:old_lock"),
        (DYNAMIC, "0x90000000"),
    ],
)
def test_static_locks_have_names_and_dynamic_ones_addresses(
    names: LockNames, address: int, expected: str
) -> None:
    assert names.name(address) == expected


def test_a_return_address_belongs_to_the_call_before_it(names: LockNames) -> None:
    assert names.code(0x81000200) == "vfs_read+0x100"
    assert names.code(OLD_PROBE) == "old:old_probe+0x10"
    assert names.code(0) == "0x0"


def test_a_function_interrupted_at_its_start_is_itself(names: LockNames) -> None:
    assert names.code(0x81000300) == "last_one"


READ_STACK = (SLOWPATH, SPIN_LOCK, VFS_READ, TCP_INPUT, OLD_PROBE)
WAITS = [
    Wait(JIFFIES, SPIN, 1000, READ_STACK),
    Wait(DYNAMIC, MUTEX, 5000, (MUTEX_LOCK, TCP_INPUT)),
    Wait(JIFFIES, SPIN, 2050, READ_STACK),
    Wait(OLD, SPIN, 0, (SLOWPATH, OLD_PROBE, VFS_READ)),
    Wait(JIFFIES, SPIN, 9000, READ_STACK),
]


def test_the_report_is_lockstats(names: LockNames) -> None:
    statistics = LockStatistics(WAITS, 2.0, names)

    assert (
        "\n".join(statistics.text())
        == """
Adaptive mutex block: 1 events in 2.000 seconds (0 events/sec)

Count indv cuml rcnt     nsec Lock                   Caller
-------------------------------------------------------------------------------
    1 100% 100% 0.00     5000 0x90000000             tcp_input+0x20
-------------------------------------------------------------------------------

Spin lock spin: 4 events in 2.000 seconds (2 events/sec)

Count indv cuml rcnt     nsec Lock                   Caller
-------------------------------------------------------------------------------
    3  75%  75% 0.00     4016 jiffies_lock           vfs_read+0x10
    1  25% 100% 0.00        0 old:old_lock           old:old_probe+0x10
-------------------------------------------------------------------------------"""
    )


def test_stacks_come_with_distributions_as_lockstats_do(names: LockNames) -> None:
    statistics = LockStatistics(WAITS, 2.0, names, depth=1)

    assert "\n".join(statistics.text(1)).endswith("""
Spin lock spin: 4 events in 2.000 seconds (2 events/sec)

-------------------------------------------------------------------------------
Count indv cuml rcnt     nsec Lock                   Caller
    3  75%  75% 0.00     4016 jiffies_lock           vfs_read+0x10

      nsec ------ Time Distribution ------ count     Stack
      1024 |@@@@@@@@@@                     1         tcp_input+0x20
      2048 |                               0
      4096 |@@@@@@@@@@                     1
      8192 |                               0
     16384 |@@@@@@@@@@                     1
-------------------------------------------------------------------------------""")


def test_waits_with_different_stacks_are_apart_only_with_stacks(
    names: LockNames,
) -> None:
    waits = [
        Wait(JIFFIES, SPIN, 1, (SLOWPATH, VFS_READ, TCP_INPUT)),
        Wait(JIFFIES, SPIN, 1, (SLOWPATH, VFS_READ, OLD_PROBE)),
    ]

    counts = [
        [record.count for _, records in statistics.events() for record in records]
        for statistics in (
            LockStatistics(waits, 1, names),
            LockStatistics(waits, 1, names, depth=1),
        )
    ]

    assert counts == [[2], [1, 1]]


def test_a_kind_of_the_future_is_reported_by_its_number(names: LockNames) -> None:
    statistics = LockStatistics([Wait(OLD, 0x40, 1, ())], 1, names)

    assert "Lock 0x40 wait: 1 events in 1.000 seconds (1 events/sec)" in list(
        statistics.text()
    )


def test_json_has_the_same_figures(
    names: LockNames, capsys: pytest.CaptureFixture[str]
) -> None:
    statistics = LockStatistics(WAITS, 2.0, names, depth=2)

    print_records(statistics.rows(1), Namespace(pretty=False))

    mutex, spin = json.loads(capsys.readouterr().out)
    assert mutex["kind"] == "mutex"
    assert spin == {
        "event": "Spin lock spin",
        "kind": "spinlock",
        "count": 3,
        "indv": 75.0,
        "cuml": 75.0,
        "rcnt": 0.0,
        "nsec": 4016,
        "total_nsec": 12050,
        "lock": "jiffies_lock",
        "lock_address": "0x81002000",
        "caller": "vfs_read+0x10",
        "caller_address": "0x81000110",
        "histogram": {"1024": 1, "4096": 1, "16384": 1},
        "stack": ["tcp_input+0x20", "old:old_probe+0x10"],
    }


# -- when nothing can be recorded


def test_it_is_said_what_recording_lacks(tmp_path: Path) -> None:
    mounted = tmp_path / "mounted"
    (mounted / "events/lock").mkdir(parents=True)
    able, places = 1 << 38, [str(tmp_path / "absent"), str(mounted)]

    assert "needs root, or CAP_PERFMON" in (missing(0, places) or "")
    assert "mount -t tracefs tracefs" in (missing(able, places[:1]) or "")
    assert "no event lock:contention_begin" in (missing(able, places) or "")
    (mounted / "events/lock/contention_begin").mkdir()
    assert missing(able, places) is None


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image"
    path.write_bytes(kernel_image(kallsyms=KALLSYMS))
    return path


def lockstat(image: Path, *words: str) -> int:
    return main(["-k", str(image), "lockstat", *words])


def test_without_perf_it_is_said_how_to_get_it(
    image: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(image.parent))

    assert lockstat(image, "--", "true") == 2
    assert capsys.readouterr().err == (
        "ksyms: perf is not installed (Debian: apt install linux-perf)\n"
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param("echo no luck >&2; exit 1", "no luck", id="record"),
        pytest.param("exit 1", "it does not say why", id="silent"),
    ],
)
def test_what_perf_says_is_passed_on(
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str,
    expected: str,
) -> None:
    perf = image.parent / "perf"
    perf.write_text(f"#!/bin/sh\n{script}\n")
    perf.chmod(0o755)
    monkeypatch.setenv("PATH", f"{image.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("ksyms.perf.missing", lambda: None)

    assert lockstat(image, "true") == 2
    assert capsys.readouterr().err == f"ksyms: perf record: {expected}\n"


def test_hold_times_are_refused_with_the_reason(
    image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lockstat(image, "-H", "--", "true") == 2
    assert "hold times cannot be had" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [[], ["--"], ["-s", "0", "true"], ["-n", "x", "true"], ["-A", "-H", "true"]],
)
def test_wrong_usage_is_2(
    image: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = lockstat(image, *words)
    except SystemExit as error:
        status = int(error.code or 0)

    assert status == 2
    assert capsys.readouterr().err


def test_the_image_is_read_before_the_command_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lockstat(tmp_path / "absent", "touch", str(tmp_path / "ran")) == 2
    assert not (tmp_path / "ran").exists()
    assert "absent: No such file" in capsys.readouterr().err


def test_other_commands_do_not_load_it() -> None:
    code = "import ksyms.cli, ksyms.commands.addr2sym, sys; print(*sys.modules)"

    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ).stdout.split()

    assert not {"ksyms.lockstat", "ksyms.perf", "ksyms.contention"} & {*loaded}
