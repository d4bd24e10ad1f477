"""Walks of the path: a stale one is walked again once, and the second one succeeds."""

from __future__ import annotations

import errno

import pytest

from ksymsfs.errors import SnapshotError, SourceError
from ksymsfs.generation import Generation, Generations
from ksymsfs.walk import MOST, SECONDS, Walks
from tests.ksymsfs.fakes import FakeClock, FakeSource, build


class Path:
    """The path of the device, and threads that walk it."""

    def __init__(self, *, retried: bool = True) -> None:
        self.source, self.clock = FakeSource(), FakeClock()
        self.dropped: list[int] = []
        self.generations = Generations(
            self.source, build, clock=self.clock, dropped=self.dropped.append
        )
        self.walks = Walks(self.generations, retried=retried, clock=self.clock)

    def change(self) -> None:
        self.source.state += 1

    def walk(self, tid: int) -> int:
        number = self.walks.named(tid).number
        self.walks.found(tid, number)
        return number

    def opened(self, tid: int, number: int) -> Generation:
        return self.walks.opened(tid, number)

    def failure(self, tid: int, number: int, *, lookup: bool = False) -> int | None:
        with pytest.raises(OSError) as caught:
            (self.walks.found if lookup else self.walks.opened)(tid, number)
        return caught.value.errno


@pytest.fixture
def path() -> Path:
    return Path()


def test_an_unchanged_source_is_one_generation(path: Path) -> None:
    assert path.opened(1, path.walk(1)) is path.opened(2, path.walk(2))


def test_an_open_of_the_current_generation_holds_it(path: Path) -> None:
    generation = path.opened(1, path.walk(1))
    path.change()
    path.walk(2)

    assert path.generations.get(generation.number) is generation
    path.generations.release(generation)
    assert path.dropped == [generation.number]


def test_a_change_between_readlink_and_open_is_estale_and_the_second_walk_new(
    path: Path,
) -> None:
    number = path.walk(1)
    path.change()

    assert path.failure(1, number) == errno.ESTALE
    second = path.walk(1)
    assert second == number + 1
    assert path.opened(1, second).image == b"image 2" + bytes(24)


def test_a_change_in_the_second_walk_too_does_not_matter(path: Path) -> None:
    number = path.walk(1)
    path.change()
    path.failure(1, number)
    second = path.walk(1)
    path.change()
    path.walk(2)  # another's, to whom it is gone
    path.change()

    assert path.walks.found(1, second).number == second
    assert path.opened(1, second).number == second


def test_what_the_second_walk_keeps_is_let_go_with_the_open(path: Path) -> None:
    number = path.walk(1)
    path.change()
    path.failure(1, number)
    second = path.walk(1)
    path.change()
    third = path.walk(2)
    path.generations.release(path.opened(1, second))

    assert [g.number for g in path.generations.all()] == [third]
    assert path.dropped == [number, second]


def test_where_the_path_is_not_walked_again_the_first_walk_succeeds() -> None:
    path = Path(retried=False)
    number = path.walk(1)
    path.change()
    second = path.walk(2)  # another's, to whom the first is gone

    assert second == number + 1
    assert path.opened(1, number).number == number
    assert path.failure(3, number) == errno.ESTALE


def test_what_such_a_walk_keeps_is_let_go_with_the_open_or_the_next_walk() -> None:
    path = Path(retried=False)
    first = path.walk(1)
    path.generations.release(path.opened(1, path.walk(1)))
    path.walk(2)  # and never opens it
    path.change()
    second = path.walk(3)
    assert path.dropped == []

    path.walk(2)
    assert path.dropped == [first]
    path.change()
    path.clock.now += SECONDS + 1
    path.walk(4)
    assert path.dropped == [first, second]


def test_a_third_walk_is_a_first_one_again(path: Path) -> None:
    number = path.walk(1)
    path.change()
    path.failure(1, number)
    path.generations.release(path.opened(1, path.walk(1)))

    third = path.walk(1)
    path.change()

    assert path.failure(1, third) == errno.ESTALE


def test_a_generation_that_is_gone_at_lookup_is_estale_and_walked_again(
    path: Path,
) -> None:
    number = path.walks.named(1).number
    path.change()
    path.walk(2)

    assert path.failure(1, number, lookup=True) == errno.ESTALE
    second = path.walk(1)
    path.change()
    path.walk(2)
    assert path.opened(1, second).number == second


@pytest.mark.parametrize("number", [0, -1, 2, 10**18])
def test_a_number_that_never_was_is_enoent_at_lookup(path: Path, number: int) -> None:
    path.walk(1)

    assert path.failure(1, number, lookup=True) == errno.ENOENT


def test_a_stale_generation_by_its_own_path_stays_estale(path: Path) -> None:
    number = path.walk(1)
    path.opened(2, path.walk(2))  # keeps it
    path.change()

    # The kernel tries twice, and has asked for the name before, or does so now.
    for _ in range(3):
        assert path.failure(3, number) == errno.ESTALE
        path.walks.found(3, number)
        assert path.failure(3, number) == errno.ESTALE


def test_also_for_who_was_told_so_of_another(path: Path) -> None:
    gone = path.walk(1)
    path.change()
    number = path.walk(1)
    path.opened(2, path.walk(2))  # keeps it
    path.change()

    for _ in range(2):
        # The name that the kernel has is bad, and it asks whether there is a good one.
        for is_lookup in (False, True, True):
            assert path.failure(3, gone, lookup=is_lookup) == errno.ESTALE
        assert path.failure(3, number) == errno.ESTALE
        path.walks.found(3, number)
        assert path.failure(3, number) == errno.ESTALE


def test_a_stale_generation_through_proc_is_opened_as_it_is(path: Path) -> None:
    number = path.walk(1)
    path.opened(2, path.walk(2))
    path.change()
    path.walk(3)

    # /proc/PID/fd/N leads to the file without a LOOKUP, the second time too.
    assert path.failure(4, number) == errno.ESTALE
    assert path.opened(4, number).number == number


def test_through_proc_also_by_who_has_just_looked_at_the_device(path: Path) -> None:
    path.opened(2, path.walk(2))
    number = path.walk(1)  # stat(2)
    path.change()

    assert path.failure(1, number) == errno.ESTALE
    assert path.opened(1, number).number == number  # the kernel tries again


def test_but_not_what_is_only_named_there_when_the_symbols_have_changed(
    path: Path,
) -> None:
    number = path.walk(1)  # and an O_PATH descriptor holds nothing open
    path.change()

    assert path.failure(1, number) == errno.ESTALE
    assert path.failure(1, number) == errno.ESTALE


def test_what_is_named_there_is_opened_when_a_change_came_to_nothing(
    path: Path,
) -> None:
    number = path.walk(1)
    path.source.announced += 1

    assert path.failure(1, number) == errno.ESTALE
    assert path.opened(1, number).number == number


def test_a_generation_that_nobody_has_cannot_be_opened_through_anything(
    path: Path,
) -> None:
    number = path.walk(1)
    path.change()
    path.walk(2)

    assert path.failure(3, number) == errno.ESTALE


def test_threads_do_not_disturb_each_other(path: Path) -> None:
    numbers = {tid: path.walk(tid) for tid in range(1, 9)}
    path.change()
    for tid, number in numbers.items():
        assert path.failure(tid, number) == errno.ESTALE
    seconds = {}
    for tid in numbers:
        seconds[tid] = path.walk(tid)
        path.change()

    opened = {tid: path.opened(tid, number).number for tid, number in seconds.items()}

    assert opened == seconds
    assert len(set(seconds.values())) == 8


def test_a_walk_that_is_never_finished_is_forgotten(path: Path) -> None:
    number = path.walk(1)
    path.change()
    path.failure(1, number)
    abandoned = path.walk(1)  # only a stat(2)
    path.change()
    path.walk(2)
    assert path.generations.get(abandoned) is not None

    path.clock.now += SECONDS + 1
    path.walk(2)

    assert path.generations.get(abandoned) is None


def test_another_readlink_lets_go_what_the_one_before_kept(path: Path) -> None:
    number = path.walk(1)
    path.change()
    path.failure(1, number)
    abandoned = path.walk(1)
    path.change()
    path.walk(1)

    assert path.generations.get(abandoned) is None


def test_a_crowd_of_threads_takes_bounded_memory(path: Path) -> None:
    for tid in range(1, 3 * MOST):
        number = path.walk(tid)
        path.change()
        path.failure(tid, number)
        path.walk(tid)

    assert len(path.generations.all()) <= MOST + 2


def test_a_source_that_fails_fails_the_walk_and_not_the_next(path: Path) -> None:
    path.walk(1)
    path.source.error = SourceError("table", "gone")
    with pytest.raises(SourceError):
        path.walks.named(1)
    path.source.error = None

    assert path.opened(1, path.walk(1)).number == 1


def test_a_source_that_fails_at_open_fails_the_open(path: Path) -> None:
    number = path.walk(1)
    path.source.error = SourceError("table", "gone")

    with pytest.raises(SourceError):
        path.opened(1, number)


def test_without_a_consistent_snapshot_the_walk_does_not_begin(path: Path) -> None:
    path.source.loading = "dummy"

    with pytest.raises(SnapshotError, match=r"3 tries: .*dummy is Loading"):
        path.walks.named(1)
