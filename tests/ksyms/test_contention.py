"""Lock events as perf script prints them, and the waits that they make."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ksyms import KsymsError
from ksyms.contention import (
    KINDS,
    MUTEX,
    PERCPU,
    READ,
    SPIN,
    WRITE,
    Event,
    Gap,
    Lost,
    Wait,
    Waits,
    parse_events,
)
from ksyms.errors import RecordingError

# perf 6.1 on Linux 6.18; the second LOST is of its own event, which shows the command.
PRINTED = """\
18003 [001]  2442.947127007: lock:contention_begin: 0xffff888627d2ba40 (flags=SPIN)
\tffffffff82201d7e
\tffffffff8220171b
\tffffffff821f85ed

18003 [000]  2442.948807537:   lock:contention_end: 0xffff888627d2ba40 (ret=0) ffffff80
21776 [000]  2659.120323223: PERF_RECORD_LOST lost 7
              mv 21790 [001]  2662.282418440: PERF_RECORD_LOST lost 1
21776 [001] 2662.282418440: lock:contention_begin: 0xffff8881003c07ec (flags=SPIN|MUTEX)
\tffffffff82201d7e

    0 [010]  2662.282418449: lock:contention_end: (nil) (ret=-4)
   12 [000]  2662.282418450: lock:contention_begin: 0xffff888100000000 (flags=)
   13 [000]  2662.282418451: lock:contention_begin: 0xffff888100000000 (flags=0x40|READ)
"""


def test_events_are_read_as_perf_script_prints_them() -> None:
    events = list(parse_events(PRINTED.splitlines(keepends=True)))

    assert events == [
        Event(
            True,
            18003,
            1,
            2442_947127007,
            0xFFFF888627D2BA40,
            SPIN,
            (0xFFFFFFFF82201D7E, 0xFFFFFFFF8220171B, 0xFFFFFFFF821F85ED),
        ),
        Event(False, 18003, 0, 2442_948807537, 0xFFFF888627D2BA40),
        Lost(7, 0, 2659_120323223),
        Lost(1, 1, 2662_282418440),
        Event(
            True,
            21776,
            1,
            2662_282418440,
            0xFFFF8881003C07EC,
            SPIN | MUTEX,
            (0xFFFFFFFF82201D7E,),
        ),
        Event(False, 0, 10, 2662_282418449, 0),
        Event(True, 12, 0, 2662_282418450, 0xFFFF888100000000),
        Event(True, 13, 0, 2662_282418451, 0xFFFF888100000000, 0x40 | READ),
    ]


def test_the_sum_of_lost_events_at_the_end_is_not_counted_again() -> None:
    lines = ["1 [000]  5.000000000: PERF_RECORD_LOST_SAMPLES lost 9\n"]

    assert list(parse_events(lines)) == []


@pytest.mark.parametrize(
    "line",
    [
        "nonsense\n",
        "\tnonsense\n",
        "1 [000] 5.0: lock:contention_begin: 0x10 (flags=SPIN)\n",
        "1 [000] 5.000000000: lock:contention_begin: 0x10 (flags=ODD)\n",
        "1 [000] 5.000000000: sched:sched_switch: a ==> b\n",
    ],
)
def test_what_is_no_event_is_an_error_that_shows_it(line: str) -> None:
    with pytest.raises(RecordingError) as caught:
        list(parse_events([line]))

    assert repr(line.strip()) in str(caught.value)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.data())
def test_mangled_output_gives_events_or_the_error(data: st.DataObject) -> None:
    text = list(PRINTED)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(text) - 1))
        text[at] = data.draw(st.sampled_from(" \n\t0[]():|x=-fz\0é"))

    try:
        events = list(parse_events("".join(text).splitlines(keepends=True)))
    except KsymsError:
        return
    assert all(isinstance(event, Event | Lost) for event in events)


def begin(tid: int, time: int, lock: int, flags: int = SPIN, cpu: int = 0) -> Event:
    return Event(True, tid, cpu, time, lock, flags, (tid, time))


def end(tid: int, time: int, lock: int, cpu: int = 0) -> Event:
    return Event(False, tid, cpu, time, lock)


A, B = 0xA0, 0xB0


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [begin(1, 10, A), end(1, 15, A)], [Wait(A, SPIN, 5, (1, 10))], id="one"
        ),
        pytest.param(
            [begin(1, 10, A), begin(2, 11, A), end(1, 15, A), end(2, 17, A)],
            [Wait(A, SPIN, 5, (1, 10)), Wait(A, SPIN, 6, (2, 11))],
            id="two threads for one lock",
        ),
        pytest.param(
            [begin(1, 10, A, WRITE), begin(1, 11, B), end(1, 12, B), end(1, 15, A)],
            [Wait(B, SPIN, 1, (1, 11)), Wait(A, WRITE, 5, (1, 10))],
            id="nested",
        ),
        pytest.param(
            [begin(1, 10, A, WRITE, cpu=0), end(1, 15, A, cpu=1)],
            [Wait(A, WRITE, 5, (1, 10))],
            id="ends on another CPU",
        ),
        pytest.param(
            [
                *(begin(0, 10, A, cpu=0), begin(0, 11, A, cpu=1)),
                *(end(0, 12, A, cpu=0), end(0, 14, A, cpu=1)),
            ],
            [Wait(A, SPIN, 2, (0, 10)), Wait(A, SPIN, 3, (0, 11))],
            id="idle threads of two CPUs",
        ),
        pytest.param([end(1, 15, A)], [], id="end without begin"),
        pytest.param([begin(1, 15, A)], [], id="begin without end"),
        pytest.param(
            [begin(1, 10, A), begin(1, 20, A), end(1, 25, A)],
            [Wait(A, SPIN, 5, (1, 20))],
            id="the end is missing",
        ),
        pytest.param(
            [begin(1, 10, A, MUTEX | SPIN), end(1, 15, A)],
            [Wait(A, MUTEX | SPIN, 5, (1, 10))],
            id="a mutex that spinning got",
        ),
        pytest.param(
            [
                begin(1, 10, A, MUTEX | SPIN),
                begin(1, 11, A, MUTEX),
                begin(1, 12, A, MUTEX | SPIN),
                begin(1, 13, A, MUTEX),
                end(1, 20, A),
            ],
            [Wait(A, MUTEX, 10, (1, 10))],
            id="a mutex that was slept for, with pauses",
        ),
        pytest.param(
            [
                begin(1, 10, A, MUTEX | SPIN),
                begin(1, 13, A, MUTEX | SPIN),
                end(1, 20, A),
            ],
            [Wait(A, MUTEX | SPIN, 7, (1, 13))],
            id="a mutex of which the end is missing",
        ),
        pytest.param(
            [begin(1, 10, A, PERCPU | READ), end(1, 9, A, cpu=1)],
            [Wait(A, PERCPU | READ, 0, (1, 10))],
            id="clocks of CPUs apart",
        ),
    ],
)
def test_waits_are_joined(events: list[Event], expected: list[Wait]) -> None:
    assert list(Waits(events)) == expected


def test_lost_events_are_counted_and_their_time_is_known() -> None:
    waits = Waits([begin(1, 10, A), end(1, 12, A), Lost(3, 0, 20), Lost(1, 1, 30)])

    list(waits)

    assert waits.lost == 4
    assert waits.gaps == [Gap(12, 20), Gap(0, 30)]


@pytest.mark.parametrize(
    ("gap", "counts"),
    [
        (Gap(0, 10), True),
        (Gap(0, 11), False),
        (Gap(10, 12), False),
        (Gap(14, 20), False),
        (Gap(15, 20), True),
    ],
)
def test_a_wait_that_reaches_into_a_gap_is_left_out(gap: Gap, counts: bool) -> None:
    gaps = [Gap(0, 1), gap, Gap(100, 200)]

    assert len(list(Waits([begin(1, 10, A), end(1, 15, A)], gaps))) == counts


class Action(NamedTuple):
    """One event of a schedule, and the wait that it completes."""

    event: Event
    wait: Wait | None = None


def schedule(seed: int) -> list[Action]:
    """What threads on two CPUs do in a while, moving from one to the other."""
    choose = random.Random(seed)
    time = 0
    begun: dict[int, list[Event]] = {tid: [] for tid in (1, 2, 3)}
    actions = []
    for _ in range(choose.randrange(4, 60)):
        time += choose.randrange(1, 4)
        tid, cpu = choose.choice([1, 2, 3]), choose.randrange(2)
        waiting = begun[tid]
        lock = choose.choice([A, B])
        if waiting and (len(waiting) == 2 or choose.random() < 0.6):
            first = waiting.pop()
            event = end(tid, time, first.lock, cpu)
            nsec = time - first.time
            wait = Wait(first.lock, first.flags, nsec, first.stack)
            actions.append(Action(event, wait))
        elif all(other.lock != lock for other in waiting):
            waiting.append(begin(tid, time, lock, choose.choice([*KINDS]), cpu))
            actions.append(Action(waiting[-1]))
    return actions


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers(0, 1 << 32))
def test_any_schedule_gives_its_waits(seed: int) -> None:
    actions = schedule(seed)

    waits = Waits([action.event for action in actions])

    assert list(waits) == [action.wait for action in actions if action.wait]


def lossy(actions: Sequence[Action], seed: int) -> list[Event | Lost]:
    """What is left of it when each CPU loses some events, and says so with its next."""
    choose = random.Random(seed)
    left: list[Event | Lost] = []
    lost = [0, 0]
    for action in actions:
        cpu = action.event.cpu
        if choose.random() < (0.7 if lost[cpu] else 0.15):
            lost[cpu] += 1
            continue
        if lost[cpu]:
            left.append(Lost(lost[cpu], cpu, action.event.time))
            lost[cpu] = 0
        left.append(action.event)
    time = actions[-1].event.time + 1 if actions else 0
    left += [Lost(count, cpu, time) for cpu, count in enumerate(lost) if count]
    return left


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.integers(0, 1 << 32))
def test_lost_events_never_make_up_a_wait(seed: int) -> None:
    actions = schedule(seed)
    left = lossy(actions, seed)
    first = Waits(left)
    list(first)

    again = list(Waits(left, first.gaps))

    true = [action.wait for action in actions if action.wait]
    assert all(wait in true for wait in again)
    for wait in again:
        true.remove(wait)
    if not first.lost:
        assert true == []
