"""Calls that run side by side as tasks of one event loop."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from host import CallFailed, Start, UnixWorker, Worker, eventually
from test_logging import Listener

LIMIT = 100


@pytest.fixture(params=["inherited", "unix"])
def worker(
    request: pytest.FixtureRequest, inherited_worker: Start, unix_worker: Callable[..., UnixWorker]
) -> Worker:
    """A hundred tasks, asked for in the handshake or on the command line."""
    if request.param == "inherited":
        return inherited_worker(("sample", "together"), asyncio=LIMIT)
    return unix_worker("sample", "together", f"--asyncio={LIMIT}")


def cancelled(worker: Worker, *calls: object) -> None:
    for call in calls:
        with pytest.raises(CallFailed) as raised:
            worker.finish(call)
        assert raised.value.kind == "CANCELLED"


@pytest.mark.parametrize(
    "function", ["async_meet", "wrapped_meet", "together:meet_unknown"], ids=["known", "wrapped", "unknown"]
)
def test_as_many_calls_as_asked_for_wait_at_once_on_one_thread(worker: Worker, function: str) -> None:
    calls = [worker.begin(function, LIMIT) for _ in range(LIMIT)]
    answers = [worker.finish(call) for call in calls]
    assert [answer[0] for answer in answers] == [call.call_id for call in calls]
    assert {answer[1] for answer in answers} == {"MainThread"}


def test_plain_functions_run_on_threads_and_leave_the_loop_free(worker: Worker) -> None:
    plain = [worker.begin("meet", 3) for _ in range(2)]
    eventually(lambda: worker.ping().running == 2)
    # The loop answers while they block.
    assert worker.call("async_echo", 1) == 1
    plain.append(worker.begin("meet", 3))
    names = {worker.finish(call)[1] for call in plain}
    assert len(names) == 3
    assert all(name.startswith("snakepit-call-") for name in names)


def test_forty_plain_functions_run_at_once_and_more_wait(worker: Worker) -> None:
    calls = [worker.begin("meet", 40) for _ in range(80)]
    for call in calls:
        assert worker.finish(call)[0] == call.call_id


def test_the_adapters_loop_is_the_one_that_calls_run_on(worker: Worker) -> None:
    assert worker.call("same_loop")


def test_an_adapter_may_bring_the_kind_of_loop(
    inherited_worker: Start, unix_worker: Callable[..., UnixWorker]
) -> None:
    for worker in (inherited_worker(("own_loop",), asyncio=3), unix_worker("own_loop", "--asyncio=3")):
        assert worker.call("loop_kind") == "OwnLoop"


def test_a_cancel_reaches_its_call_and_no_other(worker: Worker) -> None:
    calls = [worker.begin(function) for function in ("async_stay", "async_stay", "stay", "stay")]
    eventually(lambda: worker.ping().running == 4)
    assert worker.cancel(calls[1].call_id)
    cancelled(worker, calls[1])
    assert worker.cancel(calls[2].call_id)
    cancelled(worker, calls[2])
    assert worker.call("closed_calls") == [calls[1].call_id, calls[2].call_id]
    assert worker.ping().running == 2
    for call in (calls[0], calls[3]):
        worker.cancel(call.call_id)
    cancelled(worker, calls[0], calls[3])


@pytest.mark.parametrize("function", ["async_stay", "async_busy", "stay", "busy"])
def test_interrupts(worker: Worker, function: str) -> None:
    beside = [worker.begin("async_sleep", 0.5) for _ in range(3)]
    eventually(lambda: worker.ping().running == 3)
    call = worker.begin(function)
    eventually(lambda: worker.ping().running == 4)
    # Let it get from its beginning to where it stays.
    time.sleep(0.05)
    assert worker.cancel(call.call_id)
    cancelled(worker, call)
    assert [worker.finish(call) for call in beside] == [None] * 3
    assert worker.call("async_echo", 1) == 1


def test_a_cancel_of_one_call_does_not_hit_another_that_holds_the_loop(worker: Worker) -> None:
    waits = worker.begin("async_stay")
    eventually(lambda: worker.ping().running == 1)
    holds = worker.begin("async_hog", 0.3)
    eventually(lambda: worker.ping().running == 2)
    worker.cancel(waits.call_id)
    assert worker.finish(holds) == "hogged"
    cancelled(worker, waits)


def test_stale_cancel_never_hits_a_later_call(worker: Worker) -> None:
    for round_number in range(60):
        call = worker.begin("async_sleep", 0.0005 * (round_number % 4))
        worker.cancel(call.call_id)
        try:
            worker.finish(call)
        except CallFailed as error:
            assert error.kind == "CANCELLED"
        worker.cancel(call.call_id)
        later = [worker.begin("async_sleep", 0.001), worker.begin("sleep", 0.001)]
        assert [worker.finish(call) for call in later] == [None, "slept"]


def test_a_call_that_swallows_a_cancel_can_be_cancelled_again(worker: Worker) -> None:
    call = worker.begin("async_swallow")
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.05)
    assert worker.cancel(call.call_id)
    time.sleep(0.05)
    assert worker.cancel(call.call_id)
    cancelled(worker, call)


def test_cancel_that_overtakes_its_call_is_not_lost(worker: Worker) -> None:
    assert not worker.cancel(777)
    cancelled(worker, worker.begin("async_echo", 1, call_id=777))
    assert worker.call("async_echo", 1) == 1


def test_context_and_log_records_name_the_call_they_belong_to(worker: Worker) -> None:
    listener = Listener(worker)
    calls = [
        worker.begin("async_describe", 5, f"record {number}", deadline=50.0 + number) for number in range(5)
    ]
    for number, call in enumerate(calls):
        call_id, function, remaining, was_cancelled = worker.finish(call)
        assert (call_id, function, was_cancelled) == (call.call_id, "async_describe", False)
        assert 40 + number < remaining <= 50 + number
        assert listener.record(f"record {number}").call_id == call.call_id


def test_context_of_plain_functions_is_their_own(worker: Worker) -> None:
    calls = [worker.begin("describe", 3, "x") for _ in range(3)]
    for call in calls:
        assert worker.finish(call)[:2] == [call.call_id, "describe"]


def test_each_call_has_context_variables_of_its_own(worker: Worker) -> None:
    assert [worker.call("set_variable", number) for number in range(3)] == ["untouched"] * 3


@pytest.mark.parametrize("function", ["items_that_meet", "async_items_that_meet"])
def test_streams_run_side_by_side_each_with_its_credit(worker: Worker, function: str) -> None:
    streams = [worker.stream(function, 3, 10, credit=2) for _ in range(3)]
    taken: list[list[object]] = [[], [], []]
    for _ in range(10):
        for stream, items in zip(streams, taken, strict=True):
            items.append(stream.take())
            stream.grant(1)
    for stream, items in zip(streams, taken, strict=True):
        assert items == [[stream.call_id, number] for number in range(10)]


@pytest.mark.parametrize("function", ["endless_items", "async_endless_items"])
def test_a_producer_is_never_ahead_of_its_credit(worker: Worker, function: str) -> None:
    stream = worker.stream(function, credit=3)
    assert [stream.take() for _ in range(3)] == [1, 2, 3]
    stream.grant(1)
    assert stream.take() == 4
    # It waits, and nobody else does.
    assert worker.call("async_echo", 1) == 1
    assert worker.ping().running == 1
    stream.drop()
    eventually(lambda: worker.call("closed_calls") == [stream.call_id])


@pytest.mark.parametrize("function", ["endless_items", "async_endless_items"])
def test_a_cancelled_stream_ends_and_no_other(worker: Worker, function: str) -> None:
    streams = [worker.stream(function, credit=1) for _ in range(2)]
    for stream in streams:
        stream.take()
    assert worker.cancel(streams[0].call_id)
    with pytest.raises(CallFailed) as raised:
        streams[0].take()
    assert raised.value.kind == "CANCELLED"
    assert worker.call("closed_calls") == [streams[0].call_id]
    streams[1].grant(1)
    assert streams[1].take() == 2
    streams[1].drop()


@pytest.mark.parametrize("function", ["endless_items", "async_endless_items"])
def test_a_consumer_that_grants_nothing_further_ends_the_stream(worker: Worker, function: str) -> None:
    stream = worker.stream(function, credit=2)
    stream.close_requests()
    assert [stream.take(), stream.take()] == [1, 2]
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "CANCELLED"
    assert "credit" in str(raised.value)


@pytest.mark.parametrize(
    ("function", "args", "items"),
    [
        ("count", [3], [0, 1, 2]),
        ("async_count", [200], list(range(200))),
        ("async_list", [[1, 2]], [1, 2]),
        ("async_iterator", [[1, 2]], [1, 2]),
        ("together:async_iterator", [[1, 2]], [1, 2]),
        ("builtins:list", [[1, 2]], [1, 2]),
        ("count", [0], []),
    ],
)
def test_whatever_yields_can_be_streamed(
    worker: Worker, function: str, args: list[object], items: object
) -> None:
    for _ in range(2):
        assert list(worker.stream(function, *args)) == items


@pytest.mark.parametrize(
    ("function", "args"),
    [("stream_fail", ["x"]), ("async_stream_fail", ["x"])],
)
def test_a_stream_that_fails_yields_what_came_before(
    worker: Worker, function: str, args: list[object]
) -> None:
    stream = worker.stream(function, *args)
    assert stream.take() == 1
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "RAISED"
    assert raised.value.error.exceptions[0].type == "ValueError"


@pytest.mark.parametrize("function", ["echo", "async_echo"])
def test_a_stream_of_what_yields_nothing_says_so(worker: Worker, function: str) -> None:
    with pytest.raises(CallFailed) as raised:
        worker.stream(function, 1).take()
    assert raised.value.kind == "BAD_RESULT"
    assert "yields no items" in str(raised.value)


@pytest.mark.parametrize(
    ("function", "args", "kind"),
    [
        ("fail", ["x"], "RAISED"),
        ("async_fail", ["x"], "RAISED"),
        ("leave", [4], "SYSTEM_EXIT"),
        ("async_leave", [], "SYSTEM_EXIT"),
        ("async_interrupt", [], "RAISED"),
        ("raise_cancelled", [], "RAISED"),
        ("no_such", [], "UNKNOWN_FUNCTION"),
        ("async_echo", [], "BAD_ARGUMENTS"),
        ("async_echo", [1, 2], "BAD_ARGUMENTS"),
    ],
)
def test_errors_are_their_call_s_own(worker: Worker, function: str, args: list[object], kind: str) -> None:
    beside = worker.begin("async_meet", 2)
    for _ in range(2):
        assert worker.failure(function, *args).kind == kind
    assert worker.call("async_meet", 2)
    assert worker.finish(beside)


def test_a_task_of_user_code_that_exits_does_not_end_the_loop(worker: Worker) -> None:
    beside = worker.begin("async_sleep", 0.2)
    assert worker.call("async_task_exits") is True
    assert worker.finish(beside) is None
    assert worker.call("async_echo", 1) == 1


def test_a_fork_that_returns_from_a_call_leaves(worker: Worker) -> None:
    assert worker.call("fork_and_exit", 5) == 5
    assert worker.call("fork_and_return") > 0
    assert worker.call("async_fork_and_return") > 0
    assert [pid > 0 for pid in worker.stream("async_fork_and_yield")] == [True]
    assert worker.call("echo", 1) == 1


def test_drain_waits_for_all_calls(worker: Worker) -> None:
    calls = [worker.begin("async_sleep", 0.1 * number) for number in range(1, 4)]
    plain = worker.begin("sleep", 0.2)
    eventually(lambda: worker.ping().running == 4)
    worker.shutdown(30)
    assert [worker.finish(call) for call in calls] == [None] * 3
    assert worker.finish(plain) == "slept"
    assert worker.wait() == 0


def test_calls_that_go_on_past_the_grace_are_all_cancelled(worker: Worker) -> None:
    calls = [worker.begin(function) for function in ("stay", "async_stay", "async_stay")]
    eventually(lambda: worker.ping().running == 3)
    worker.shutdown(0)
    cancelled(worker, *calls)
    assert worker.wait() == 0


def test_sigterm_is_noticed_while_the_loop_waits(worker: Worker) -> None:
    assert worker.call("async_echo", 1) == 1
    os.kill(worker.pid, signal.SIGTERM)
    assert worker.wait() == 0


def test_adapters_can_be_added_while_the_loop_runs(inherited_worker: Start) -> None:
    worker = inherited_worker(("sample",), asyncio=5)
    stays = worker.begin("async_sleep", 0.3)
    eventually(lambda: worker.ping().running == 1)
    # Its start hook is asynchronous, and runs on the same loop.
    worker.handshake(("together",), asyncio=5)
    assert worker.ready().WhichOneof("outcome") == "ready"
    assert worker.call("same_loop")
    assert worker.finish(stays) is None


def test_a_worker_bounds_what_it_is_asked_for(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    assert worker.handshake(asyncio=1_000_000).concurrency == 32768
