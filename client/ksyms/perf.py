"""Records the kernel's lock events while a command runs, with perf-record(1)."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from ksyms.contention import Event, Lost, parse_events
from ksyms.errors import RecordingError

_BEGIN, _END = "lock:contention_begin", "lock:contention_end"
_MOST_FRAMES = "/proc/sys/kernel/perf_event_max_stack"
_TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
# perfmon_capable() of the kernel: CAP_SYS_ADMIN or CAP_PERFMON.
_CAPABILITIES = 1 << 21 | 1 << 38

# The inode of the first pid namespace: PROC_PID_INIT_INO of the kernel.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC

# perf reads its own configuration, which can change what it prints, and speaks the
# user's language.
_ENVIRONMENT = {"PERF_CONFIG": os.devnull, "LC_ALL": "C"}


class Recording:
    """What the kernel did to locks, on all CPUs, while one command ran.

    *depth* is the number of stack frames that are kept of each wait, as far as
    kernel.perf_event_max_stack lets them. The file has no
    name, so that nothing of it stays whatever happens; *path* is for perf, which
    inherits *fd*.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._file = tempfile.TemporaryFile(prefix="ksyms-lockstat")  # noqa: SIM115
        self.fd = self._file.fileno()
        self.path = f"/proc/self/fd/{self.fd}"
        self.seconds = 0.0
        self.status = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def run(self, command: Sequence[str]) -> None:
        """Record while *command* runs; then *seconds* and *status* are what it took.

        *status* is its exit status, or minus the signal that ended it. Raises
        RecordingError where nothing can be recorded, OSError where *command* cannot be
        run.
        """
        with _Recorder(self._depth, self.path, self.fd) as recorder:
            recorder.tell("enable")
            started = time.monotonic()
            self.status = _run(command)
            self.seconds = time.monotonic() - started
            recorder.tell("disable")

    def events(self) -> Iterator[Event | Lost]:
        """The recorded events, in the order of time.

        Where not all threads have numbers, those of threads without one are left out.
        """
        all_threads = sees_all_threads()
        for event in self._printed():
            if all_threads or isinstance(event, Lost) or event.tid > 0:
                yield event

    def _printed(self) -> Iterator[Event | Lost]:
        command = [
            *(_perf(), "script", "-i", self.path, "--ns", "--show-lost-events"),
            *("-F", "trace:tid,cpu,time,event,trace,ip", "-F", "sw:tid,cpu,time,event"),
        ]
        with (
            tempfile.TemporaryFile() as errors,
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=[self.fd],
                env=os.environ | _ENVIRONMENT,
                text=True,
                encoding="ascii",
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            yield from parse_events(process.stdout)
            if process.wait() != 0:
                raise RecordingError(f"perf script failed: {_said(errors)}")


class _Recorder:
    # A running perf record. It records as long as its own command, a cat, has not read
    # to the end of a pipe that this process holds: so it ends whenever this one does.
    def __init__(self, depth: int, path: str, fd: int) -> None:
        perf = _perf()
        with suppress(OSError, ValueError):
            depth = min(depth, int(Path(_MOST_FRAMES).read_text()))
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        command = [
            *(perf, "record", "-q", "-a", "-o", path, "-m", "2M"),
            *("-D", "-1", f"--control=fd:{commands},{answers}", "--kernel-callchains"),
            *("-e", f"{_BEGIN}/call-graph=fp,max-stack={depth}/", "--exclude-perf"),
            *("-e", f"{_END}/call-graph=no/", "--exclude-perf", "--", "cat"),
        ]
        try:
            # In a session of its own: ^C is for the command that is measured.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                pass_fds=[fd, commands, answers],
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(commands)
            os.close(answers)

    def _close(self) -> None:
        os.close(self._commands)
        os.close(self._answers)
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        failed = error is None and self._process.returncode != 0
        said = _said(self._errors)
        self._close()
        if failed:
            raise RecordingError(f"perf record failed: {said}")

    def tell(self, word: str) -> None:
        """Give perf a command, and wait until it has obeyed."""
        with suppress(BrokenPipeError):
            os.write(self._commands, f"{word}\n".encode())
            while self._process.poll() is None:
                if select.select([self._answers], [], [], 0.5)[0]:
                    if os.read(self._answers, 64):
                        return
                    break
        self._process.wait()
        raise RecordingError(missing() or f"perf record: {_said(self._errors)}")


def _run(command: Sequence[str]) -> int:
    # An interrupt ends the command, not this process, which has yet to report. A
    # handler, unlike SIG_IGN, is not inherited by what is executed.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)


def _perf() -> str:
    path = shutil.which("perf")
    if path is None:
        raise RecordingError("perf is not installed (Debian: apt install linux-perf)")
    return path


def _said(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    words = [line.strip() for line in lines if line.strip() not in ("", "Error:")]
    return " ".join(words[:3]) or "it does not say why"


def sees_all_threads(namespace: str = "/proc/self/ns/pid") -> bool:
    """Whether all threads have numbers here: whether this is the first pid namespace.

    In any other, perf gives all threads outside of it the number 0.
    """
    return os.stat(namespace).st_ino == _FIRST_PID_NAMESPACE


def missing(
    capabilities: int | None = None, tracefs: Sequence[str] = _TRACEFS
) -> str | None:
    """What keeps this process from recording, and what to do; None: nothing known.

    *capabilities* are the process's own (CapEff) by default; *tracefs* are the places
    where that file system may be mounted.
    """
    if capabilities is None:
        status = Path("/proc/self/status").read_text()
        capabilities = int(status.partition("\nCapEff:")[2].split()[0], 16)
    if not capabilities & _CAPABILITIES:
        return (
            "recording what all processes do needs root, or CAP_PERFMON and read "
            f"permission of {tracefs[0]}"
        )
    for folder in tracefs:
        if os.path.isdir(f"{folder}/events"):
            if os.path.isdir(f"{folder}/events/lock/contention_begin"):
                return None
            return f"this kernel has no event {_BEGIN}, which came with Linux 5.19"
    return (
        "tracefs, which describes the kernel's events, is not mounted: "
        f"mount -t tracefs tracefs {tracefs[0]}"
    )
