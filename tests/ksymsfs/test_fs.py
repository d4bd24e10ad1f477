"""The callbacks, called as the bindings call them."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksymsfs.device import INODE
from ksymsfs.errors import SourceError
from ksymsfs.flavor import NETBSD
from ksymsfs.fs import Filesystem
from tests.ksymsfs.fakes import World

P, Q = 40_000_100, 40_000_200  # beyond any real process


@dataclass
class Info:
    """struct fuse_file_info."""

    flags: int = 0
    fh: int = 0
    direct_io: int = 0
    keep_cache: int = 0


class Mounted(World):
    """A file system on a device of fakes; *tid* is who calls."""

    def __init__(self, *, mode: int = 0o400, live: bool = False) -> None:
        super().__init__(live=live, public=mode != 0o400)
        self.tid = P
        for tid in (P, Q):
            self.processes.process(tid)
        self.fs = Filesystem(self.device, caller=lambda: self.tid, mode=mode)

    def resolve(self) -> str:
        path = "/" + self.fs.readlink("/ksyms")
        self.fs.getattr(path)
        return path

    def opened(self) -> tuple[str, Info]:
        path, info = self.resolve(), Info()
        assert self.fs.open(path, info) == 0
        return path, info


@pytest.fixture
def mounted() -> Mounted:
    return Mounted()


def failure(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    # What the bindings need: an OSError with a positive errno, and nothing else.
    assert type(caught.value.errno) is int
    return errno.errorcode[caught.value.errno]


def test_the_root_has_three_entries(mounted: Mounted) -> None:
    names = [name for name, _, _ in mounted.fs.readdir("/", Info())]

    assert names == [".", "..", "ksyms", "modules", "snapshots"]


@pytest.mark.parametrize(
    ("path", "kind", "permissions"),
    [
        ("/", stat.S_IFDIR, 0o555),
        ("/snapshots", stat.S_IFDIR, 0o555),
        ("/ksyms", stat.S_IFLNK, 0o777),
        ("/modules", stat.S_IFREG, 0o400),
    ],
)
def test_each_entry_has_its_kind_and_its_permissions(
    mounted: Mounted, path: str, kind: int, permissions: int
) -> None:
    attributes = mounted.fs.getattr(path)

    assert attributes["st_mode"] == kind | permissions
    owner = attributes.get("st_uid", 0), attributes.get("st_gid", 0)
    assert owner == (os.geteuid(), os.getegid())


def test_looking_at_the_link_asks_the_source_nothing(mounted: Mounted) -> None:
    mounted.fs.getattr("/ksyms")
    mounted.fs.readdir("/", Info())

    assert mounted.source.reads == 0


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o444])
def test_snapshot_and_listing_have_the_mode_that_was_asked_for(mode: int) -> None:
    mounted = Mounted(mode=mode)
    path = mounted.resolve()

    for found in (path, "/modules"):
        assert stat.S_IMODE(mounted.fs.getattr(found)["st_mode"]) == mode


def test_a_snapshot_has_its_exact_size_and_a_constant_identity(
    mounted: Mounted,
) -> None:
    first = mounted.fs.getattr(mounted.resolve())
    mounted.source.state, mounted.source.size = 2, 100
    second = mounted.fs.getattr(mounted.resolve())

    assert (first["st_size"], second["st_size"]) == (7 + 24, 7 + 2400)
    assert first["st_ino"] == second["st_ino"] == INODE
    for name in ("st_atime", "st_mtime", "st_ctime"):
        assert first[name] == second[name]
    assert second["st_blocks"] == 5


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/snapshots/", "/snapshots/0", "/snapshots/01", "/snapshots/+1"),
        *("/snapshots/1x", "/snapshots/-1", "/snapshots/1/2", "/snapshots/2"),
        *("/snapshots/\u0661", "/snapshots/" + "9" * 5000, "/snapshots/99", "/ksyms/x"),
    ],
)
def test_what_is_not_there_is_enoent(mounted: Mounted, path: str) -> None:
    mounted.resolve()

    assert failure(mounted.fs.getattr, path) == "ENOENT"


def test_a_generation_that_is_gone_is_estale(mounted: Mounted) -> None:
    path = mounted.resolve()
    mounted.source.state = 2
    mounted.resolve()

    assert failure(mounted.fs.getattr, path) == "ESTALE"
    assert failure(mounted.fs.open, path, Info()) == "ESTALE"


def test_only_the_link_is_a_link(mounted: Mounted) -> None:
    assert failure(mounted.fs.readlink, "/modules") == "EINVAL"


def test_the_link_leads_to_the_current_generation(mounted: Mounted) -> None:
    assert mounted.fs.readlink("/ksyms") == "snapshots/1"
    mounted.source.state = 2
    assert mounted.fs.readlink("/ksyms") == "snapshots/2"


def test_snapshots_lists_those_that_are_there(mounted: Mounted) -> None:
    mounted.opened()
    mounted.source.state = 2
    mounted.resolve()

    entries = mounted.fs.readdir("/snapshots", Info())

    assert [name for name, _, _ in entries] == [".", "..", "1", "2"]
    assert all(attributes["st_ino"] for _, attributes, _ in entries)


def test_listing_snapshots_is_no_step_of_a_walk(mounted: Mounted) -> None:
    path, _ = mounted.opened()
    mounted.source.state = 2
    mounted.tid = Q
    mounted.resolve()
    mounted.tid = 300
    assert failure(mounted.fs.open, path, Info()) == "ESTALE"  # and is tried again
    mounted.fs.readdir("/snapshots", Info())

    mounted.fs.open(path, Info())  # through /proc/PID/fd: as it is


def test_an_open_lets_the_kernel_keep_the_pages(mounted: Mounted) -> None:
    _, info = mounted.opened()

    assert (info.keep_cache, info.direct_io) == (1, 0)
    assert info.fh > 0


def test_a_read_is_of_the_handle(mounted: Mounted) -> None:
    path, info = mounted.opened()

    assert mounted.fs.read(path, 7, 0, info) == b"image 1"
    assert type(mounted.fs.read(path, 7, 0, info)) is bytes


def test_a_file_that_never_was_cannot_be_opened(mounted: Mounted) -> None:
    assert failure(mounted.fs.open, "/snapshots/77", Info()) == "ESTALE"


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC])
@pytest.mark.parametrize("name", ["snapshot", "/modules"])
def test_opening_for_writing_is_refused(
    mounted: Mounted, name: str, flags: int
) -> None:
    path = mounted.resolve() if name == "snapshot" else name

    assert failure(mounted.fs.open, path, Info(flags)) == "EACCES"


def test_close_and_release_free_the_slot(mounted: Mounted) -> None:
    path, info = mounted.opened()
    assert failure(mounted.fs.open, path, Info()) == "EBUSY"

    assert mounted.fs.flush(path, info) == 0
    assert mounted.fs.release(path, info) == 0
    mounted.opened()


def test_a_listing_is_of_the_state_at_open(mounted: Mounted) -> None:
    info = Info()
    mounted.fs.open("/modules", info)
    text = mounted.fs.read("/modules", 1000, 0, info)
    mounted.source.state, mounted.source.size = 2, 55

    assert mounted.fs.read("/modules", 1000, 0, info) == text
    assert text.endswith(b" 1 kernel\n")
    assert info.direct_io == 1
    later = Info()
    mounted.fs.open("/modules", later)
    assert b" 55 kernel" in mounted.fs.read("/modules", 1000, 0, later)
    assert mounted.fs.flush("/modules", info) == 0
    assert mounted.fs.release("/modules", info) == 0


def test_a_listing_has_no_limit_of_one_open(mounted: Mounted) -> None:
    infos = [Info(), Info()]
    for info in infos:
        mounted.fs.open("/modules", info)
    mounted.opened()

    assert infos[0].fh != infos[1].fh


def test_the_listing_of_a_live_kernel_is_for_whom_its_addresses_are() -> None:
    mounted = Mounted(live=True, mode=0o444)
    mounted.processes.trusted = {P}

    mounted.fs.open("/modules", Info())
    mounted.tid = Q
    assert failure(mounted.fs.open, "/modules", Info()) == "EPERM"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create", ("/x", 0o600, None)),
        ("mknod", ("/x", 0o600, 0)),
        ("mkdir", ("/x", 0o700)),
        ("symlink", ("/x", "y")),
        ("link", ("/x", "/ksyms")),
        ("rename", ("/ksyms", "/x")),
        ("rename", ("/ksyms", "/x", 1)),
        ("unlink", ("/ksyms",)),
        ("rmdir", ("/snapshots",)),
        ("chmod", ("/modules", 0o777)),
        ("chmod", ("/modules", 0o777, None)),
        ("chown", ("/modules", 1, 1)),
        ("utimens", ("/modules", (0, 0))),
    ],
)
def test_nothing_can_be_changed(
    mounted: Mounted, name: str, arguments: tuple[object, ...]
) -> None:
    assert failure(getattr(mounted.fs, name), *arguments) == "EROFS"


@pytest.mark.parametrize("arguments", [(0,), (0, None)])
def test_truncating_is_writing(mounted: Mounted, arguments: tuple[object, ...]) -> None:
    assert failure(mounted.fs.truncate, mounted.resolve(), *arguments) == "EACCES"


def test_truncating_fails_as_the_flavor_fails_a_write() -> None:
    world = World(flavor=NETBSD)
    fs = Filesystem(world.device, caller=lambda: 0)

    assert failure(fs.truncate, "/snapshots/1", 0) == "EROFS"


KIOCGSIZE = 0x80086C01


def ioctl(
    mounted: Mounted, path: str, info: Info, request: int, size: int | None = None
) -> tuple[str, bytes]:
    """The errno or "" and what is in the buffer, which libfuse did not clear."""
    buffer = ctypes.create_string_buffer(b"\xa5" * 0x4000, 0x4000)
    length = request >> 16 & 0x3FFF if size is None else size
    data = ctypes.addressof(buffer) if length else None
    name = ""
    try:
        assert mounted.fs.ioctl(path, request, 0x1000, info, 0, data) == 0
    except OSError as error:
        name = errno.errorcode[error.errno or 0]
    assert buffer.raw[length:] == b"\xa5" * (0x4000 - length)  # nothing beside it
    return name, buffer.raw[:length]


def test_an_ioctl_s_answer_is_in_the_buffer(mounted: Mounted) -> None:
    path, info = mounted.opened()

    assert ioctl(mounted, path, info, KIOCGSIZE) == ("", b"\x1f" + bytes(7))


@pytest.mark.parametrize(
    "request_",
    [
        0x80046C03,
        0x80086D01,
        0xBFFF6C01,
        0xBFFF0000,
        0xFFFF6C01,
        0xC0086C01,
        0x80106C02,
    ],
    ids=hex,
)
def test_what_an_ioctl_sends_back_with_an_error_is_cleared(
    mounted: Mounted, request_: int
) -> None:
    path, info = mounted.opened()

    name, sent = ioctl(mounted, path, info, request_)

    assert name == "ENOTTY"
    assert sent == bytes(len(sent))


def test_a_signed_request_number_is_the_same_request(mounted: Mounted) -> None:
    path, info = mounted.opened()
    buffer = ctypes.create_string_buffer(8)
    signed = KIOCGSIZE - (1 << 32)

    assert mounted.fs.ioctl(path, signed, 0, info, 0, ctypes.addressof(buffer)) == 0
    assert buffer.raw == b"\x1f" + bytes(7)


@pytest.mark.parametrize("request_", [0x00006C01, 0x20006C01, 0x5413], ids=hex)
def test_an_ioctl_without_a_buffer_is_enotty(mounted: Mounted, request_: int) -> None:
    path, info = mounted.opened()

    assert ioctl(mounted, path, info, request_, 0)[0] == "ENOTTY"


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.integers(0, (1 << 32) - 1), st.sampled_from([b"l", b"l", b"f", b"\0"]))
def test_any_request_has_an_errno_and_sends_nothing_that_is_not_its_own(
    number: int, group: bytes
) -> None:
    mounted = Mounted()
    path, info = mounted.opened()
    request = number & ~0xFF00 | group[0] << 8

    name, sent = ioctl(mounted, path, info, request)

    # 0x1000 is no memory of the caller; P, a thread of the fakes, is nobody.
    assert name in {"", "ENOTTY", "EFAULT", "ENXIO", "EOVERFLOW"}
    if name and request >> 31:
        assert sent == bytes(len(sent))


@pytest.mark.parametrize("path", ["/", "/snapshots", "/modules"])
def test_an_ioctl_of_anything_else_is_enotty(mounted: Mounted, path: str) -> None:
    # Of a directory, fh is 0, or what opendir has left there.
    mounted.opened()

    for handle in (0, 1):
        name, sent = ioctl(mounted, path, Info(fh=handle), KIOCGSIZE)
        assert (name, sent) == ("ENOTTY", bytes(8))


def test_an_unexpected_error_is_eio_and_logged(
    mounted: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    assert failure(mounted.fs.read, "/snapshots/1", 1, 0, Info(fh=99)) == "EIO"
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), MemoryError()])
def test_nothing_but_an_errno_leaves_a_callback(
    mounted: Mounted, error: BaseException
) -> None:
    mounted.source.error = error

    expected = "ENOMEM" if isinstance(error, MemoryError) else "EIO"
    assert failure(mounted.fs.readlink, "/ksyms") == expected


def test_a_source_that_fails_is_enxio_and_said_once(
    mounted: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    mounted.source.error = SourceError("/proc/kallsyms", "Input/output error")

    for _ in range(5):
        assert failure(mounted.fs.readlink, "/ksyms") == "ENXIO"
    assert caplog.messages == ["readlink: /proc/kallsyms: Input/output error (ENXIO)"]


def test_what_is_to_happen_at_the_start_happens_in_order(mounted: Mounted) -> None:
    calls: list[int] = []
    mounted.fs.when_mounted(lambda: calls.append(1))
    mounted.fs.when_mounted(lambda: calls.append(2))

    mounted.fs.init("/")

    assert calls == [1, 2]


def test_one_that_fails_at_the_start_does_not_keep_the_rest(
    mounted: Mounted, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []
    mounted.fs.when_mounted(lambda: 1 // 0)  # type: ignore[arg-type]
    mounted.fs.when_mounted(lambda: calls.append(2))

    mounted.fs.init("/")

    assert calls == [2]
    assert caplog.records[0].levelno == logging.ERROR


def test_no_attribute_is_a_callback_by_mistake(mounted: Mounted) -> None:
    # The bindings register whatever has the name of an operation, such as lock.
    ours = [name for name in vars(mounted.fs) if not name.startswith("_")]
    public = {name for name in dir(mounted.fs) if not name.startswith("_")}

    assert ours == []
    assert public - {"use_ns", "when_mounted"} == {
        *("getattr", "readlink", "readdir", "open", "read", "flush", "release"),
        *("ioctl", "statfs", "init", "truncate"),
        *("create", "mknod", "mkdir", "symlink", "link", "rename", "unlink", "rmdir"),
        *("chmod", "chown", "utimens"),
    }
