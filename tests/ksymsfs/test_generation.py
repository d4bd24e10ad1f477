"""Generations: when symbols are read again, when not, and what is never missed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ksymsfs.elf import ElfFormat
from ksymsfs.errors import ImageTooLargeError, SnapshotError, SourceError
from ksymsfs.generation import ATTEMPTS, SETTLING, WALK, Generation, Generations
from ksymsfs.linker import LinkerFile
from tests.ksymsfs.fakes import FakeClock, FakeSource, build


class Kernel(FakeSource):
    """A fake kernel, its generations, and the clock that both go by."""

    def __init__(self, *, limit: int | None = None) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.dropped: list[int] = []
        self.generations = Generations(
            self, build, limit=limit, clock=self.clock, dropped=self.dropped.append
        )

    def settled(self) -> Generation:
        """The current generation, after it has settled."""
        self.generations.current()
        self.clock.now += SETTLING
        return self.generations.current()


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def state_of(generation: Generation) -> int:
    return int(generation.image[len(b"image ") :].rstrip(b"\0"))


def test_nothing_is_read_before_the_first_open(kernel: Kernel) -> None:
    assert kernel.reads == 0
    assert kernel.generations.all() == []


def test_the_first_generation_is_number_one(kernel: Kernel) -> None:
    generation = kernel.generations.current()

    assert (generation.number, state_of(generation)) == (1, 1)
    assert generation.modules == b"1 0x0000000000001000 0x1 1 kernel\n"


def test_a_settled_generation_is_never_read_again(kernel: Kernel) -> None:
    generation = kernel.settled()
    reads = kernel.reads

    for _ in range(100):
        kernel.clock.now += 100
        assert kernel.generations.current() is generation
    assert kernel.reads == reads


def test_a_changed_fingerprint_is_seen_at_once(kernel: Kernel) -> None:
    old = kernel.settled()
    kernel.state = 2

    new = kernel.generations.current()

    assert (new.number, state_of(new)) == (old.number + 1, 2)


def test_a_new_generation_is_provisional_for_a_second(kernel: Kernel) -> None:
    kernel.generations.current()
    reads = kernel.reads

    kernel.clock.now += 0.4
    kernel.generations.current()
    assert kernel.reads == reads + 1
    kernel.clock.now += 0.4
    kernel.generations.current()
    assert kernel.reads == reads + 2
    kernel.clock.now += 0.4  # the first after the second settles it
    kernel.generations.current()
    assert kernel.reads == reads + 3
    kernel.generations.current()
    assert kernel.reads == reads + 3


class Announcing(Kernel):
    """A kernel that announces a change before it makes it, as PROG_UNLOAD is."""

    def fingerprint(self) -> int:
        return self.announced


@pytest.mark.parametrize("delay", [0.0, 0.1, 0.5, 0.99])
def test_a_change_that_comes_after_its_announcement_is_not_missed(
    delay: float,
) -> None:
    kernel = Announcing()
    kernel.settled()
    kernel.announced += 1
    kernel.generations.current()  # reads too early
    kernel.clock.now += delay
    kernel.state = 2

    assert state_of(kernel.generations.current()) == 2


def test_a_change_announced_while_the_last_one_settles_is_not_missed() -> None:
    kernel = Announcing()
    kernel.generations.current()
    kernel.clock.now += SETTLING
    kernel.announced += 1  # the read that settles meets it, but not yet the change
    kernel.generations.current()
    kernel.clock.now += 0.5
    kernel.generations.current()  # settles nothing: that was half a second ago
    kernel.clock.now += 0.4
    kernel.state = 2

    assert state_of(kernel.generations.current()) == 2


def test_an_announcement_that_comes_to_nothing_makes_no_generation() -> None:
    kernel = Announcing()
    generation = kernel.settled()
    kernel.announced += 1
    assert kernel.generations.current() is generation
    reads = kernel.reads
    kernel.clock.now += SETTLING
    assert kernel.generations.current() is generation
    assert kernel.generations.current() is generation

    assert kernel.reads == reads + 1
    assert kernel.dropped == []


def test_a_state_that_comes_back_is_a_new_generation(kernel: Kernel) -> None:
    first = kernel.settled()
    kernel.state = 2
    kernel.settled()
    kernel.state = 1

    assert kernel.generations.current().number == first.number + 2


@pytest.mark.parametrize("changes", range(ATTEMPTS))
def test_symbols_that_change_while_they_are_read_are_read_again(
    kernel: Kernel, changes: int
) -> None:
    kernel.meanwhile = [2, 3][:changes]

    assert state_of(kernel.generations.current()) == changes + 1
    assert kernel.reads == changes + 1


def test_after_three_tries_there_is_no_snapshot(kernel: Kernel) -> None:
    kernel.meanwhile = [2, 3, 4, 5]

    with pytest.raises(SnapshotError, match=r"in 3 tries.*changed while it was read"):
        kernel.generations.current()
    assert kernel.reads == ATTEMPTS


def test_a_module_that_stays_loading_is_no_snapshot(kernel: Kernel) -> None:
    kernel.loading = "nf_tables"

    with pytest.raises(SnapshotError, match="module nf_tables is Loading"):
        kernel.generations.current()
    kernel.loading = ""
    assert state_of(kernel.generations.current()) == 1


def test_a_failing_source_leaves_the_generations_that_are_open(kernel: Kernel) -> None:
    held = kernel.settled()
    kernel.generations.hold(held)
    kernel.error = SourceError("/proc/kallsyms", "Input/output error")

    with pytest.raises(SourceError):
        kernel.generations.current()
    assert kernel.generations.get(held.number) is held
    kernel.error = None
    assert kernel.generations.current() is held


def test_a_held_generation_lives_until_its_last_holder_is_gone(kernel: Kernel) -> None:
    old = kernel.settled()
    kernel.generations.hold(old)
    kernel.generations.hold(old)
    kernel.state = 2
    new = kernel.generations.current()

    assert kernel.generations.all() == [old, new]
    kernel.generations.release(old)
    assert kernel.generations.all() == [old, new]
    kernel.generations.release(old)
    assert kernel.generations.all() == [new]
    assert kernel.dropped == [old.number]


def test_the_current_generation_lives_without_a_holder(kernel: Kernel) -> None:
    generation = kernel.settled()
    kernel.generations.hold(generation)
    kernel.generations.release(generation)

    assert kernel.generations.all() == [generation]


def test_an_unheld_generation_goes_when_a_new_one_comes(kernel: Kernel) -> None:
    for _ in range(100):
        kernel.generations.current()
        kernel.state += 1

    assert len(kernel.generations.all()) == 1
    assert kernel.dropped == list(range(1, 100))


def test_numbers_are_never_used_again(kernel: Kernel) -> None:
    for _ in range(3):
        kernel.generations.current()
        kernel.state += 1

    assert kernel.generations.get(1) is None
    assert [kernel.generations.was(n) for n in (0, 1, 3, 4)] == [
        *(False, True, True, False)
    ]


def test_a_second_look_reads_nothing_in_the_same_walk(kernel: Kernel) -> None:
    number = kernel.generations.current().number
    reads = kernel.reads

    confirmed = kernel.generations.confirm(number)

    assert confirmed is not None
    assert (confirmed.number, kernel.reads) == (number, reads)


def test_a_second_look_long_after_reads_again_what_is_provisional(
    kernel: Kernel,
) -> None:
    number = kernel.generations.current().number
    reads = kernel.reads
    kernel.clock.now += WALK + 0.01

    assert kernel.generations.confirm(number) is not None
    assert kernel.reads == reads + 1


def test_a_second_look_sees_a_change(kernel: Kernel) -> None:
    number = kernel.generations.current().number
    kernel.state = 2

    assert kernel.generations.confirm(number) is None
    assert kernel.generations.confirm(number + 1) is None  # nobody was led there
    assert kernel.generations.current().number == number + 1


def test_an_image_of_exactly_the_limit_is_not_too_large() -> None:
    size = len(b"image 1") + 24

    assert Kernel(limit=size).generations.current().image
    with pytest.raises(ImageTooLargeError, match=f"image of {size} bytes"):
        Kernel(limit=size - 1).generations.current()


def test_what_is_too_large_is_not_built() -> None:
    built = []

    def note(files: Sequence[LinkerFile], fmt: ElfFormat) -> bytes:
        built.append(files)
        return b""

    source = FakeSource()
    source.size = 10_000
    generations = Generations(source, note, limit=1000)

    with pytest.raises(ImageTooLargeError):
        generations.current()
    assert built == []


def test_after_one_that_was_too_large_the_next_is_taken() -> None:
    kernel = Kernel(limit=1000)
    kernel.size = 10_000
    with pytest.raises(ImageTooLargeError):
        kernel.generations.current()
    kernel.size = 1

    assert state_of(kernel.generations.current()) == 1
