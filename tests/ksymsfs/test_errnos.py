"""Errors: which errno each becomes, and what the log says of it."""

from __future__ import annotations

import errno
import logging

import pytest

from ksymsfs.errnos import BURST, Errnos
from ksymsfs.errors import (
    ImageTooLargeError,
    KsymsFSError,
    ManifestError,
    MountError,
    RefusedError,
    RestrictedError,
    SnapshotError,
    SourceChangingError,
    SourceError,
    SourceFormatError,
)
from tests.ksymsfs.fakes import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def errnos(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> Errnos:
    caplog.set_level(logging.INFO)
    return Errnos(clock)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (SnapshotError(3, "module x is Loading"), errno.ENXIO),
        (SourceError("/proc/kallsyms", "Input/output error"), errno.ENXIO),
        (SourceChangingError("x", "changed"), errno.ENXIO),
        (SourceFormatError("table", "line 3", "no symbol"), errno.ENXIO),
        (ManifestError("k.toml", "line 3", "no symbol"), errno.ENXIO),
        (RestrictedError("/proc/kallsyms", "no addresses"), errno.EPERM),
        (ImageTooLargeError(20, 10), errno.ENOMEM),
        (MemoryError(), errno.ENOMEM),
        (OSError(errno.EMFILE, "Too many open files"), errno.ENOMEM),
        (OSError(errno.ENFILE, "Too many open files in system"), errno.ENOMEM),
        (
            caused(SourceError("x", "no"), OSError(errno.EMFILE, "Too many")),
            errno.ENOMEM,
        ),
        (caused(SourceError("x", "no"), OSError(errno.EIO, "I/O")), errno.ENXIO),
        (RefusedError(errno.EBUSY, "process 1 has it"), errno.EBUSY),
        (RefusedError(errno.ENOTTY, "no ioctl"), errno.ENOTTY),
        (MountError("/mnt", "no"), errno.EIO),
        (KsymsFSError("?"), errno.EIO),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_has_its_errno_and_one_line(
    errnos: Errnos,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
    number: int,
) -> None:
    assert errnos.of("open", error) == number
    (record,) = caplog.records
    assert record.getMessage().startswith("open: ")
    assert record.getMessage().endswith(f" ({errno.errorcode[number]})")
    assert record.exc_info is None


@pytest.mark.parametrize(
    "error",
    [
        ValueError("?"),
        KeyError(3),
        AssertionError(),
        RecursionError(),
        OSError(),
        OSError("no errno"),
        OSError(errno.EACCES, "unexpected"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_unexpected_is_eio_and_its_traceback_is_kept(
    errnos: Errnos, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    assert errnos.of("read", error) == errno.EIO
    (record,) = caplog.records
    assert record.exc_info
    assert record.levelno == logging.ERROR


def test_an_ordinary_answer_is_not_told(
    errnos: Errnos, caplog: pytest.LogCaptureFixture
) -> None:
    errnos.of("ioctl", RefusedError(errno.ENOTTY, "no ioctl", quiet=True))
    assert caplog.records == []
    caplog.set_level(logging.DEBUG)
    errnos.of("ioctl", RefusedError(errno.ENOTTY, "no ioctl", quiet=True))
    assert len(caplog.records) == 1


def test_who_is_refused_is_information_and_what_fails_is_an_error(
    errnos: Errnos, caplog: pytest.LogCaptureFixture
) -> None:
    errnos.of("open", RefusedError(errno.EBUSY, "process 1 has it"))
    errnos.of("open", SourceError("x", "gone"))

    assert [r.levelno for r in caplog.records] == [logging.INFO, logging.ERROR]


def test_the_same_is_said_once_until_another_comes(
    errnos: Errnos, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        errnos.of("open", SourceError("table", "gone"))
    errnos.of("open", SourceError("table", "empty"))

    assert [r.getMessage() for r in caplog.records] == [
        "open: table: gone (ENXIO)",
        "(99 repetitions and the like left out)",
        "open: table: empty (ENXIO)",
    ]


def test_callers_cannot_fill_the_log(
    errnos: Errnos, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for process in range(10_000):
        errnos.of("open", RefusedError(errno.EBUSY, f"process {process} has it"))
    assert len(caplog.records) == BURST

    clock.now += 3
    for process in range(10_000):
        errnos.of("open", RefusedError(errno.EBUSY, f"process {process} has it"))
    assert len(caplog.records) == BURST + 3 + 1
    assert "left out" in caplog.records[BURST].getMessage()


def test_after_a_quiet_time_a_burst_is_told_again(
    errnos: Errnos, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    for process in range(1000):
        errnos.of("open", RefusedError(errno.EBUSY, f"process {process} has it"))
    caplog.clear()
    clock.now += 10_000
    for process in range(1000):
        errnos.of("open", RefusedError(errno.EBUSY, f"process {process} has it"))

    assert len(caplog.records) == BURST + 1


def test_memory_that_is_short_is_said_in_words(
    errnos: Errnos, caplog: pytest.LogCaptureFixture
) -> None:
    errnos.of("open", MemoryError())

    assert caplog.messages == ["open: out of memory (ENOMEM)"]
