"""A cancel reaches the call it names, wherever that call waits, and no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from host import CallFailed, InheritedWorker, UnixWorker, Worker, eventually


@pytest.fixture(params=["inherited", "unix"])
def worker(
    request: pytest.FixtureRequest,
    inherited_worker: Callable[..., InheritedWorker],
    unix_worker: Callable[..., UnixWorker],
) -> Worker:
    """Both shapes: calls served inline, and calls that take a hop."""
    return inherited_worker() if request.param == "inherited" else unix_worker("sample")


def cancelled(worker: Worker, function: str, *args: object) -> float:
    """Seconds from the cancel to the answer of a call that was running."""
    call = worker.begin(function, *args)
    eventually(lambda: worker.running() == call.call_id)
    # Let it get from its beginning to where it waits.
    time.sleep(0.05)
    started = time.monotonic()
    assert worker.cancel(call.call_id)
    with pytest.raises(CallFailed) as raised:
        worker.finish(call)
    assert raised.value.kind == "CANCELLED"
    return time.monotonic() - started


WAITS = [
    ("sleep", 60),
    ("busy",),
    ("wait_for_lock",),
    ("wait_for_child",),
    ("stubborn", 60),
    ("async_sleep", 60),
    ("async_busy",),
    ("async_blocking", 60),
]


@pytest.mark.parametrize("call", WAITS, ids=lambda call: call[0])
def test_interrupts(worker: Worker, call: tuple[str, object]) -> None:
    assert cancelled(worker, *call) < 1
    # Whatever was interrupted, the next call is whole, synchronous or not.
    assert worker.call("async_echo", 1) == 1
    assert worker.call("echo", 2) == 2


@pytest.mark.parametrize("several", [{}, {"threads": 2}, {"asyncio": 100}], ids=["one", "threads", "asyncio"])
@pytest.mark.parametrize("function", ["held_at_its_end", "held_at_a_step", "busy_in_asyncio"])
def test_a_cancel_tears_nothing_of_asyncio(
    inherited_worker: Callable[..., InheritedWorker], several: dict[str, int], function: str
) -> None:
    worker = inherited_worker(("torn",), **several)
    # What is known to be asynchronous begins on the loop.
    worker.call("times_held")
    for held in range(1, 4):
        call = worker.begin(function, timeout=5)
        eventually(lambda call=call: worker.running() == call.call_id)
        time.sleep(0.05)
        assert worker.cancel(call.call_id)
        try:
            assert worker.finish(call) == "ended"
        except CallFailed as error:
            assert error.kind == "CANCELLED"
        assert worker.call("times_held", timeout=5) == (0 if function == "busy_in_asyncio" else held)


def test_stale_cancel_never_hits_a_later_call(worker: Worker) -> None:
    for round_number in range(60):
        call = worker.begin("sleep", 0.0005 * (round_number % 4))
        worker.cancel(call.call_id)
        try:
            worker.finish(call)
        except CallFailed as error:
            assert error.kind == "CANCELLED"
        worker.cancel(call.call_id)
        assert worker.call("sleep", 0.001) == "slept"


def test_cancel_of_a_finished_call_says_that_it_was_not_running(worker: Worker) -> None:
    call = worker.begin("echo", 1)
    worker.finish(call)
    assert not worker.cancel(call.call_id)
    # Not even a client that uses an id again is hit by it.
    assert worker.finish(worker.begin("echo", 2, call_id=call.call_id)) == 2


def test_cancel_that_overtakes_its_call_is_not_lost(worker: Worker) -> None:
    assert not worker.cancel(777)
    with pytest.raises(CallFailed) as raised:
        worker.finish(worker.begin("echo", 1, call_id=777))
    assert raised.value.kind == "CANCELLED"
    assert worker.call("echo", 1) == 1


def test_cancelled_call_runs_its_clean_up(worker: Worker, tmp_path: Path) -> None:
    target = tmp_path / "cleaned"
    cancelled(worker, "clean_up_then_leave", str(target))
    assert target.read_text() == "cleaned up"


def test_call_that_swallows_a_cancel_can_be_cancelled_again(worker: Worker) -> None:
    call = worker.begin("swallow_once")
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.05)
    assert worker.cancel(call.call_id)
    time.sleep(0.05)
    assert worker.cancel(call.call_id)
    with pytest.raises(CallFailed) as raised:
        worker.finish(call)
    assert raised.value.kind == "CANCELLED"


def test_call_that_waits_for_its_turn_is_cancelled_without_running(
    unix_worker: Callable[..., UnixWorker],
) -> None:
    worker = unix_worker("sample")
    stream = worker.stream("count", 2, credit=1)
    stream.take()
    waiting = worker.begin("fail", "it ran")
    eventually(lambda: worker.cancel(waiting.call_id))
    stream.grant(5)
    list(stream.rpc)
    with pytest.raises(CallFailed) as raised:
        worker.finish(waiting)
    assert raised.value.kind == "CANCELLED"


def test_user_code_that_raises_cancelled_itself_has_simply_raised(worker: Worker) -> None:
    failure = worker.failure("raise_cancelled")
    assert failure.kind == "RAISED"
    assert failure.error.exceptions[0].type == "snakepit.Cancelled"


def test_context_tells_that_the_call_was_cancelled(worker: Worker) -> None:
    call = worker.begin("watch_context")
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.05)
    worker.cancel(call.call_id)
    assert worker.finish(call) == "saw it"
