"""Whose open file is whose: handles of a generation, and who has descriptors of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksymsfs.generation import Generation
from ksymsfs.handle import MOST, Handle, is_held
from ksymsfs.process import Descriptor, ProcessId

GENERATION = Generation(1, b"", b"", 0, 0, 0)

PARENT, CHILD, STRANGER, OTHER = 100, 101, 200, 300
PARENTS = {CHILD: PARENT}


def handle(tgid: int | None, *, flushed: bool = False, freed: bool = False) -> Handle:
    owner = None if tgid is None else ProcessId(tgid, 1)
    return Handle(GENERATION, owner, flushed, freed)


def descriptors(number: int, tgids: set[int]) -> list[Descriptor]:
    """One open file: in each of these processes it has the descriptor *number*."""
    return [Descriptor(tgid, tgid, number) for tgid in sorted(tgids)]


def held(
    own: Handle,
    siblings: list[Handle],
    files: list[set[int]],
    *,
    mapped: set[int] = frozenset(),  # type: ignore[assignment]
) -> bool:
    return is_held(
        own,
        siblings,
        [descriptors(i, tgids) for i, tgids in enumerate(files)],
        descends=lambda tgid, ancestor: PARENTS.get(tgid) == ancestor,
        is_mapped_by=lambda tgid: tgid in mapped,
    )


@pytest.mark.parametrize("files", [[{PARENT}], [{CHILD}], [{STRANGER}], [{1, 2, 3}]])
def test_the_only_handle_is_held_by_whoever_has_the_file(files: list[set[int]]) -> None:
    assert held(handle(PARENT, flushed=True), [], files)


def test_without_a_descriptor_anywhere_it_is_not_held() -> None:
    assert not held(handle(PARENT, flushed=True), [], [])
    assert not held(handle(PARENT, flushed=True), [handle(OTHER, flushed=True)], [])


def test_a_file_of_one_who_never_closed_is_its_own() -> None:
    assert not held(handle(PARENT, flushed=True), [handle(STRANGER)], [{STRANGER}])


def test_a_second_file_in_that_process_is_a_passed_one() -> None:
    files = [{STRANGER}, {STRANGER}]

    assert held(handle(PARENT, flushed=True), [handle(STRANGER)], files)


def test_a_child_that_opened_its_own_and_holds_its_parents() -> None:
    assert held(handle(PARENT, flushed=True), [handle(CHILD)], [{CHILD}, {CHILD}])
    assert not held(handle(PARENT, flushed=True), [handle(CHILD)], [{CHILD}])


def test_one_that_never_closed_claims_the_file_that_fewest_have() -> None:
    # CHILD has opened its own, and was passed STRANGER's.
    files = [{CHILD, STRANGER}, {CHILD}]
    siblings = [handle(CHILD), handle(OTHER, flushed=True)]

    assert held(handle(STRANGER, flushed=True), siblings, files)


def test_as_many_files_as_handles_is_everybodys() -> None:
    siblings = [handle(STRANGER, flushed=True)]

    assert held(handle(PARENT, flushed=True), siblings, [{OTHER}, {OTHER}])


def test_where_counting_is_enough_nobodys_memory_is_looked_at() -> None:
    def refuse(tgid: int) -> bool:
        raise AssertionError(f"the memory of {tgid}")

    own, siblings = handle(PARENT, flushed=True), [handle(STRANGER, flushed=True)]
    for number in (0, 2):
        files = [descriptors(fd, {PARENT}) for fd in range(number)]
        is_held(own, siblings, files, descends=lambda *_: False, is_mapped_by=refuse)


def with_before(own: Handle, *numbers: int) -> Handle:
    """*own*, whose owner had these descriptors already when it opened."""
    assert own.owner is not None
    tgid = own.owner.tgid
    own.before = frozenset(Descriptor(tgid, tgid, number) for number in numbers)
    return own


def test_a_childs_open_that_is_under_way_does_not_take_what_it_inherited() -> None:
    # Its descriptor is not there yet, or just no more.
    under_way = with_before(handle(CHILD), 0)

    assert held(handle(PARENT, flushed=True), [under_way], [{CHILD}])
    assert not held(handle(PARENT, flushed=True), [handle(CHILD)], [{CHILD}])


def test_a_closed_open_of_a_child_does_not_take_what_it_inherited() -> None:
    # Its RELEASE is under way, and nothing is mapped.
    closed = with_before(handle(CHILD, flushed=True), 0)

    assert held(handle(PARENT, flushed=True), [closed], [{CHILD}])
    assert not held(closed, [handle(PARENT, flushed=True)], [{CHILD}])


def test_a_dup_beside_what_was_inherited_is_its_own() -> None:
    own = with_before(handle(CHILD, flushed=True), 1, 2)

    assert held(own, [handle(PARENT, flushed=True)], [{CHILD}])


def test_what_was_inherited_and_passed_on_is_not_its_own_either() -> None:
    closed = with_before(handle(CHILD, flushed=True), 0)

    assert not held(closed, [handle(PARENT, flushed=True)], [{CHILD, STRANGER}])


# One file too few: somebody has no descriptor.
def test_who_has_nothing_mapped_must_have_the_descriptor() -> None:
    siblings = [handle(STRANGER, flushed=True)]
    own = handle(PARENT, flushed=True)

    assert held(own, siblings, [{OTHER}], mapped={STRANGER})
    assert not held(own, siblings, [{OTHER}], mapped={PARENT})


def test_who_has_nothing_mapped_goes_before_who_is_nearer() -> None:
    # CHILD holds PARENT's file; its own open is a mapping alone.
    assert held(
        handle(PARENT, flushed=True),
        [handle(CHILD, flushed=True)],
        [{CHILD}],
        mapped={CHILD},
    )
    assert not held(
        handle(CHILD, flushed=True),
        [handle(PARENT, flushed=True)],
        [{CHILD}],
        mapped={CHILD},
    )


@pytest.mark.parametrize("mapped", [set(), {PARENT, STRANGER}])
def test_of_equals_the_owner_itself_goes_first(mapped: set[int]) -> None:
    one, two = handle(PARENT, flushed=True), handle(STRANGER, flushed=True)

    assert held(one, [two], [{PARENT}], mapped=mapped)
    assert not held(two, [one], [{PARENT}], mapped=mapped)


def test_of_equals_a_descendant_goes_before_a_stranger() -> None:
    one, two = handle(PARENT, flushed=True), handle(STRANGER, flushed=True)

    assert held(one, [two], [{CHILD}])
    assert not held(two, [one], [{CHILD}])


def test_of_full_equals_nobody_is_refused_on_a_suspicion() -> None:
    one, two = handle(PARENT, flushed=True), handle(STRANGER, flushed=True)

    assert not held(one, [two], [{OTHER}])
    assert not held(two, [one], [{OTHER}])


def test_a_handle_that_was_freed_claims_last() -> None:
    freed = handle(STRANGER, flushed=True, freed=True)

    assert held(handle(PARENT, flushed=True), [freed], [{OTHER}])
    assert held(handle(PARENT, flushed=True), [freed], [{STRANGER}])


def test_an_invisible_callers_handle_claims_last() -> None:
    invisible = handle(None, flushed=True)

    assert held(handle(PARENT, flushed=True), [invisible], [{OTHER}])


def test_an_invisible_caller_that_never_closed_claims_no_visible_file() -> None:
    assert held(handle(PARENT, flushed=True), [handle(None)], [{CHILD}])


def test_the_best_that_fits_all_is_taken_not_the_best_for_each() -> None:
    # STRANGER's is held by OTHER, PARENT's by PARENT itself; CHILD has a mapping alone.
    own = handle(PARENT, flushed=True)
    siblings = [handle(STRANGER, flushed=True), handle(CHILD, flushed=True)]

    for files in ([{PARENT}, {OTHER}], [{OTHER}, {PARENT}]):
        assert held(own, siblings, files, mapped={PARENT, CHILD})
        assert not held(siblings[1], [siblings[0], own], files, mapped={PARENT, CHILD})


def test_among_a_crowd_nobody_is_refused_on_a_suspicion() -> None:
    crowd = [handle(1000 + i, flushed=True) for i in range(MOST)]

    assert not held(handle(PARENT, flushed=True), crowd, [{PARENT}])


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(2, 7), st.randoms(use_true_random=False))
def test_where_nothing_is_mapped_the_count_alone_decides_right(
    number: int, rng: random.Random
) -> None:
    """Each handle is held by its owner alone, by others too, or by others alone.

    None of them lingers without a descriptor, so all that were flushed are held.
    """
    owners = rng.sample(range(1000, 1000 + number), number)
    handles, files = [], []
    for owner in owners:
        others = set(rng.sample(owners, rng.randrange(number)))
        flushed = rng.random() < 0.6
        holders = others | {owner} if not flushed or not others else others
        handles.append(handle(owner, flushed=flushed))
        files.append(holders)
    rng.shuffle(files)

    for own in (h for h in handles if h.flushed):
        assert held(own, [h for h in handles if h is not own], files)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(2, 7), st.randoms(use_true_random=False))
def test_mappings_are_told_from_descriptors_whatever_relatives_there_are(
    number: int, rng: random.Random
) -> None:
    """Who was flushed is held by others alone, or has a mapping alone."""
    owners = list(range(1000, 1000 + number))
    handles, files, mapped = [], [], set()
    for owner in owners:
        handles.append(handle(owner, flushed=True))
        if rng.random() < 0.5:
            mapped.add(owner)
        else:
            files.append(set(rng.sample(owners, 1 + rng.randrange(number - 1))))

    for own in handles:
        assert own.owner is not None
        siblings = [h for h in handles if h is not own]
        expected = own.owner.tgid not in mapped
        assert held(own, siblings, files, mapped=mapped) is expected
