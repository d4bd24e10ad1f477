"""Calls aside: results, time limits, and what stays behind."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from ksymsfs.aside import Aside, AsideError, start_thread


def wait_for(event: threading.Event) -> None:
    assert event.wait(20)


def test_a_result_comes_back() -> None:
    assert Aside().run("key", lambda late: 42) == 42


def test_an_error_comes_back() -> None:
    def fail(late: threading.Event) -> None:
        raise ProcessLookupError("gone")

    with pytest.raises(ProcessLookupError, match="gone"):
        Aside().run("key", fail)


def test_a_call_runs_in_a_thread_of_its_own() -> None:
    assert Aside().run(1, lambda late: threading.get_ident()) != threading.get_ident()


class Blocked:
    """A call that blocks until it is let go."""

    def __init__(self) -> None:
        self.go, self.was_late, self.done = (threading.Event() for _ in range(3))

    def __call__(self, late: threading.Event) -> str:
        wait_for(self.go)
        if late.is_set():
            self.was_late.set()
        self.done.set()
        return "too late"


def test_a_call_that_blocks_is_left_behind() -> None:
    aside, call = Aside(seconds=0.01), Blocked()

    with pytest.raises(AsideError, match=r"within 0\.01 s"):
        aside.run("key", call)
    call.go.set()
    wait_for(call.done)

    assert call.was_late.is_set()


def test_while_one_is_behind_its_key_is_refused_at_once() -> None:
    aside, call = Aside(seconds=0.01), Blocked()
    with pytest.raises(AsideError):
        aside.run("key", call)

    called = threading.Event()
    with pytest.raises(AsideError, match="has not come back"):
        aside.run("key", lambda late: called.set())

    assert not called.is_set()
    assert Aside(seconds=5).run("other", lambda late: 1) == 1
    call.go.set()


def test_a_key_is_taken_again_when_its_call_has_come_back() -> None:
    aside, call = Aside(seconds=0.01), Blocked()
    with pytest.raises(AsideError):
        aside.run("key", call)
    call.go.set()
    for _ in range(2000):
        if not aside._stalled:
            break
        time.sleep(0.01)

    aside._seconds = 5
    assert aside.run("key", lambda late: 2) == 2


def test_only_so_many_may_be_behind() -> None:
    aside, call = Aside(seconds=0.001, most=3), Blocked()
    for key in range(3):
        with pytest.raises(AsideError, match="no answer"):
            aside.run(key, call)

    with pytest.raises(AsideError, match="3 calls have not come back"):
        aside.run("another", lambda late: 1)
    call.go.set()


def test_without_another_thread_it_fails_and_forgets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    aside = Aside()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(AsideError, match="can't start new thread"):
            aside.run("key", lambda late: 1)

    assert aside.run("key", lambda late: 1) == 1


def test_many_calls_leave_no_thread() -> None:
    before = threading.active_count()
    aside = Aside(seconds=20)

    results = [aside.run(n, lambda late: 7) for n in range(200)]

    assert results == [7] * 200
    for _ in range(2000):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_thread_takes_no_signals_and_its_starter_still_does() -> None:
    masks: list[set[int]] = []
    done = threading.Event()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    def look() -> None:
        masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        done.set()

    start_thread("test", look)
    wait_for(done)

    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} <= masks[0]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
