"""What /proc tells of processes: on trees that look like it, and of this very one."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ksymsfs.process import CAP_SYSLOG, Descriptor, Processes, ProcessId
from tests.ksymsfs.fakes import ProcTree


@pytest.fixture
def proc(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "proc")


class Described(Processes):
    """The processes of a tree, of which system calls know nothing."""

    def _is_first_thread(self, tid: int) -> bool:
        return False

    def _capabilities(self, tid: int) -> int:
        return int(self._status(tid, b"CapEff"), 16)


@pytest.fixture
def processes(proc: ProcTree) -> Processes:
    return Described(str(proc.root))


def failing(number: int, path: str) -> Callable[..., int]:
    real = os.open

    def fail(name: str, *args: int, **kwargs: int) -> int:
        if path in str(name):
            raise OSError(number, os.strerror(number), name)
        return real(name, *args, **kwargs)

    return fail


def test_a_thread_is_its_process_and_when_that_started(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40, 41, start=77)

    assert processes.identify(41) == processes.identify(40) == ProcessId(40, 77)


@pytest.mark.parametrize(
    "name", ["a b", "a) S 1 (b", "))))", "", "Tgid:\t9", "x\\nTgid:"]
)
def test_a_process_may_have_any_name(
    proc: ProcTree, processes: Processes, name: str
) -> None:
    proc.process(40, name=name)

    assert processes.identify(40) == ProcessId(40, 5)


def test_a_process_that_is_gone_is_nobody(processes: Processes) -> None:
    assert processes.identify(40) is None


def test_a_process_that_ends_while_it_is_looked_at_is_nobody(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40)
    (proc.root / "40/stat").write_text("")

    assert processes.identify(40) is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_who_cannot_look_does_not_say_that_nobody_is_there(
    proc: ProcTree,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    proc.process(40)
    monkeypatch.setattr(os, "open", failing(number, "/40/"))

    with pytest.raises(OSError) as caught:
        processes.identify(40)
    assert caught.value.errno == number
    with pytest.raises(OSError) as caught:
        processes.sees_kernel_addresses(40)
    assert caught.value.errno == number


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESRCH, errno.ENOENT])
def test_who_is_hidden_is_nobody_and_is_shown_no_address(
    proc: ProcTree,
    processes: Processes,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    proc.process(40, capabilities=1 << CAP_SYSLOG)
    monkeypatch.setattr(os, "open", failing(number, "/40/"))

    assert processes.identify(40) is None
    assert not processes.sees_kernel_addresses(40)


# kernel/ksyms_common.c kallsyms_show_value
@pytest.mark.parametrize(
    ("restrict", "paranoid", "with_capability", "without"),
    [
        (0, -1, True, True),
        (0, 0, True, True),
        (0, 1, True, True),
        (0, 2, True, False),
        (0, 4, True, False),
        (1, 0, True, False),
        (1, 2, True, False),
        (2, 0, False, False),
        (2, 2, False, False),
    ],
)
def test_who_sees_addresses_is_who_kallsyms_shows_them(
    proc: ProcTree,
    processes: Processes,
    restrict: int,
    paranoid: int,
    with_capability: bool,
    without: bool,
) -> None:
    proc.sysctl(kptr_restrict=restrict, perf_event_paranoid=paranoid)
    proc.process(40, capabilities=1 << CAP_SYSLOG)
    proc.process(50, capabilities=~(1 << CAP_SYSLOG) & (1 << 41) - 1)

    assert processes.sees_kernel_addresses(40) == with_capability
    assert processes.sees_kernel_addresses(50) == without


def test_capabilities_of_a_child_user_namespace_do_not_count(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40, capabilities=(1 << 41) - 1, namespace="user:[4026532000]")

    assert not processes.sees_kernel_addresses(40)


def test_a_thread_s_own_capabilities_count(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40, 41, capabilities=1 << CAP_SYSLOG)
    status = (proc.root / "41/status").read_text()
    (proc.root / "41/status").write_text(status.replace("0000000400000000", "0" * 16))

    assert processes.sees_kernel_addresses(40)
    assert not processes.sees_kernel_addresses(41)


def test_without_sysctls_the_strictest_rule_holds(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40, capabilities=1 << CAP_SYSLOG)
    (proc.root / "sys/kernel/kptr_restrict").unlink()

    assert not processes.sees_kernel_addresses(40)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("Name:\tx\nNSpid:\t17\n", True),
        ("Name:\tx\nNSpid:\t17\t1\n", False),
        ("Name:\tx\nNSpid:\t17\t3\t1\n", False),
        ("Name:\tx\n", False),
    ],
)
def test_the_proc_of_another_pid_namespace_is_recognized(
    proc: ProcTree, processes: Processes, status: str, expected: bool
) -> None:
    (proc.root / "self").mkdir()
    (proc.root / "self/status").write_text(status)

    assert processes.are_numbered_as_here() is expected


def test_without_proc_nobody_can_be_told_apart(processes: Processes) -> None:
    assert not processes.are_numbered_as_here()


def test_this_process_is_numbered_as_its_own_proc_says() -> None:
    assert Processes().are_numbered_as_here()
    identified = Processes().identify(threading.get_native_id())
    assert identified is not None
    assert identified.tgid == os.getpid()


def test_capabilities_of_another_process_are_those_that_its_status_shows() -> None:
    with subprocess.Popen(
        ["sh", "-c", "echo; read line"],
        user=1 if os.geteuid() == 0 else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        child.stdout.read(1)

        for pid in (os.getpid(), child.pid):
            status = Path(f"/proc/{pid}/status").read_text()
            (shown,) = (v for k, v in map(split, status.splitlines()) if k == "CapEff")
            assert Processes()._capabilities(pid) == int(shown, 16)
        child.communicate(b"\n")


def split(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key, value.strip()


def test_every_thread_of_this_process_is_one_process() -> None:
    found: list[ProcessId | None] = []
    processes = Processes()
    thread = threading.Thread(
        target=lambda: found.append(processes.identify(threading.get_native_id()))
    )
    thread.start()
    thread.join()

    assert found == [processes.identify(os.getpid())]


def in_order(found: object) -> list[Descriptor]:
    assert not isinstance(found, str)
    return sorted(found)  # type: ignore[call-overload, no-any-return]


def test_descriptors_are_found_by_the_end_of_their_path(
    proc: ProcTree, processes: Processes
) -> None:
    snapshot = proc.snapshot(17)
    for tgid in (40, 50):
        proc.process(tgid)
    proc.descriptor(40, 3, snapshot)
    proc.descriptor(40, 9, snapshot)
    proc.descriptor(40, 4, proc.snapshot(7))
    proc.descriptor(40, 5, proc.snapshot(117))
    proc.descriptor(50, 0, snapshot)
    proc.descriptor(50, 1, "socket:[123]")
    inode = snapshot.stat().st_ino

    found = in_order(processes.descriptors("/snapshots/17", inode))

    assert found == [
        Descriptor(40, 40, 3),
        Descriptor(40, 40, 9),
        Descriptor(50, 50, 0),
    ]


def test_the_first_process_is_looked_at_first_and_once(
    proc: ProcTree, processes: Processes
) -> None:
    snapshot = proc.snapshot(17)
    for tgid in (40, 50, 60):
        proc.process(tgid)
        proc.descriptor(tgid, 3, snapshot)
    inode = snapshot.stat().st_ino

    found = [d.tgid for d in processes.descriptors("/snapshots/17", inode, first=50)]

    assert found[0] == 50
    assert sorted(found) == [40, 50, 60]


def test_an_o_path_descriptor_does_not_count(
    proc: ProcTree, processes: Processes
) -> None:
    snapshot = proc.snapshot(17)
    proc.process(40)
    proc.descriptor(40, 3, snapshot, flags=os.O_PATH)
    proc.descriptor(40, 4, snapshot, flags=os.O_CLOEXEC | os.O_DIRECT)

    found = processes.descriptors("/snapshots/17", snapshot.stat().st_ino)

    assert [d.fd for d in found] == [4]


def test_a_file_of_another_inode_does_not_count(
    proc: ProcTree, processes: Processes
) -> None:
    snapshot = proc.snapshot(17)
    proc.process(40)
    proc.descriptor(40, 3, snapshot)

    assert list(processes.descriptors("/snapshots/17", 1)) == []


def test_a_file_of_another_device_does_not_count(
    proc: ProcTree, processes: Processes
) -> None:
    snapshot = proc.snapshot(17)
    status = snapshot.stat()
    proc.process(40)
    proc.descriptor(40, 3, snapshot)

    processes.device = os.major(status.st_dev), os.minor(status.st_dev)
    assert len(list(processes.descriptors("/snapshots/17", status.st_ino))) == 1
    processes.device = 1234, 5678
    assert list(processes.descriptors("/snapshots/17", status.st_ino)) == []


def test_a_thread_with_a_table_of_its_own_is_looked_at(
    proc: ProcTree, processes: Processes
) -> None:
    # kcmp(2) knows no such threads, so their tables are taken for different ones.
    snapshot = proc.snapshot(17)
    proc.process(40_000_000, 40_000_001)
    proc.descriptor(40_000_000, 5, "/dev/null")
    proc.descriptor(40_000_000, 6, snapshot, tid=40_000_001)

    found = processes.descriptors("/snapshots/17", snapshot.stat().st_ino)

    assert list(found) == [Descriptor(40_000_000, 40_000_001, 6)]


def test_a_process_that_hides_its_descriptors_is_passed_over(
    proc: ProcTree, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = proc.snapshot(17)
    for tgid in (40, 50):
        proc.process(tgid)
        proc.descriptor(tgid, 3, snapshot)
    real = os.readlink

    def readlink(path: str) -> str:
        if "/40/" in path:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "readlink", readlink)

    found = processes.descriptors("/snapshots/17", snapshot.stat().st_ino)

    assert [d.tgid for d in found] == [50]


def test_a_scan_without_a_descriptor_left_fails(
    proc: ProcTree, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = proc.snapshot(17)
    proc.process(40)
    proc.descriptor(40, 3, snapshot)
    monkeypatch.setattr(os, "open", failing(errno.EMFILE, "fdinfo"))

    with pytest.raises(OSError, match="Too many open files"):
        list(processes.descriptors("/snapshots/17", snapshot.stat().st_ino))


def test_a_descriptor_that_was_just_closed_is_no_error(
    proc: ProcTree, processes: Processes
) -> None:
    snapshot = proc.snapshot(17)
    proc.process(40)
    proc.descriptor(40, 3, snapshot)
    (proc.root / "40/task/40/fdinfo/3").unlink()

    assert list(processes.descriptors("/snapshots/17", snapshot.stat().st_ino)) == []


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    (tmp_path / "snapshots").mkdir()
    path = tmp_path / "snapshots" / "17"
    path.write_bytes(b"image" * 2000)
    return path


def own_files(snapshot: Path) -> list[set[int]]:
    processes = Processes()
    suffix = str(snapshot)
    inode = snapshot.stat().st_ino
    found = processes.descriptors(suffix, inode, first=os.getpid())
    return [{d.tgid for d in file} for file in processes.open_files(found)]


def test_dups_are_one_open_file_and_opens_are_several(snapshot: Path) -> None:
    one, two = os.open(snapshot, os.O_RDONLY), os.open(snapshot, os.O_RDONLY)
    copies = [os.dup(one), os.dup(two), os.dup(one)]

    assert own_files(snapshot) == [{os.getpid()}, {os.getpid()}]

    for fd in (one, *copies[1:]):
        os.close(fd)
    assert own_files(snapshot) == [{os.getpid()}] * 2
    os.close(copies[0])
    assert own_files(snapshot) == [{os.getpid()}]
    os.close(two)
    assert own_files(snapshot) == []


def test_an_inherited_descriptor_is_the_parents_open_file(snapshot: Path) -> None:
    with snapshot.open("rb") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
            pass_fds=[file.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            assert child.stdout is not None
            child.stdout.readline()
            files = own_files(snapshot)
            child.communicate()

    assert files == [{os.getpid(), child.pid}]


def test_a_descriptor_in_a_socket_s_queue_is_nowhere(snapshot: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with snapshot.open("rb") as file:
            socket.send_fds(ours, [b"-"], [file.fileno()])

        assert own_files(snapshot) == []


def test_without_kcmp_a_process_has_one_open_file(
    proc: ProcTree, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_kcmp", lambda *arguments: -1)
    found = [Descriptor(50, 50, 4), Descriptor(40, 40, 3), Descriptor(40, 40, 7)]

    assert processes.open_files(found) == [found[1:], found[:1]]


def test_many_open_files_are_told_apart(snapshot: Path) -> None:
    files = [snapshot.open("rb") for _ in range(60)]
    try:
        assert own_files(snapshot) == [{os.getpid()}] * 60
    finally:
        for file in files:
            file.close()


def test_a_descendant_descends_through_any_number_of_parents(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40, parent=1)
    proc.process(41, parent=40)
    proc.process(42, parent=41)

    assert processes.descends(42, 40)
    assert processes.descends(41, 40)
    assert not processes.descends(40, 40)
    assert not processes.descends(40, 42)
    assert not processes.descends(42, 43)


def test_an_orphan_descends_from_nobody_but_init(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(42, parent=41)  # which is gone

    assert processes.descends(42, 41)
    assert not processes.descends(42, 40)


MAPS = """\
55d4c0000000-55d4c0001000 r--p 00000000 fc:01 99 /usr/bin/program
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000002000-7f0000003000 r--s 00001000 00:34 77 /run/ksymsfs/snapshots/17
7f0000004000-7f0000005000 r--s 00000000 00:35 77 /mnt/other/snapshots/17
7f0000006000-7f0000007000 r--s 00000000 00:34 78 /run/ksymsfs/snapshots/17
7f0000008000-7f0000009000 r--p 00000000 00:34 77 /run/a b/snapshots/17 (deleted)
7f000000a000-7f000000b000 r--s 00000000 00:34 77 /run/ksymsfs/snapshots/17
7f000000c000-7f000000d000 r--s 00000000 00:34 77 /run/ksymsfs/snapshots/117
7ffff0000000-7ffff0001000 rw-p 00000000 00:00 0 [stack]
"""


@pytest.mark.parametrize(
    ("suffix", "inode", "device", "address"),
    [
        ("/snapshots/17", 77, (0, 0x34), 0x7F0000008000),
        ("/snapshots/17", 77, (0, 0x35), 0x7F0000004000),
        ("/snapshots/17", 78, (0, 0x34), 0x7F0000006000),
        ("/snapshots/117", 77, (0, 0x34), 0x7F000000C000),
        ("/snapshots/17", 77, None, 0x7F0000004000),
        ("/snapshots/17", 79, (0, 0x34), None),
        ("/snapshots/17", 77, (0, 0x36), None),
        ("/snapshots/7", 77, (0, 0x34), None),
    ],
)
def test_a_mapping_is_of_the_file_and_from_its_start(
    proc: ProcTree,
    processes: Processes,
    suffix: str,
    inode: int,
    device: tuple[int, int] | None,
    address: int | None,
) -> None:
    proc.process(40)
    (proc.root / "40/maps").write_text(MAPS)
    processes.device = device

    assert processes.mapped_at(40, suffix, inode) == address


def test_a_process_without_memory_has_nothing_mapped(
    proc: ProcTree, processes: Processes
) -> None:
    proc.process(40)
    (proc.root / "40/maps").write_text("")  # a zombie, a kernel thread

    assert processes.mapped_at(40, "/snapshots/17", 77) is None


def test_a_memory_map_that_may_not_be_read_is_an_error(processes: Processes) -> None:
    with pytest.raises(FileNotFoundError):
        processes.mapped_at(40, "/snapshots/17", 77)


def test_this_process_has_it_mapped_where_it_has_it_mapped(snapshot: Path) -> None:
    status = snapshot.stat()
    processes = Processes()
    processes.device = os.major(status.st_dev), os.minor(status.st_dev)
    with snapshot.open("rb") as file:
        with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapped:
            found = processes.mapped_at(os.getpid(), str(snapshot), status.st_ino)
            address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        assert processes.mapped_at(os.getpid(), str(snapshot), status.st_ino) is None

    assert found == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("16 0x3 0x80086601 0x7ffd0 0x0 0x0 0x0 0x7ffd 0x7f1\n", True),
        ("16 0x3 0x801c581f 0x7ffd0 0x0 0x0 0x0 0x7ffd 0x7f1\n", True),
        ("29 0x3 0x40086602 0x7ffd0 0x0 0x0 0x0 0x7ffd 0x7f1\n", True),
        ("16 0x3 0x80086c01 0x7ffd0 0x0 0x0 0x0 0x7ffd 0x7f1\n", False),
        ("257 0xffffff9c 0x7f1180086601 0x0 0x0 0x0 0x0 0x7f 0x7f1\n", False),
        ("running\n", False),
        ("-1 0x7ffd 0x7f1\n", False),
        ("", False),
        (None, False),
    ],
)
def test_an_open_for_file_attributes_is_known_by_the_ioctl_it_is_for(
    proc: ProcTree, processes: Processes, text: str | None, expected: bool
) -> None:
    proc.process(40)
    if text is not None:
        (proc.root / "40/syscall").write_text(text)

    assert processes.asks_for_attributes(40) is expected


def test_a_thread_that_still_runs_is_looked_at_until_it_waits_for_the_answer(
    proc: ProcTree, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.process(40)
    call = proc.root / "40/syscall"
    call.write_text("running\n")
    asleep = "16 0x3 0x80086601 0x7ffd0 0x0 0x0 0x0 0x7ffd 0x7f1\n"
    monkeypatch.setattr("time.sleep", lambda _: call.write_text(asleep))

    assert processes.asks_for_attributes(40)
