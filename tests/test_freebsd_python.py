"""ksymsfs and its client in a Python that has what FreeBSD's has, and no more."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.elf_writer import write_recorded
from tests.integration.server import ROOT, environment
from tests.kld import build_kld
from tests.ksymsfs.test_freebsd_files import STATE_1

# Neither procfs nor sysfs, and nothing that serves a device.
JAIL = """\
for directory in /proc /sys /run; do mount -t tmpfs tmpfs "$directory" || exit; done
exec "$@"
"""
STAND_IN = ROOT / "tests" / "freebsd_stand_in.py"

TRACE = "panic() at 0xffffffff80426710\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def freebsd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a module on the FreeBSD 13.2 that was recorded."""
    folder = tmp_path_factory.mktemp("freebsd")
    for name in ("kernel", "ksyms.ko"):
        write_recorded(data / "freebsd-13.2" / name, folder / name)
    library = build_kld(folder, str(folder))

    def run(
        module: str, *argv: str | Path, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        python = [sys.executable, STAND_IN, module, *argv]
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", JAIL, "sh", *python],
            cwd=ROOT,
            env=environment({"KLD_LIBRARY": str(library), **variables}),
            input=TRACE,
            capture_output=True,
            text=True,
        )
        if "unshare failed" in done.stderr:
            pytest.skip("a mount namespace needs root")
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def image(freebsd: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image of that kernel, as it is made there."""
    path = tmp_path_factory.mktemp("image") / "image"
    done = freebsd("ksymsfs.mkksyms", "-o", path)
    assert (done.returncode, done.stderr) == (0, "")
    return path


def test_the_running_kernel_is_read_through_kld(image: Path) -> None:
    assert hashlib.sha256(image.read_bytes()).hexdigest() == STATE_1


BPF = "tests/data/demo/trace.bpf.o"


@pytest.mark.parametrize(
    "words",
    [
        "-k IMAGE sym2addr panic memcpy nothing",
        "-k IMAGE addr2sym -j ffffffff80426710 ffffffff80f18094",
        "-k IMAGE nm",
        "-k IMAGE map -j",
        "-k IMAGE annotate",
        "diff IMAGE IMAGE",
        "diff IMAGE README.md",
        f"bpf dump {BPF}",
        f"bpf check --kernel IMAGE {BPF}",
        "--help",
    ],
)
def test_the_client_answers_as_on_linux(freebsd: Run, image: Path, words: str) -> None:
    argv = words.replace("IMAGE", str(image)).split()

    there = freebsd("ksyms", *argv)

    here = subprocess.run(
        [sys.executable, "-m", "ksyms", *argv],
        cwd=ROOT,
        env=environment(),
        input=TRACE,
        capture_output=True,
        text=True,
    )
    assert (there.returncode, there.stdout, there.stderr) == (
        *(here.returncode, here.stdout, here.stderr),
    )


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("sym2addr panic", 2, r"ksyms: /dev/ksyms: .*: run kldload ksyms as root"),
        ("capture DIR", 2, r"ksyms: /proc/kallsyms: .*: nowhere to take symbols from"),
        ("lockstat true", 2, r"ksyms: lockstat: .* FreeBSD has a lockstat\(1\) of its"),
        (f"bpf check {BPF}", 1, r"failed to open /proc/kallsyms: -ENOENT"),
        ("doctor", 1, r"missing  device .*\n +-> .*: run kldload ksyms as root"),
    ],
)
def test_what_is_not_there_is_said_with_what_to_do(
    freebsd: Run, tmp_path: Path, words: str, status: int, said: str
) -> None:
    done = freebsd("ksyms", *words.replace("DIR", str(tmp_path / "capture")).split())

    assert done.returncode == status
    assert re.search(said, done.stdout + done.stderr)
    assert not os.listdir(tmp_path)


def test_a_capture_has_the_symbols(freebsd: Run, image: Path, tmp_path: Path) -> None:
    capture = tmp_path / "capture"

    done = freebsd("ksyms", "capture", capture, KSYMS=str(image))

    assert done.returncode == 0
    assert done.stdout.startswith(f"{capture}: 14.1-RELEASE-p5 amd64, BTF of 0 modules")
    found = freebsd("ksyms", "-k", capture, "addr2sym", "ffffffff80426710")
    assert found.stdout == "panic+0x10/0x43\n"


@pytest.mark.parametrize("module", ["ksymsfs", "ksymsfs.mkksyms"])
def test_the_servers_tell_how_they_are_used(freebsd: Run, module: str) -> None:
    done = freebsd(module, "--help")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")


def test_the_tests_for_freebsd_can_be_collected_there(freebsd: Run) -> None:
    options = ["--collect-only", "-q", "-p", "no:cacheprovider", "-m", "freebsd"]

    done = freebsd("pytest", *options, "tests/guest")

    assert done.returncode == 0, done.stdout
    assert "tests/guest/test_freebsd.py::test_our_image_is_the_kernels" in done.stdout


# mfusepy, when the kernel opens the device once and then a signal ends the server.
MFUSEPY = """
import errno
import hashlib
import os
from types import SimpleNamespace

fuse_version_major = 2
Operations = object


def fuse_get_context():
    return 0, 0, 4711


def FUSE(operations, mountpoint, **options):
    assert os.environ["FUSE_NO_MOUNT"] == "1"
    assert os.path.exists(mountpoint) and not os.path.isdir(mountpoint)
    fd = int(os.environ["FUSE_DEV_FD"])
    assert os.path.samestat(os.fstat(fd), os.stat("/dev/fuse"))
    operations.init_with_config(SimpleNamespace(max_background=0), None)
    path = f"/{operations.readlink('/ksyms')}"
    size = operations.getattr(path)["st_size"]
    info = SimpleNamespace(flags=os.O_RDONLY, fh=0, direct_io=0, keep_cache=0)
    operations.open(path, info)
    image = operations.read(path, size, 0, info)
    print(hashlib.sha256(image).hexdigest(), os.readlink("LINK"), flush=True)
    operations.flush(path, info)
    operations.release(path, info)
    os.close(fd)
    os.listdir = dead


def dead(path):
    raise OSError(errno.ENXIO, "Device not configured")
"""

MOUNT_FUSEFS = """#!/bin/sh
echo "$*" >>calls
[ ! -e refuse ] || { echo "mount_fusefs: $4: Operation not permitted" >&2; exit 71; }
cp mount mounts
"""


@pytest.fixture
def ksymsfs(freebsd: Run, data: Path, tmp_path: Path) -> Run:
    """Runs ksymsfs with its mount_fusefs and its mfusepy in the directory of a test."""
    if not Path("/dev/fuse").exists():
        pytest.skip("there is no /dev/fuse")
    (tmp_path / "mfusepy.py").write_text(MFUSEPY.replace("LINK", f"{tmp_path}/ksyms"))
    (tmp_path / "mount_fusefs").write_text(
        MOUNT_FUSEFS.replace("#!/bin/sh", f"#!/bin/sh\ncd {tmp_path} || exit")
    )
    (tmp_path / "mount_fusefs").chmod(0o755)
    statfs = (data / "freebsd-mounts" / "statfs.bin").read_bytes()[2 * 2344 : 3 * 2344]
    path = os.fsencode(tmp_path / "mnt").ljust(1024, b"\0")
    (tmp_path / "mount").write_bytes(statfs[:1320] + path)

    def run() -> subprocess.CompletedProcess[str]:
        return freebsd(
            *("ksymsfs", "-f", "--device", tmp_path / "ksyms", tmp_path / "mnt"),
            MOUNTS=str(tmp_path / "mounts"),
            PATH=f"{tmp_path}:{os.environ['PATH']}",
            PYTHONPATH=f"{tmp_path}:{environment()['PYTHONPATH']}",
        )

    return run


def test_ksymsfs_mounts_serves_and_unmounts(ksymsfs: Run, tmp_path: Path) -> None:
    done = ksymsfs()

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{STATE_1} {tmp_path}/mnt/ksyms\n"
    _, options, _, path = (tmp_path / "calls").read_text().split()
    assert path == f"{tmp_path}/mnt"
    assert "subtype=ksymsfs" in options.split(",")
    left = {"mfusepy.py", "mount_fusefs", "mount", "calls"}
    assert {name for name in os.listdir(tmp_path) if name[0] != "_"} == left


def test_ksymsfs_ends_where_mount_fusefs_refuses(ksymsfs: Run, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()

    done = ksymsfs()

    assert (done.returncode, done.stdout) == (1, "")
    assert "mnt: Operation not permitted" in done.stderr
    assert not (tmp_path / "mnt").exists()
    assert not (tmp_path / "ksyms").is_symlink()
