"""The device's rules, with fakes for the kernel, its processes and the clock."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator

import pytest

from ksymsfs.aside import Aside
from ksymsfs.device import INODE
from ksymsfs.errors import ImageTooLargeError, RefusedError, SnapshotError
from ksymsfs.flavor import ILLUMOS, NETBSD
from ksymsfs.process import Descriptor, Mapping
from tests.ksymsfs.fakes import World

P, P_THREAD, Q = 40_000_100, 40_000_101, 40_000_200  # beyond any real process


@pytest.fixture
def world() -> World:
    world = World()
    world.processes.process(P, P_THREAD)
    world.processes.process(Q)
    return world


@pytest.fixture
def blocking() -> Iterator[World]:
    """A world in which the memory of P, and of it alone, does not answer."""
    world = World()
    world.device._aside = Aside(seconds=0.05)
    world.processes.process(P)
    world.processes.process(Q)
    go = threading.Event()

    def mappings(tid: int) -> Iterator[Mapping]:
        if tid == P:
            assert go.wait(20)
        return iter(())

    world.processes.mappings = mappings  # type: ignore[method-assign]
    yield world
    go.set()


def failure(world: World, tid: int, flags: int = os.O_RDONLY) -> str:
    with pytest.raises(OSError) as caught:
        world.open(tid, flags)
    return errno.errorcode[caught.value.errno or 0]


def image(world: World, handle: int) -> bytes:
    return world.device.read(handle, 1 << 20, 0)


# Opening.


@pytest.mark.parametrize(
    "flags",
    [
        os.O_RDONLY,
        os.O_RDONLY | os.O_CLOEXEC,
        os.O_RDONLY | os.O_DIRECT,
        os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_NOATIME", 0),
        os.O_RDONLY | os.O_APPEND,
    ],
)
def test_reading_is_opening(world: World, flags: int) -> None:
    assert image(world, world.open(P, flags)) == b"image 1" + bytes(24)


@pytest.mark.parametrize(
    "flags",
    [
        os.O_WRONLY,
        os.O_RDWR,
        os.O_ACCMODE,
        os.O_RDWR | os.O_APPEND,
        os.O_RDONLY | os.O_TRUNC,
        os.O_WRONLY | os.O_DIRECT,
    ],
)
def test_opening_for_writing_is_eacces_and_takes_no_slot(
    world: World, flags: int
) -> None:
    assert failure(world, P, flags) == "EACCES"
    world.open(P)


@pytest.mark.parametrize(
    ("flavor", "name"), [(NETBSD, "EROFS"), (ILLUMOS, "ENXIO")], ids=str
)
def test_another_flavor_has_another_errno_for_writing(
    flavor: object, name: str
) -> None:
    world = World(flavor=flavor)  # type: ignore[arg-type]

    assert failure(world, P, os.O_RDWR) == name


@pytest.mark.parametrize("tid", [P, P_THREAD])
def test_a_second_open_in_the_process_is_busy(world: World, tid: int) -> None:
    world.open(P)

    assert failure(world, tid) == "EBUSY"
    assert world.processes.scans == 0  # nobody had to look


def test_a_second_open_says_whose_it_is(world: World) -> None:
    world.open(P)

    with pytest.raises(OSError, match="process 40000100 has the device open already"):
        world.open(P_THREAD)


def test_another_process_opens_its_own(world: World) -> None:
    one, two = world.open(P), world.open(Q)

    assert one != two
    assert image(world, one) == image(world, two)


@pytest.mark.parametrize("flavor", [NETBSD, ILLUMOS], ids=["netbsd", "illumos"])
def test_other_flavors_do_not_mind_a_second_open(flavor: object) -> None:
    world = World(flavor=flavor)  # type: ignore[arg-type]
    world.processes.process(P)

    assert world.open(P) != world.open(P)


def test_a_caller_that_cannot_be_seen_has_no_limit(world: World) -> None:
    handles = [world.open(0) for _ in range(3)]

    assert len(set(handles)) == 3


def test_a_process_that_is_gone_when_it_is_looked_at_has_no_limit(
    world: World,
) -> None:
    assert world.open(999) != world.open(999)


def test_a_reused_pid_is_another_process(world: World) -> None:
    handle = world.open(P)
    world.processes.process(P, start=2)

    other = world.open(P)

    world.device.release(handle)
    assert failure(world, P) == "EBUSY"
    world.device.release(other)
    world.open(P)


def test_who_cannot_look_refuses(world: World) -> None:
    world.processes.error = OSError(errno.EMFILE, "Too many open files")

    assert failure(world, P) == "EMFILE"


def test_each_open_is_of_the_state_at_open(world: World) -> None:
    one = world.open(P)
    world.source.state = 2
    two = world.open(Q)

    assert image(world, one).startswith(b"image 1")
    assert image(world, two).startswith(b"image 2")


def test_an_open_that_fails_holds_nothing(world: World) -> None:
    world.open(Q)
    number = world.walk(P)
    world.source.state = 2
    with pytest.raises(OSError):
        world.device.open(number, P, 0)

    (generation,) = world.generations.all()
    assert generation.holders == 1
    world.open(P)


@pytest.mark.parametrize("attempt", range(3))
def test_without_a_consistent_snapshot_nobody_opens(world: World, attempt: int) -> None:
    world.source.loading = "dummy"
    for _ in range(attempt):
        with pytest.raises(SnapshotError):
            world.open(Q)
    with pytest.raises(SnapshotError):
        world.open(P)

    world.source.loading = ""
    world.open(P)


def test_an_image_that_is_too_large_is_not_opened() -> None:
    world = World(limit=10)

    with pytest.raises(ImageTooLargeError):
        world.open(P)


def test_memory_that_is_short_leaves_what_is_open(world: World) -> None:
    handle = world.open(P)
    world.source.state = 2
    world.source.error = MemoryError()

    with pytest.raises(MemoryError):
        world.open(Q)
    assert image(world, handle).startswith(b"image 1")
    world.source.error = None
    world.open(Q)


# The slot: what keeps it, what frees it.


def close(world: World, handle: int, tgid: int, *, last: bool = True) -> None:
    """close(2) by process *tgid*: FLUSH; RELEASE comes when the test says so."""
    world.device.flush(handle, tgid)
    for _, holders in world.processes.files:
        if last and tgid in holders:
            holders.discard(tgid)
            break


def test_a_slot_is_free_after_release(world: World) -> None:
    handle = world.open(P)
    close(world, handle, P)
    world.device.release(handle)

    world.open(P)
    assert world.processes.scans == 0


def test_a_slot_is_free_after_close_though_release_is_under_way(world: World) -> None:
    handle = world.open(P)
    close(world, handle, P)

    again = world.open(P)
    assert failure(world, P) == "EBUSY"
    world.device.release(handle)  # now it comes
    assert failure(world, P) == "EBUSY"
    close(world, again, P)
    world.open(P)


def test_a_dup_keeps_the_slot(world: World) -> None:
    handle = world.open(P)
    close(world, handle, P, last=False)

    assert failure(world, P) == "EBUSY"
    assert failure(world, P_THREAD) == "EBUSY"


def test_a_child_keeps_its_parents_slot(world: World) -> None:
    handle = world.open(P)
    world.processes.files[0][1].add(Q)
    world.processes.parents[Q] = P
    close(world, handle, P)

    assert failure(world, P) == "EBUSY"
    world.open(Q)
    assert failure(world, P) == "EBUSY"
    world.processes.files[0][1].clear()  # the child closes what it has inherited
    world.open(P)


def test_a_mapping_does_not_keep_the_slot(world: World) -> None:
    handles = []
    for _ in range(5):
        handles.append(world.open(P))
        close(world, handles[-1], P)

    for handle in handles:
        assert image(world, handle).startswith(b"image 1")
        world.device.release(handle)
    world.open(P)


def test_an_open_remembers_what_its_process_had_of_the_generation(
    world: World,
) -> None:
    handle = world.open(P)
    world.processes.files[0][1].add(Q)  # inherited
    number = world.walk(Q)
    own = world.device.open(number, Q, 0)  # no descriptor of it is there yet
    close(world, handle, P)

    assert failure(world, P) == "EBUSY"
    world.device.flush(own, Q)  # nor any more
    assert failure(world, P) == "EBUSY"


def test_a_number_that_was_closed_and_used_again_is_anothers_no_more(
    world: World,
) -> None:
    handle = world.open(P)
    world.processes.files[0][1].add(Q)  # inherited, as descriptor 0
    number = world.walk(Q)
    own = world.device.open(number, Q, 0)
    # Q closes what it inherited, and has its own as descriptor 0 instead.
    world.processes.files[:] = [("/mnt/snapshots/1", {Q}), ("/mnt/snapshots/1", {Q})]
    world.processes.same = {0: 1}
    world.device.flush(handle, Q)
    world.processes.files[1][1].clear()
    world.device.flush(own, Q)

    assert failure(world, Q) == "EBUSY"


def test_an_open_without_a_descriptor_left_to_look_leaves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open(P)
    number = world.walk(Q)

    def fail(*arguments: object) -> Iterator[Descriptor]:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(world.processes, "descriptors_of", fail)
        with pytest.raises(OSError, match="Too many"):
            world.device.open(number, Q, 0)

    world.open(Q)
    assert [g.holders for g in world.generations.all()] == [2]


def mapped(number: int, *, offset: int = 0, inode: int = INODE) -> Mapping:
    path = f"/mnt/snapshots/{number}"
    return Mapping(0x7F0000000000, offset, (0, 1), inode, path)


def test_a_mapping_of_ones_own_is_told_from_a_file_that_was_passed(
    world: World,
) -> None:
    passed, kept = world.open(P), world.open(Q)
    world.processes.files[:] = [("/mnt/snapshots/1", {Q})]
    world.processes.maps[Q] = [mapped(1)]
    world.device.flush(passed, P)
    world.device.flush(kept, Q)

    assert failure(world, P) == "EBUSY"
    world.open(Q)


def test_a_handle_that_was_found_free_claims_no_passed_file(world: World) -> None:
    world.processes.maps = {P: [mapped(1)], Q: [mapped(1)]}
    for _ in range(2):  # Q's first is free by the second
        close(world, world.open(Q), Q)
    passed = world.open(P)
    world.device.flush(passed, P)
    world.processes.files[:] = [
        ("/mnt/snapshots/1", {300}),
        ("/mnt/snapshots/1", {300}),
    ]

    assert failure(world, P) == "EBUSY"


def test_a_process_whose_memory_does_not_answer_is_taken_to_have_it_mapped(
    blocking: World,
) -> None:
    one, two = blocking.open(P), blocking.open(Q)
    blocking.processes.files[:] = [("/mnt/snapshots/1", {300})]
    blocking.device.flush(one, P)
    blocking.device.flush(two, Q)

    assert failure(blocking, Q) == "EBUSY"  # it has nothing mapped
    blocking.open(P)


def test_a_generation_goes_with_its_last_handle(world: World) -> None:
    one, two = world.open(P), world.open(Q)
    world.source.state = 2
    world.walk(0)

    world.device.release(one)
    assert world.dropped == []
    world.device.release(two)
    assert world.dropped == [1]


def test_the_slot_of_a_process_that_ended_is_not_anothers(world: World) -> None:
    handle = world.open(P)  # and passed on; then P ends
    world.device.flush(handle, P)
    del world.processes.threads[P]

    world.open(Q)
    world.device.release(handle)


# The kernel's own open for file attributes.


def test_the_kernels_open_for_file_attributes_is_no_second_open(world: World) -> None:
    world.open(P)
    world.processes.asking_for_attributes.add(P_THREAD)

    assert failure(world, P_THREAD) == "ENOTTY"
    assert failure(world, P) == "EBUSY"


def test_nor_is_it_stale_for_who_has_inherited_an_older_generation(
    world: World,
) -> None:
    world.open(P)
    world.source.state = 2
    world.walk(P)
    world.processes.asking_for_attributes.add(Q)

    with pytest.raises(RefusedError) as caught:
        world.device.open(1, Q, os.O_RDONLY)
    assert caught.value.errno == errno.ENOTTY

    world.processes.asking_for_attributes.clear()
    with pytest.raises(RefusedError) as caught:  # by its name
        world.device.open(1, Q, os.O_RDONLY)
    assert caught.value.errno == errno.ESTALE


def test_a_second_walk_that_ends_in_ebusy_keeps_no_generation(world: World) -> None:
    world.open(P)
    number = world.walk(P)
    world.source.state = 2
    world.walk(Q)
    with pytest.raises(RefusedError):
        world.device.walks.opened(P, number)
    second = world.walk(P)
    with pytest.raises(RefusedError, match="open already"):
        world.device.open(second, P, os.O_RDONLY)
    world.source.state = 3
    third = world.walk(Q)

    assert [g.number for g in world.generations.all()] == [number, third]


# Who may see addresses.


@pytest.fixture
def live() -> World:
    world = World(live=True, public=True)
    world.processes.process(P, P_THREAD)
    world.processes.process(Q)
    world.processes.trusted = {P}
    return world


def test_of_a_live_kernel_only_who_is_shown_addresses_opens(live: World) -> None:
    assert failure(live, Q) == "EPERM"
    live.open(P)


def test_each_thread_is_looked_at_by_itself(live: World) -> None:
    assert failure(live, P_THREAD) == "EPERM"


def test_who_is_refused_has_no_snapshot_built(live: World) -> None:
    with pytest.raises(RefusedError):
        live.device.open(1, Q, os.O_RDONLY)
    assert live.source.reads == 0


@pytest.mark.parametrize("public", [False, True])
def test_a_caller_that_cannot_be_checked_opens_only_what_is_its_owners_alone(
    public: bool,
) -> None:
    world = World(live=True, public=public)

    if public:
        assert failure(world, 0) == "EPERM"
    else:
        world.open(0)


def test_saved_symbols_are_shown_to_everybody() -> None:
    world = World(live=False, public=True)
    world.processes.process(Q)

    world.open(Q)
    world.open(0)


def test_writing_is_refused_before_anything_else(live: World) -> None:
    assert failure(live, Q, os.O_RDWR) == "EACCES"


def test_a_listing_has_the_same_rule(live: World) -> None:
    live.device.check_access(P, os.O_RDONLY)
    with pytest.raises(RefusedError, match="CAP_SYSLOG"):
        live.device.check_access(Q, os.O_RDONLY)
    with pytest.raises(RefusedError, match="read-only"):
        live.device.check_access(P, os.O_RDWR)


# Reading.


def test_reads_are_of_the_opens_own_generation(world: World) -> None:
    handle = world.open(P)
    world.source.state = 2
    world.open(Q)

    assert world.device.read(handle, 7, 0) == b"image 1"


@pytest.mark.parametrize(
    ("size", "offset", "expected"),
    [
        (5, 0, b"image"),
        (3, 6, b"1\0\0"),
        (100, 30, b"\0"),
        (100, 31, b""),
        (1, 1 << 62, b""),
        (0, 0, b""),
        (1 << 40, 0, b"image 1" + bytes(24)),
    ],
)
def test_reads_end_with_the_image(
    world: World, size: int, offset: int, expected: bytes
) -> None:
    assert world.device.read(world.open(P), size, offset) == expected


# ioctls (the encodings are in test_flavors).

KIOCGSIZE, KIOCGADDR = 0x80086C01, 0x80086C02


def test_kiocgsize_is_the_size_of_the_opens_own_generation(world: World) -> None:
    handle = world.open(P)
    world.source.size = 100
    world.source.state = 2
    other = world.open(Q)

    sizes = [world.device.ioctl(h, P, KIOCGSIZE, 0) for h in (handle, other)]

    assert sizes == [struct.pack("=Q", 31), struct.pack("=Q", 7 + 2400)]


def ioctl_failure(world: World, handle: int, tid: int, request: int) -> str:
    with pytest.raises(OSError) as caught:
        world.device.ioctl(handle, tid, request, 0)
    return errno.errorcode[caught.value.errno or 0]


def test_kiocgaddr_is_where_the_caller_has_the_generation_mapped(world: World) -> None:
    handle = world.open(P)
    world.processes.maps[P] = [mapped(7), mapped(1)]
    world.processes.maps[Q] = [Mapping(0x1000, 0, (0, 1), INODE, "/x/snapshots/1")]

    assert world.device.ioctl(handle, P, KIOCGADDR, 0) == struct.pack("=Q", 127 << 40)
    assert world.device.ioctl(handle, Q, KIOCGADDR, 0) == struct.pack("=Q", 0x1000)


@pytest.mark.parametrize(
    "mapping",
    [
        mapped(2),
        mapped(11),
        mapped(1, offset=4096),
        mapped(1, inode=99),
        Mapping(0x1000, 0, (0, 1), INODE, "/mnt/snapshots/1/x"),
    ],
)
def test_kiocgaddr_is_enxio_where_something_else_is_mapped(
    world: World, mapping: Mapping
) -> None:
    world.processes.maps[P] = [mapping]

    assert ioctl_failure(world, world.open(P), P, KIOCGADDR) == "ENXIO"


def test_kiocgaddr_is_enxio_for_a_caller_that_cannot_be_seen(world: World) -> None:
    assert ioctl_failure(world, world.open(0), 0, KIOCGADDR) == "ENXIO"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESRCH, errno.ENOENT])
def test_kiocgaddr_is_enxio_where_maps_are_hidden(world: World, number: int) -> None:
    handle = world.open(P)
    world.processes.error = OSError(number, os.strerror(number))

    assert ioctl_failure(world, handle, P, KIOCGADDR) == "ENXIO"


def test_kiocgaddr_without_a_descriptor_left_says_so(world: World) -> None:
    handle = world.open(P)
    world.processes.error = OSError(errno.EMFILE, "Too many open files")

    assert ioctl_failure(world, handle, P, KIOCGADDR) == "EMFILE"


def test_kiocgaddr_of_memory_that_does_not_answer_is_efault(blocking: World) -> None:
    handle = blocking.open(P)

    assert ioctl_failure(blocking, handle, P, KIOCGADDR) == "EFAULT"
    assert ioctl_failure(blocking, handle, P, KIOCGADDR) == "EFAULT"  # at once
    assert blocking.device.ioctl(handle, P, KIOCGSIZE, 0) == struct.pack("=Q", 31)


def test_ioctls_follow_the_flavor() -> None:
    world = World(flavor=ILLUMOS)

    assert ioctl_failure(world, world.open(0), 0, KIOCGSIZE) == "ENXIO"
