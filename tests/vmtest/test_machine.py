"""A run of a guest, with a shell script in QEMU's place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.server import ROOT, wait_until
from vagrant.vmtest.kernel import Kernel
from vagrant.vmtest.machine import LOST, Machine, shell_command

# Finds the result share and the console in QEMU's arguments, as a guest would.
QEMU = """\
#!/bin/sh
for word; do
    case $word in
    local,path=*,mount_tag=result,*) result=${word#*path=}; result=${result%%,*} ;;
    file:*) console=${word#file:} ;;
    esac
done
printf 'booting\\r\\n' >"$console"
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Machine(
        kernel=Kernel(tmp_path),
        initrd=b"initrd",
        userland=tmp_path / "userland",
        checkout=tmp_path,
        boot_limit=20,
        limit=20,
    )


def write_qemu(directory: Path, script: str) -> None:
    program = directory / "qemu-system-x86_64"
    program.write_text(QEMU + script)
    program.chmod(0o755)


def test_the_status_and_the_output_are_the_commands(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_qemu(
        tmp_path,
        'echo up >"$result/started"\n'
        'sh "$result/command" >"$result/stdout" 2>"$result/stderr"\n'
        'echo $? >"$result/new"; mv "$result/new" "$result/status"; exec sleep 30\n',
    )

    status = machine.run("echo answer; echo complaint >&2; exit 7")

    assert status == 7
    assert capfd.readouterr() == ("answer\n", "complaint\n")


def test_a_guest_that_ends_by_itself_is_lost(
    machine: Machine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_qemu(tmp_path, 'echo "Kernel panic - not syncing" >>"$console"\n')

    status = machine.run("true")

    assert status == LOST == 125
    assert capfd.readouterr().err == (
        "vmtest: guest lost: it ended by itself\n"
        "console: booting\n"
        "console: Kernel panic - not syncing\n"
    )


@pytest.mark.parametrize(
    ("started", "limits", "reason"),
    [
        ("", (0.2, 20), "no shell after 0.2 s"),
        ('echo up >"$result/started"', (0.1, 0.4), "not finished after 0.4 s"),
    ],
    ids=["boot", "command"],
)
def test_a_guest_that_hangs_is_lost(
    started: str,
    limits: tuple[float, float],
    reason: str,
    machine: Machine,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_qemu(tmp_path, f"{started}\nexec sleep 30\n")
    hurried = Machine(
        machine.kernel,
        machine.initrd,
        machine.userland,
        machine.checkout,
        boot_limit=limits[0],
        limit=limits[1],
    )

    assert hurried.run("true") == LOST
    assert f"vmtest: guest lost: {reason}\n" in capfd.readouterr().err


RUN = """
from pathlib import Path
import sys
from vagrant.vmtest.kernel import Kernel
from vagrant.vmtest.machine import Machine
here = Path(sys.argv[1])
Machine(Kernel(here), b"initrd", here / "userland", here).run("true")
"""


def has_ended(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie has none
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_guest_ends_with_the_process_that_runs_it(
    number: signal.Signals, tmp_path: Path
) -> None:
    write_qemu(tmp_path, f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid\n")
    with (tmp_path / "qemu-system-x86_64").open("a") as script:
        script.write("exec sleep 1000\n")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = f"{tmp_path}:{os.environ['PATH']}"
    vmtest = subprocess.Popen(
        [sys.executable, "-c", RUN, tmp_path],
        cwd=ROOT,
        env={**os.environ, "PATH": path, "TMPDIR": str(scratch)},
    )
    wait_until((tmp_path / "pid").exists, "a guest")
    guest = int((tmp_path / "pid").read_text())

    vmtest.send_signal(number)
    status = vmtest.wait(timeout=20)

    wait_until(lambda: has_ended(guest), "the guest's end")
    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    assert (number == signal.SIGKILL) == any(scratch.iterdir())


def test_the_guest_has_no_network_and_cannot_write_the_checkout_or_the_image(
    machine: Machine, tmp_path: Path
) -> None:
    write_qemu(tmp_path, "")

    argv = machine.qemu(tmp_path / "result", tmp_path / "initrd", tmp_path / "console")

    assert argv[argv.index("-nic") + 1] == "none"
    assert "-nodefaults" in argv
    assert argv[argv.index("-accel") + 1].startswith("tcg")
    shares = {share.split("mount_tag=")[1]: share for share in argv if "tag=" in share}
    writable = [tag.split(",")[0] for tag in shares if tag.endswith("readonly=off")]
    assert writable == ["result"]
    assert all("snapshot=on" in word for word in argv if "userland" in word)


def test_several_words_are_quoted_and_one_is_shell_text() -> None:
    assert shell_command(["echo", "a b"]) == "echo 'a b'"
    assert shell_command(["echo a; echo b"]) == "echo a; echo b"
