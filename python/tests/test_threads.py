"""Calls that run side by side on threads."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from host import CallFailed, Start, UnixWorker, Worker, eventually
from test_logging import Listener


@pytest.fixture(params=["inherited", "unix"])
def worker(
    request: pytest.FixtureRequest, inherited_worker: Start, unix_worker: Callable[..., UnixWorker]
) -> Worker:
    """Four threads, asked for in the handshake or on the command line."""
    if request.param == "inherited":
        return inherited_worker(("sample", "together"), threads=4)
    return unix_worker("sample", "together", "--threads", "4")


def test_as_many_calls_as_threads_run_at_once(worker: Worker) -> None:
    calls = [worker.begin("meet", 4) for _ in range(4)]
    answers = [worker.finish(call) for call in calls]
    assert [answer[0] for answer in answers] == [call.call_id for call in calls]
    assert {answer[1] for answer in answers} == {f"snakepit-call-{number}" for number in range(4)}


def test_calls_beyond_the_threads_wait_for_one(worker: Worker) -> None:
    running = [worker.begin("stay") for _ in range(4)]
    eventually(lambda: worker.ping().running == 4)
    waiting = worker.begin("echo", "waited")
    assert worker.ping().running == 4
    for call in running:
        worker.cancel(call.call_id)
    assert worker.finish(waiting) == "waited"
    for call in running:
        with pytest.raises(CallFailed):
            worker.finish(call)


def test_async_functions_run_on_the_loops_of_their_threads(worker: Worker) -> None:
    assert worker.call("async_echo", 1) == 1
    assert worker.call("async_thread_name").startswith("snakepit-call-")
    assert list(worker.stream("async_count", 20)) == list(range(20))


def test_a_cancel_reaches_its_call_and_no_other(worker: Worker) -> None:
    calls = [worker.begin("stay") for _ in range(3)]
    eventually(lambda: worker.ping().running == 3)
    assert worker.cancel(calls[1].call_id)
    with pytest.raises(CallFailed) as raised:
        worker.finish(calls[1])
    assert raised.value.kind == "CANCELLED"
    assert worker.call("closed_calls") == [calls[1].call_id]
    assert worker.ping().running == 2
    for call in (calls[0], calls[2]):
        worker.cancel(call.call_id)
        with pytest.raises(CallFailed):
            worker.finish(call)


@pytest.mark.parametrize("function", ["busy", "async_busy", "async_stay", "stay"])
def test_interrupts(worker: Worker, function: str) -> None:
    call = worker.begin(function)
    eventually(lambda: worker.running() == call.call_id)
    # Let it get from its beginning to where it stays.
    time.sleep(0.05)
    assert worker.cancel(call.call_id)
    with pytest.raises(CallFailed) as raised:
        worker.finish(call)
    assert raised.value.kind == "CANCELLED"
    # Whatever was interrupted, the thread is whole, for either kind of function.
    for _ in range(4):
        assert worker.call("async_echo", 1) == 1
        assert worker.call("echo", 2) == 2


def test_stale_cancel_never_hits_a_later_call(worker: Worker) -> None:
    for round_number in range(60):
        call = worker.begin("sleep", 0.0005 * (round_number % 4))
        worker.cancel(call.call_id)
        try:
            worker.finish(call)
        except CallFailed as error:
            assert error.kind == "CANCELLED"
        worker.cancel(call.call_id)
        later = [worker.begin("sleep", 0.001) for _ in range(4)]
        assert [worker.finish(call) for call in later] == ["slept"] * 4


def test_context_and_log_records_name_the_call_they_belong_to(worker: Worker) -> None:
    listener = Listener(worker)
    calls = [worker.begin("describe", 3, f"record {number}", deadline=50.0 + number) for number in range(3)]
    for number, call in enumerate(calls):
        call_id, function, remaining, cancelled = worker.finish(call)
        assert (call_id, function, cancelled) == (call.call_id, "describe", False)
        assert 40 + number < remaining <= 50 + number
        assert listener.record(f"record {number}").call_id == call.call_id


def test_a_thread_that_outlives_its_call_is_in_no_call(worker: Worker) -> None:
    assert "outlive" in worker.call("outlive", 0.05)
    assert worker.call("said_later") == ["<snakepit.context: no call>"]


def test_streams_run_side_by_side_each_with_its_credit(worker: Worker) -> None:
    streams = [worker.stream("items_that_meet", 3, 10, credit=2) for _ in range(3)]
    taken: list[list[object]] = [[], [], []]
    for number in range(10):
        for stream, items in zip(streams, taken, strict=True):
            items.append(stream.take())
            stream.grant(1)
        del number
    for stream, items in zip(streams, taken, strict=True):
        assert items == [[stream.call_id, number] for number in range(10)]


def test_a_dropped_stream_closes_its_generator_and_frees_its_thread(worker: Worker) -> None:
    streams = [worker.stream("endless_items", credit=2) for _ in range(4)]
    for stream in streams:
        stream.take()
    streams[2].drop()
    eventually(lambda: worker.call("closed_calls") == [streams[2].call_id])
    assert worker.ping().running == 3
    for stream in streams:
        stream.drop()


def test_a_cancelled_stream_that_waits_for_credit_ends(worker: Worker) -> None:
    streams = [worker.stream("endless_items", credit=1) for _ in range(2)]
    for stream in streams:
        stream.take()
    assert worker.cancel(streams[0].call_id)
    with pytest.raises(CallFailed) as raised:
        streams[0].take()
    assert raised.value.kind == "CANCELLED"
    streams[1].grant(1)
    assert streams[1].take() == 2
    streams[1].drop()


@pytest.mark.parametrize(
    ("function", "args", "kind"),
    [
        ("fail", ["x"], "RAISED"),
        ("async_fail", ["x"], "RAISED"),
        ("leave", [4], "SYSTEM_EXIT"),
        ("async_leave", [], "SYSTEM_EXIT"),
        ("interrupt", [], "RAISED"),
        ("raise_cancelled", [], "RAISED"),
        ("no_such", [], "UNKNOWN_FUNCTION"),
        ("echo", [], "BAD_ARGUMENTS"),
    ],
)
def test_errors_are_their_call_s_own(worker: Worker, function: str, args: list[object], kind: str) -> None:
    beside = worker.begin("meet", 2)
    assert worker.failure(function, *args).kind == kind
    assert worker.call("meet", 2)
    assert worker.finish(beside)


def test_a_fork_that_returns_from_a_thread_leaves(worker: Worker) -> None:
    assert worker.call("fork_and_exit", 5) == 5
    child = worker.call("fork_and_return")
    assert child > 0
    assert worker.call("echo", 1) == 1


def test_drain_waits_for_all_calls(worker: Worker, tmp_path: Path) -> None:
    calls = [worker.begin("sleep", 0.1 * number) for number in range(1, 5)]
    eventually(lambda: worker.ping().running == 4)
    worker.shutdown(30)
    assert [worker.finish(call) for call in calls] == ["slept"] * 4
    assert worker.wait() == 0


def test_calls_that_go_on_past_the_grace_are_all_cancelled(worker: Worker) -> None:
    calls = [worker.begin("stay"), worker.begin("async_stay"), worker.begin("busy")]
    eventually(lambda: worker.ping().running == 3)
    worker.shutdown(0)
    for call in calls:
        with pytest.raises(CallFailed) as raised:
            worker.finish(call)
        assert raised.value.kind == "CANCELLED"
    assert worker.wait() == 0


def test_a_ping_tells_the_oldest_call(worker: Worker) -> None:
    first = worker.begin("stay")
    eventually(lambda: worker.ping().running == 1)
    second = worker.begin("stay")
    eventually(lambda: worker.ping().running == 2)
    assert worker.running() == first.call_id
    worker.cancel(first.call_id)
    eventually(lambda: worker.running() == second.call_id)
    worker.cancel(second.call_id)


def test_a_worker_bounds_what_it_is_asked_for(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    assert worker.handshake(threads=1_000_000).concurrency == 1000


def test_the_first_answer_stands(inherited_worker: Start) -> None:
    worker = inherited_worker(threads=2)
    assert worker.handshake(("sample",), asyncio=50).concurrency == 2
    assert worker.handshake(("sample",)).concurrency == 2


def test_no_journal_is_promised_where_calls_run_side_by_side(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    assert "journal" not in worker.handshake(threads=2).capabilities
