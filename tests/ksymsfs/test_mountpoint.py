"""Where it is mounted: one server a directory, dead mounts, the link in /dev."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from ksymsfs import mountpoint as module
from ksymsfs.errors import MountError
from ksymsfs.mountinfo import Mount
from ksymsfs.mountpoint import Mountpoint, device_link


class Mounts:
    """The mounts that there are, and what becomes of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[Mount] = []
        self.unmounted: list[str] = []
        self.error: OSError | None = None
        self.blocks = threading.Event()
        self.blocks.set()
        monkeypatch.setattr(module, "own_mounts", lambda: list(self.all))
        monkeypatch.setattr(module, "unmount", self.unmount)
        monkeypatch.setattr(os, "listdir", self.look)

    def add(self, path: Path, source: str = "ksymsfs", number: int = 50) -> None:
        kind = "fuse.ksymsfs" if source == "ksymsfs" else "fuse.other"
        self.all.append(Mount((0, number), str(path), kind, source))

    def unmount(self, path: str) -> None:
        self.unmounted.append(path)
        self.all.pop()

    def look(self, path: str) -> list[str]:
        self.blocks.wait(20)
        if self.error is not None:
            raise self.error
        return ["ksyms", "modules", "snapshots"]


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch) -> Mounts:
    return Mounts(monkeypatch)


def test_a_missing_directory_is_made_and_removed(tmp_path: Path) -> None:
    mountpoint = Mountpoint(str(tmp_path / "mnt"))

    mountpoint.claim()
    assert (tmp_path / "mnt").is_dir()
    mountpoint.release()
    assert not (tmp_path / "mnt").exists()


def test_a_directory_that_was_there_stays(tmp_path: Path) -> None:
    mountpoint = Mountpoint(str(tmp_path))

    mountpoint.claim()
    mountpoint.release()
    assert tmp_path.is_dir()


def test_a_directory_that_is_no_longer_empty_stays(tmp_path: Path) -> None:
    mountpoint = Mountpoint(str(tmp_path / "mnt"))
    mountpoint.claim()
    (tmp_path / "mnt" / "file").touch()

    mountpoint.release()

    assert (tmp_path / "mnt" / "file").exists()


def test_releasing_twice_is_releasing_once(tmp_path: Path) -> None:
    mountpoint = Mountpoint(str(tmp_path / "mnt"))
    mountpoint.claim()
    mountpoint.release()
    (tmp_path / "mnt").mkdir()
    mountpoint.release()

    assert (tmp_path / "mnt").is_dir()


def test_a_directory_is_for_one_server(tmp_path: Path) -> None:
    first, second = Mountpoint(str(tmp_path)), Mountpoint(str(tmp_path))
    first.claim()

    with pytest.raises(MountError, match="another ksymsfs is starting or serving"):
        second.claim()
    first.release()
    second.claim()
    second.release()


def test_a_refused_claim_leaves_the_directory(tmp_path: Path) -> None:
    first = Mountpoint(str(tmp_path / "mnt"))
    first.claim()
    with pytest.raises(MountError):
        Mountpoint(str(tmp_path / "mnt")).claim()

    assert (tmp_path / "mnt").is_dir()
    first.release()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("file", "not a directory"), ("none/mnt", "cannot make the directory: No such")],
)
def test_what_cannot_be_mounted_on_says_why(
    tmp_path: Path, name: str, reason: str
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(MountError, match=reason) as caught:
        Mountpoint(str(tmp_path / name)).claim()
    assert str(tmp_path / name) in str(caught.value)


# ksymsfs as mount of each system: older kernels of FreeBSD say nothing but /dev/fuse.
OURS = [
    ("fuse.ksymsfs", "ksymsfs"),
    ("fusefs.ksymsfs", "ksymsfs"),
    ("fusefs.ksymsfs", "/dev/fuse"),
]


@pytest.mark.parametrize(("fstype", "source"), OURS)
# Linux, Linux by fusectl, FreeBSD.
@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.ECONNABORTED, errno.ENXIO])
def test_a_dead_mount_is_undone(
    tmp_path: Path, mounts: Mounts, number: int, fstype: str, source: str
) -> None:
    mounts.all.append(Mount((0, 50), str(tmp_path), fstype, source))
    mounts.error = OSError(number, os.strerror(number))

    mountpoint = Mountpoint(str(tmp_path))
    mountpoint.claim()
    mountpoint.release()

    assert mounts.unmounted == [str(tmp_path)]


def test_dead_mounts_on_one_another_are_all_undone(
    tmp_path: Path, mounts: Mounts
) -> None:
    for _ in range(3):
        mounts.add(tmp_path)
    mounts.error = OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    mountpoint = Mountpoint(str(tmp_path))
    mountpoint.claim()
    mountpoint.release()

    assert mounts.unmounted == [str(tmp_path)] * 3


@pytest.mark.parametrize(("fstype", "source"), OURS)
def test_a_living_server_is_left_alone(
    tmp_path: Path, mounts: Mounts, fstype: str, source: str
) -> None:
    mounts.all.append(Mount((0, 50), str(tmp_path), fstype, source))

    with pytest.raises(MountError, match="another ksymsfs is serving there; end it"):
        Mountpoint(str(tmp_path)).claim()
    assert mounts.unmounted == []


@pytest.mark.parametrize(
    ("is_freebsd", "command"), [(False, "fusermount -u"), (True, "umount")]
)
def test_how_to_end_a_living_server_is_said_in_the_systems_words(
    tmp_path: Path,
    mounts: Mounts,
    monkeypatch: pytest.MonkeyPatch,
    is_freebsd: bool,
    command: str,
) -> None:
    monkeypatch.setattr(module, "ON_FREEBSD", is_freebsd)
    mounts.add(tmp_path)

    with pytest.raises(MountError, match=f"end it with: {command} {tmp_path}$"):
        Mountpoint(str(tmp_path)).claim()


def test_a_server_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER", 0.01)
    mounts.add(tmp_path)
    mounts.blocks.clear()

    with pytest.raises(MountError, match=r"fuse\.ksymsfs mounted there: no answer"):
        Mountpoint(str(tmp_path)).claim()
    mounts.blocks.set()


def test_another_dead_file_system_is_not_ours_to_undo(
    tmp_path: Path, mounts: Mounts
) -> None:
    mounts.add(tmp_path, "sshfs")
    mounts.error = OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    with pytest.raises(MountError, match="a dead mount of sshfs is in the way"):
        Mountpoint(str(tmp_path)).claim()
    assert mounts.unmounted == []


def test_a_file_system_that_fails_otherwise_says_so(
    tmp_path: Path, mounts: Mounts
) -> None:
    mounts.add(tmp_path)
    mounts.error = OSError(errno.EIO, "Input/output error")

    with pytest.raises(MountError, match="Input/output error"):
        Mountpoint(str(tmp_path)).claim()


def test_mounts_elsewhere_do_not_matter(tmp_path: Path, mounts: Mounts) -> None:
    mounts.add(tmp_path.parent)
    mounts.add(tmp_path / "below")
    mounts.error = OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    mountpoint = Mountpoint(str(tmp_path))
    mountpoint.claim()
    mountpoint.release()

    assert mounts.unmounted == []


def test_the_device_number_is_that_of_the_topmost_mount(
    tmp_path: Path, mounts: Mounts
) -> None:
    mounts.add(tmp_path, "tmpfs", 40)
    mounts.add(tmp_path, number=50)
    mounts.add(tmp_path / "other", number=60)

    assert Mountpoint(str(tmp_path)).device() == (0, 50)


def test_without_a_mount_there_is_no_device_number(
    tmp_path: Path, mounts: Mounts
) -> None:
    with pytest.raises(MountError, match="nothing is mounted there"):
        Mountpoint(str(tmp_path)).device()


@pytest.mark.parametrize("link", ["link", "parent/mnt"])
def test_a_path_through_links_is_found_among_the_mounts(
    tmp_path: Path, mounts: Mounts, link: str
) -> None:
    (tmp_path / "real/mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/mnt")
    (tmp_path / "parent").symlink_to("real")
    mountpoint = Mountpoint(str(tmp_path / link))
    mountpoint.claim()
    mounts.add(tmp_path / "real/mnt", number=77)

    assert mountpoint.device() == (0, 77)
    mountpoint.release()


def test_its_own_device_number_is_found_without_a_look_at_the_mount(
    tmp_path: Path, mounts: Mounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is asked for while the file system starts, which cannot answer yet.
    mountpoint = Mountpoint(str(tmp_path))
    mountpoint.claim()
    mounts.add(tmp_path)
    for name in ("stat", "lstat", "open", "readlink", "listdir"):
        monkeypatch.setattr(os, name, None)

    assert mountpoint.device() == (0, 50)
    monkeypatch.undo()
    mountpoint.release()


# The link.


def test_the_link_is_there_as_long_as_the_server(tmp_path: Path) -> None:
    link = tmp_path / "ksyms"
    with device_link(str(link), "/run/x/ksyms"):
        assert os.readlink(link) == "/run/x/ksyms"
    assert not os.path.lexists(link)


def test_no_link_is_no_link() -> None:
    with device_link(None, "/run/x/ksyms"):
        pass


def test_a_link_that_a_killed_server_left_is_taken_over(tmp_path: Path) -> None:
    link = tmp_path / "ksyms"
    link.symlink_to("/run/x/ksyms")

    with device_link(str(link), "/run/x/ksyms"):
        assert link.is_symlink()
    assert not os.path.lexists(link)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_what_is_not_ours_is_never_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "ksyms"
    if kind == "file":
        path.write_text("mine")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/null" if kind == "link" else "/nowhere")
    before = os.lstat(path)

    with (
        pytest.raises(MountError, match="exists and is not ours"),
        device_link(str(path), "/run/x/ksyms"),
    ):
        pass
    assert os.lstat(path).st_ino == before.st_ino


def test_a_link_that_somebody_replaced_meanwhile_stays(tmp_path: Path) -> None:
    link = tmp_path / "ksyms"
    with device_link(str(link), "/run/x/ksyms"):
        link.unlink()
        link.write_text("mine")

    assert link.read_text() == "mine"


def test_a_link_that_somebody_removed_meanwhile_is_no_error(tmp_path: Path) -> None:
    link = tmp_path / "ksyms"
    with device_link(str(link), "/run/x/ksyms"):
        link.unlink()


def test_the_link_goes_when_the_server_fails(tmp_path: Path) -> None:
    link = tmp_path / "ksyms"
    with pytest.raises(RuntimeError), device_link(str(link), "/run/x/ksyms"):
        raise RuntimeError

    assert not os.path.lexists(link)


def test_a_link_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(MountError, match="cannot make the symbolic link: No such file"),
        device_link(str(tmp_path / "none" / "ksyms"), "/run/x/ksyms"),
    ):
        pass
