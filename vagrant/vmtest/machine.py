"""One run of a guest: QEMU, shares, the command's output and status, time limits."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from vagrant.vmtest.kernel import Kernel
from vagrant.vmtest.parts import require

# The guest panicked, hung, or never started: not a status of the command's own.
LOST = 125

_CONSOLE_TAIL = 60  # lines: a panic says why above its trace


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest ready to boot: its parts, and how it is run."""

    kernel: Kernel
    initrd: bytes
    userland: Path
    checkout: Path
    # "tcg" or "kvm". A writable /dev/kvm proves nothing: it may itself be emulated,
    # so kvm is only for whoever asks for it.
    accel: str = "tcg"
    kaslr: bool = False
    # Seconds from QEMU's start to the command's, and to the end of the run.
    boot_limit: float = 60
    limit: float = 1800
    # Say on stderr how long booting and the command took.
    times: bool = False

    def run(self, command: str) -> int:
        """Boots, runs the shell *command* in the checkout, and gives its status.

        The command's output goes to the standard streams while it runs. A guest that
        panics or is out of time gives 125, with the end of its console on stderr. The
        guest does not outlive this process, however that ends.
        """
        with (
            _signals_unwind(),
            tempfile.TemporaryDirectory(prefix="ksymsfs-vm.") as scratch,
        ):
            result = Path(scratch, "result")
            result.mkdir()
            (result / "command").write_text(command + "\n")
            initrd = Path(scratch, "initrd")
            initrd.write_bytes(self.initrd)
            console = Path(scratch, "console")
            argv = self.qemu(result, initrd, console)
            started = time.monotonic()
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as qemu:
                try:
                    reason = self._watch(qemu, result, started)
                finally:
                    qemu.kill()
            return _status(result, console, reason)

    def qemu(self, result: Path, initrd: Path, console: Path) -> list[str]:
        """The QEMU command line. The guest has no network device."""
        accel = {
            "tcg": ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", _TCG_CPU],
            "kvm": ["-accel", "kvm", "-cpu", "host"],
        }[self.accel]
        kernel = self.kernel.vmlinuz if self.kaslr else self.kernel.vmlinux
        return [
            # Ended with its parent, though that be killed.
            *(require("setpriv"), "--pdeathsig", "KILL"),
            *(require("qemu-system-x86_64"), *accel),
            *("-machine", "pc,graphics=off", "-smp", "2", "-m", "1024"),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-nic", "none", "-serial", f"file:{console}"),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", _BOOT),
            # Nothing that a run writes reaches the cached image.
            *("-drive", f"file={self.userland},if=virtio,format=raw,snapshot=on"),
            *_share("checkout", self.checkout, "on"),
            *_share("modules", self.kernel.modules, "on"),
            *_share("result", result, "off"),
        ]

    # Copies output until QEMU ends; gives the reason when it had to be ended.
    def _watch(
        self, qemu: subprocess.Popen[bytes], result: Path, started: float
    ) -> str | None:
        streams = [
            _Follower(result / "stdout", sys.stdout.buffer),
            _Follower(result / "stderr", sys.stderr.buffer),
        ]
        booted = False
        while True:
            # Looked at before the output is copied: what came last is then copied too.
            ended = qemu.poll() is not None or (result / "status").exists()
            if not booted and (result / "started").exists():
                booted = True
                self._report("booted", started)
            for stream in streams:
                stream.copy()
            if ended:
                self._report("ran", started)
                return None
            spent = time.monotonic() - started
            if not booted and spent > self.boot_limit:
                return f"no shell after {self.boot_limit:g} s"
            if spent > self.limit:
                return f"not finished after {self.limit:g} s"
            time.sleep(0.05)

    def _report(self, what: str, started: float) -> None:
        if self.times:
            spent = time.monotonic() - started
            print(f"vmtest: {what} after {spent:.2f} s", file=sys.stderr)


@contextmanager
def _signals_unwind() -> Iterator[None]:
    # Signals that would end the process at once raise SystemExit instead.
    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    before = {n: signal.signal(n, end) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# x86-64-v2, which current wheels are built for, and a random number generator, without
# which the kernel waits for entropy. AVX would be slow under emulation.
_TCG_CPU = "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand"

_BOOT = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nowatchdog audit=0 "
    "random.trust_cpu=on"
)


def _share(tag: str, path: Path, readonly: str) -> Sequence[str]:
    # A comma in a QEMU option's value is doubled.
    where = str(path).replace(",", ",,")
    return (
        "-virtfs",
        f"local,path={where},mount_tag={tag},security_model=none,"
        f"multidevs=remap,readonly={readonly}",
    )


class _Follower:
    # Copies what a growing file has gained since the last time.
    def __init__(self, path: Path, to: BinaryIO) -> None:
        self._path = path
        self._to = to
        self._offset = 0

    def copy(self) -> None:
        try:
            with self._path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return
        if data:
            self._offset += len(data)
            self._to.write(data)
            self._to.flush()


def _status(result: Path, console: Path, reason: str | None) -> int:
    try:
        return int((result / "status").read_text())
    except FileNotFoundError:
        pass
    log = console.read_text(errors="replace") if console.exists() else ""
    print(f"vmtest: guest lost: {reason or 'it ended by itself'}", file=sys.stderr)
    for line in log.splitlines()[-_CONSOLE_TAIL:]:
        print(f"console: {line.rstrip()}", file=sys.stderr)
    return LOST


def shell_command(words: Sequence[str]) -> str:
    """One word is shell text, several are a command with its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)
