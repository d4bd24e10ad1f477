"""The mount on FreeBSD, with a stand-in for mount_fusefs(8)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from ksymsfs import fusefs, mountpoint
from ksymsfs.errors import MountError
from ksymsfs.fusefs import mounted
from ksymsfs.mountinfo import Mount

# What it was called with; and whether it has the device.
MOUNT_FUSEFS = """\
#!/bin/sh
echo "$*" >>"$CALLS"
[ "$MOUNT_FUSEFS_SAFE" = 1 ] || exit 64
[ "$(readlink "/proc/self/fd/$3")" = "$DEVICE" ] || exit 65
[ -z "$REFUSES" ] && exit
echo "mount_fusefs: /dev/fuse on $4: Operation not permitted" >&2
exit 71
"""

OPTIONS = {"subtype": "ksymsfs", "allow_other": True, "noatime": True}


class System:
    """What is mounted, and what is called."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = tmp_path / "calls"
        self.place = tmp_path / "mnt"
        self.place.mkdir()
        self.unmounted: list[str] = []
        self.is_mounted = True
        programs = tmp_path / "bin"
        programs.mkdir()
        (programs / "mount_fusefs").write_text(MOUNT_FUSEFS)
        (programs / "mount_fusefs").chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("CALLS", str(self.calls))
        monkeypatch.setenv("REFUSES", "")
        self.device = tmp_path / "fuse"  # in whose place a file will do
        self.device.touch()
        monkeypatch.setenv("DEVICE", str(self.device))
        monkeypatch.setattr(fusefs, "DEVICE", str(self.device))
        monkeypatch.setattr(mountpoint, "own_mounts", self.mounts)
        monkeypatch.setattr(mountpoint, "unmount", self.unmount)
        monkeypatch.setattr(os, "listdir", self.look)

    def mounts(self) -> list[Mount]:
        mount = Mount((0, 0), str(self.place), "fusefs.ksymsfs", "ksymsfs")
        return [mount] if self.is_mounted else []

    def unmount(self, path: str) -> None:
        self.unmounted.append(path)
        self.is_mounted = False

    def look(self, path: str) -> list[str]:
        # Alive as long as somebody has the device open, as fuse_vnop_open has it.
        if self.descriptors():
            return ["ksyms"]
        raise OSError(6, "Device not configured")

    def descriptors(self) -> list[int]:
        """Those of the device that are open."""
        found = []
        for fd in range(256):
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(fd), self.device.stat()):
                    found.append(fd)
        return found


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> System:
    return System(tmp_path, monkeypatch)


def test_libfuse_finds_the_device_of_a_mount_that_is_made(system: System) -> None:
    with mounted(str(system.place), OPTIONS) as target:
        (fd,) = system.descriptors()
        assert os.environ["FUSE_DEV_FD"] == str(fd)
        assert os.environ["FUSE_NO_MOUNT"] == "1"
        os.close(fd)  # as libfuse does in the end

    assert system.calls.read_text() == (
        f"-o subtype=ksymsfs,allow_other,noatime {fd} {system.place}\n"
    )
    # libfuse unmounts what it was called with: must be nothing.
    assert not os.path.isdir(target)
    assert "FUSE_DEV_FD" not in os.environ
    assert "FUSE_NO_MOUNT" not in os.environ


def test_the_mount_is_undone_by_the_path_without_links(
    system: System, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("mnt")
    with mounted(str(tmp_path / "link"), OPTIONS):
        os.close(int(os.environ["FUSE_DEV_FD"]))

    assert system.calls.read_text().split()[-1] == str(system.place)
    assert system.unmounted == [str(system.place)]


def test_what_somebody_else_has_unmounted_is_left_alone(system: System) -> None:
    with mounted(str(system.place), OPTIONS):
        os.close(int(os.environ["FUSE_DEV_FD"]))
        system.is_mounted = False

    assert system.unmounted == []


def test_a_libfuse_that_never_began_leaves_no_mount(system: System) -> None:
    with pytest.raises(RuntimeError), mounted(str(system.place), OPTIONS):
        raise RuntimeError(1)

    assert system.descriptors() == []
    assert system.unmounted == [str(system.place)]


def test_a_descriptor_that_is_another_files_by_now_stays(
    system: System, tmp_path: Path
) -> None:
    with mounted(str(system.place), OPTIONS):
        fd = int(os.environ["FUSE_DEV_FD"])
        with (tmp_path / "other").open("w") as other:
            os.dup2(other.fileno(), fd)

    os.close(fd)


def test_a_refused_mount_is_said_in_mount_fusefs_words(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFUSES", "1")
    system.is_mounted = False

    with (
        pytest.raises(MountError, match=r"mnt: mount_fusefs: .* not permitted$"),
        mounted(str(system.place), OPTIONS),
    ):
        pytest.fail("mounted")

    assert system.descriptors() == []
    assert "FUSE_DEV_FD" not in os.environ


def test_without_the_kernel_module_it_says_so(
    system: System, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fusefs, "DEVICE", str(tmp_path / "no" / "fuse"))

    with (
        pytest.raises(MountError, match="fuse: No such file or directory; is fusefs"),
        mounted(str(system.place), OPTIONS),
    ):
        pytest.fail("mounted")
