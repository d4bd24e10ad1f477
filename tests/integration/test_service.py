"""The service files: what systemd and rc.d are told, and whether that is enough."""

from __future__ import annotations

import configparser
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ksymsfs.daemon import notify
from tests.integration.server import (
    ROOT,
    Server,
    as_nobody,
    environment,
    install_command,
    serving,
    wait_until,
)

SERVICE = ROOT / "ksymsfs/service"
UNIT = SERVICE / "ksymsfs.service"
DATA = ROOT / "tests/data/demo/kallsyms.txt"


def capabilities() -> list[str]:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    return unit["Service"]["CapabilityBoundingSet"].split()


# -- what can be checked without running it


def needs(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path) -> None:
    # It looks for the command in the places where systemd would.
    analyze = needs("systemd-analyze")
    text = UNIT.read_text().replace("ExecStart=ksymsfs", f"ExecStart={sys.executable}")
    (tmp_path / "ksymsfs.service").write_text(text)

    result = subprocess.run(
        [analyze, "verify", "--man=no", tmp_path / "ksymsfs.service"],
        capture_output=True,
        text=True,
    )

    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_systemd_rates_the_unit_as_hardened() -> None:
    # 4.5 of 10 (0 is the best) is what is left to a mount and perf events in the
    # host's namespaces: see `systemd-analyze security`.
    result = subprocess.run(
        [
            *(needs("systemd-analyze"), "security", "--offline=true"),
            *("--threshold=45", "--no-pager", UNIT),
        ],
        capture_output=True,
        text=True,
    )

    assert result.returncode == 0, result.stdout


def test_the_unit_keeps_the_mount_name_space_of_the_host() -> None:
    # systemd.exec(5), each setting of which says that it makes a private one.
    private = {
        *("PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateNetwork"),
        *("PrivateIPC", "ProtectSystem", "ProtectHome", "ProtectKernelTunables"),
        *("ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"),
        *("ProtectClock", "ProtectHostname", "ProtectProc", "ProcSubset"),
        *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths"),
        *("NoExecPaths", "BindPaths", "BindReadOnlyPaths", "TemporaryFileSystem"),
        *("MountFlags", "RootDirectory", "RootImage", "DynamicUser"),
    }
    settings = {
        line.partition("=")[0]
        for line in UNIT.read_text().splitlines()
        if "=" in line and not line.startswith("#")
    }

    assert settings & private == set()


def test_every_capability_is_explained_in_the_unit() -> None:
    comments = [line for line in UNIT.read_text().splitlines() if line[:1] == "#"]

    explained = [line.split()[1] for line in comments if line.startswith("#   CAP_")]

    assert explained == capabilities()


def test_the_rc_script_is_a_good_shell_script() -> None:
    script = SERVICE / "ksymsfs.rc"
    subprocess.run(["sh", "-n", script], check=True)

    result = subprocess.run(
        [needs("shellcheck"), "-s", "sh", script], capture_output=True, text=True
    )

    assert (result.returncode, result.stdout) == (0, "")


# rc.subr(8), as much of it as the script uses.
_RC_SUBR = """
load_rc_config() { ksymsfs_enable=YES ksymsfs_flags="--device none"; }
wait_for_pids() { echo "waiting for $*"; }
run_rc_command() {
	echo "$name" "$rcvar" "$required_modules"
	case $1 in
	start) ${command##*/} $ksymsfs_flags $command_args ;;
	*) eval "\\$${1}_cmd" ;;
	esac
}
"""


def test_the_rc_script_starts_stops_and_tells(tmp_path: Path) -> None:
    script = tmp_path / "rc"
    text = (SERVICE / "ksymsfs.rc").read_text()
    script.write_text(text.replace(". /etc/rc.subr", f". {tmp_path}/rc.subr"))
    (tmp_path / "rc.subr").write_text(
        f"{_RC_SUBR}\nksymsfs_mountpoint={tmp_path}/link\n"
    )
    fakes = {
        # FreeBSD's mount(8): prmount().
        "mount": '[ "$*" = "-t fusefs.ksymsfs" ] && cat mounted',
        "umount": 'echo umount "$@"; : > mounted',
        # An instance elsewhere is not waited for.
        "pgrep": f'echo "$*" | grep -q "^-f /usr.*{tmp_path}/link.$" && echo 1 2',
        "ksymsfs": 'echo ksymsfs "$@"; echo '
        f'"x on {tmp_path}/mnt (fusefs.ksymsfs, nosuid)" > mounted',
    }
    for name, body in fakes.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    other = f"y on {tmp_path}/mnt2 (fusefs.ksymsfs, nosuid)\n"
    (tmp_path / "mounted").write_text(other)
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    mountpoint = f"{tmp_path}/link"  # mount(8) has the path without links

    def run(action: str) -> tuple[int, list[str]]:
        result = subprocess.run(
            ["sh", script, action],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        )
        assert result.stderr == ""
        first, *lines = result.stdout.splitlines()
        assert first == "ksymsfs ksymsfs_enable fusefs"
        return result.returncode, lines

    mounted = f"ksymsfs is mounted on {mountpoint}."
    assert run("status") == (1, ["ksymsfs is not running."])
    assert run("stop") == (1, ["ksymsfs is not running."])
    assert run("start") == (0, [f"ksymsfs --device none {mountpoint}"])
    assert run("status") == (0, [mounted])
    stopping = ["Stopping ksymsfs.", f"umount {mountpoint}", "waiting for 1 2"]
    assert run("stop") == (0, stopping)
    assert run("status") == (1, ["ksymsfs is not running."])


@pytest.mark.parametrize("abstract", [False, True])
def test_a_service_manager_is_told_when_the_service_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    path = f"{'@' if abstract else ''}{tmp_path}/notify"
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{path[1:]}" if abstract else path)

        notify()

        assert manager.recv(100, socket.MSG_DONTWAIT) == b"READY=1"


def test_nobody_is_told_where_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    notify()


# -- the capabilities: all of them are enough, and each is needed

# A client of another user with an image that is no secret: both encodings of KIOCGADDR,
# and a second open while only a dup of the first is left.
_CLIENT = """
import errno, fcntl, mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
view = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ)
for request in (0x80086c02, 0x40086c02):
    try:
        address = bytearray(8)
        fcntl.ioctl(fd, request, address)
        print("mapped" if any(address) else "lost")
    except OSError as error:
        print(errno.errorcode[error.errno])
second = os.dup(fd)
os.close(fd)
try:
    os.open(sys.argv[1], os.O_RDONLY)
    print("opened")
except OSError as error:
    print(errno.errorcode[error.errno])
"""


def confined(without: str = "") -> list[str]:
    kept = [
        f"+{c.removeprefix('CAP_').lower()}" for c in capabilities() if c != without
    ]
    return [
        *(needs("setpriv"), "--bounding-set", ",".join(["-all", *kept])),
        *("--inh-caps", "-all", "--no-new-privs"),
    ]


def ask_as_nobody(server: Server) -> list[str]:
    result = as_nobody("-c", _CLIENT, server.device)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


@pytest.fixture
def place() -> Iterator[Path]:
    # Not below pytest's own directory, which is root's alone.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


RIGHT = ["mapped", "mapped", "EBUSY"]
SAVED = ["--mode", "0444", "--kallsyms", str(DATA)]


@pytest.mark.fuse
@pytest.mark.kernel
def test_the_units_capabilities_are_enough_for_the_running_kernel(
    place: Path,
) -> None:
    with serving(place, prefix=confined()) as server:
        assert server.device.read_bytes()[:4] == b"\x7fELF"
        assert "perf_event" in Path(f"/proc/{server.pid}/maps").read_text()
        assert server.says() == ""


@pytest.mark.fuse
def test_the_units_capabilities_are_enough_for_every_caller(place: Path) -> None:
    with serving(place, SAVED, prefix=confined()) as server:
        assert ask_as_nobody(server) == RIGHT


@pytest.mark.fuse
@pytest.mark.parametrize("capability", ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"])
def test_without_one_capability_callers_get_wrong_answers(
    place: Path, capability: str
) -> None:
    assert capability in capabilities()
    with serving(place, SAVED, prefix=confined(capability)) as server:
        answers = ask_as_nobody(server)

    # Which ones depends on the kernel: 6.18 shows a stranger's maps, 6.1 does not.
    assert len(answers) == len(RIGHT)
    assert answers != RIGHT


@pytest.mark.fuse
@pytest.mark.kernel
@pytest.mark.parametrize(
    ("capability", "reason"),
    [
        ("CAP_SYSLOG", "run it with CAP_SYSLOG"),
        ("CAP_SYS_ADMIN", "perf events are refused"),
        ("CAP_SYS_ADMIN", "mount failed: Operation not permitted"),
    ],
)
def test_without_one_capability_it_does_not_serve(
    place: Path, capability: str, reason: str
) -> None:
    assert capability in capabilities()

    result = subprocess.run(
        [
            *(*confined(capability), sys.executable, "-m", "ksymsfs", "-f"),
            *("--device", "none", place / "mnt"),
        ],
        capture_output=True,
        text=True,
        env=environment(),
    )

    assert result.returncode == 1
    assert reason in result.stderr


# -- and the whole of it, under a systemd of its own

_BOOT = """
set -e
cd "$1"
mount -t tmpfs tmpfs scratch
mkdir scratch/upper scratch/work
mount -t overlay -o lowerdir=/,upperdir=scratch/upper,workdir=scratch/work none root
for path in "$2" "$3" "$4"; do  # the overlay has no other file systems in it
	[ "$(stat -c %d "$path")" = "$(stat -c %d /)" ] || mount --rbind "$path" "root$path"
done
cd root
mount -t proc proc proc
mount --rbind /sys sys
umount -l sys/fs/cgroup
mount -t cgroup2 none sys/fs/cgroup
for path in dev run; do mount -t tmpfs tmpfs $path; done
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/urandom c 1 9
mknod -m 600 dev/fuse c 10 229
touch dev/console
rm -f usr/lib/tmpfiles.d/tmp.conf  # it empties /tmp, where the checkout may be
cp -a "$1/bin/ksymsfs" usr/local/bin/
cp "$2/ksymsfs/service/ksymsfs.service" etc/systemd/system/
exec chroot . /usr/bin/env -i container=test PATH="$PATH" \
	/lib/systemd/systemd --system --unit=ksymsfs.service
"""


class Container:
    """A systemd with a process, mount and control group namespace of its own."""

    def __init__(self, directory: Path) -> None:
        for name in ("root", "scratch", "cgroup"):
            (directory / name).mkdir()
        install_command(directory / "bin")
        self._groups = directory / "cgroup"
        subprocess.run(["mount", "-t", "cgroup2", "none", self._groups], check=True)
        self._group = self._groups / f"ksymsfs-test-{os.getpid()}"
        self._group.mkdir()
        script = f'echo $$ > {self._group}/cgroup.procs; exec "$@"'
        command = [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup"),
            *("--uts", "--ipc", "sh", "-c", _BOOT, "sh"),
            *(str(directory), str(ROOT), sys.prefix, sys.base_prefix),
        ]
        self._process = subprocess.Popen(["sh", "-c", script, "sh", *command])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What *command* prints in the container, both streams together."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return subprocess.run(
            [
                *("nsenter", "-m", "-p", "-C", "-r", "-w", "-t", *children[:1]),
                *command,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def close(self) -> None:
        """End everything in it, and what it made outside."""
        self._process.kill()
        self._process.wait()
        (self._group / "cgroup.kill").write_text("1")

        def empty() -> bool:
            return "populated 0" in (self._group / "cgroup.events").read_text()

        wait_until(empty, "the end of the container")
        for path, _, _ in os.walk(self._group, topdown=False):
            os.rmdir(path)
        subprocess.run(["umount", self._groups], check=True)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd is not installed")
    container = Container(tmp_path)
    yield container
    container.close()


@pytest.mark.fuse
@pytest.mark.kernel
def test_systemd_runs_the_unit_with_all_its_restrictions(
    container: Container,
) -> None:
    def state() -> str:
        return container.run("systemctl", "is-active", "ksymsfs").stdout.strip()

    wait_until(lambda: state() in ("active", "failed"), "the service", seconds=60)
    assert state() == "active", container.run("journalctl", "--no-pager").stdout

    seen = container.run("head", "-c4", "/dev/ksyms").stdout
    kernel = container.run("head", "-n1", "/run/ksymsfs/modules").stdout
    pid = container.run("systemctl", "show", "-P", "MainPID", "ksymsfs").stdout.strip()
    status = container.run("cat", f"/proc/{pid}/status").stdout
    maps = container.run("cat", f"/proc/{pid}/maps").stdout

    assert seen == "\x7fELF"
    assert kernel.split()[-1] == "kernel"
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "perf_event" in maps

    container.run("kill", "-KILL", pid)
    wait_until(
        lambda: (
            container.run("head", "-c4", "/dev/ksyms").stdout == "\x7fELF"
            and container.run(
                "systemctl", "show", "-P", "MainPID", "ksymsfs"
            ).stdout.strip()
            not in (pid, "0")
        ),
        "the service that was restarted",
    )

    assert container.run("systemctl", "stop", "ksymsfs").returncode == 0
    assert "No such file" in container.run("ls", "/dev/ksyms").stdout
    assert "ksymsfs" not in container.run("cat", "/proc/self/mountinfo").stdout
