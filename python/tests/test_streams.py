"""Items on demand: credit, early stops, and the errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from host import CallFailed, InheritedWorker, UnixWorker, Worker, eventually


@pytest.fixture(params=["inherited", "unix"])
def worker(
    request: pytest.FixtureRequest,
    inherited_worker: Callable[..., InheritedWorker],
    unix_worker: Callable[..., UnixWorker],
) -> Worker:
    """Both shapes: items produced inline, and items that take a hop."""
    return inherited_worker() if request.param == "inherited" else unix_worker("sample")


def test_all_items_arrive_in_order(worker: Worker) -> None:
    assert list(worker.stream("count", 100)) == list(range(100))
    assert list(worker.stream("async_count", 100)) == list(range(100))


@pytest.mark.parametrize(
    ("function", "args", "items"),
    [
        ("builtins:list", [[1, 2]], [1, 2]),
        ("builtins:range", [3], [0, 1, 2]),
        ("builtins:dict", [[["a", 1]]], ["a"]),
        ("builtins:iter", [[1]], [1]),
        ("itertools:islice", [[5, 6, 7], 2], [5, 6]),
        ("async_echo", [[8, 9]], [8, 9]),
        ("count", [0], []),
    ],
)
def test_any_iterable_can_be_streamed(
    worker: Worker, function: str, args: list[object], items: object
) -> None:
    assert list(worker.stream(function, *args)) == items


def test_producer_is_never_ahead_of_the_credit(worker: Worker) -> None:
    stream = worker.stream("endless", credit=3)
    for _ in range(3):
        stream.take()
    for granted in range(4, 12):
        stream.grant(1)
        stream.take()
        # The next one would have been produced by now if it were going to be.
        worker.ping()
        stream_state = worker.begin("state", timeout=60)
        assert not stream_state.done()
        stream_state.cancel()
        del granted
    stream.drop()
    produced, closed = eventually(lambda: worker.call("state"))
    assert produced == 11
    assert "endless" in closed


@pytest.mark.parametrize("credit", [1, 2, 7])
def test_dropped_stream_closes_the_generator_at_once(worker: Worker, credit: int) -> None:
    stream = worker.stream("endless", credit=credit)
    stream.take()
    stream.drop()
    produced, closed = worker.call("state")
    assert closed == ["endless"]
    assert produced <= credit


def test_dropped_async_stream_closes_the_generator(worker: Worker) -> None:
    stream = worker.stream("async_count", 1000, credit=1)
    stream.take()
    stream.drop()
    assert worker.call("state")[1] == ["async 1000"]


def test_stream_without_credit_is_cancelled_by_id(worker: Worker) -> None:
    stream = worker.stream("endless", credit=1)
    stream.take()
    assert worker.running() == stream.call_id
    assert worker.cancel(stream.call_id)
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "CANCELLED"
    assert worker.call("state")[1] == ["endless"]


def test_stream_that_computes_is_cancelled_by_id(worker: Worker) -> None:
    stream = worker.stream("slow_items", credit=100)
    stream.take()
    assert worker.cancel(stream.call_id)
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "CANCELLED"
    assert worker.call("echo", 1) == 1


def test_consumer_that_closes_its_side_gets_what_it_granted(worker: Worker) -> None:
    stream = worker.stream("endless", credit=2)
    stream.close_requests()
    assert [stream.take(), stream.take()] == [1, 2]
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "CANCELLED"
    assert worker.call("state")[1] == ["endless"]


def test_error_after_items_is_the_last_message(worker: Worker) -> None:
    stream = worker.stream("stream_fail", "late")
    assert stream.take() == 1
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "RAISED"
    assert list(stream.rpc) == []


def test_item_that_cannot_be_represented_ends_the_stream(worker: Worker) -> None:
    stream = worker.stream("builtins:eval", "[1, object()]")
    assert stream.take() == 1
    with pytest.raises(CallFailed) as raised:
        stream.take()
    assert raised.value.kind == "BAD_RESULT"
    assert raised.value.error.path == "item"


def test_stream_of_a_plain_result_points_to_send(worker: Worker) -> None:
    with pytest.raises(CallFailed) as raised:
        worker.stream("echo", 5).take()
    assert raised.value.kind == "BAD_RESULT"
    assert "by send" in str(raised.value)


def test_stream_of_an_unknown_function_fails(worker: Worker) -> None:
    with pytest.raises(CallFailed) as raised:
        worker.stream("nonsense").take()
    assert raised.value.kind == "UNKNOWN_FUNCTION"


def test_stream_that_does_not_begin_with_a_start_is_refused(worker: Worker) -> None:
    import grpc

    call = worker.data.CallStream(iter([worker.pb.StreamRequest(credit=1)]), timeout=10)
    with pytest.raises(grpc.RpcError) as raised:
        next(call)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_calls_wait_for_a_stream_before_them(worker: Worker) -> None:
    stream = worker.stream("count", 3, credit=1)
    assert stream.take() == 0
    waiting = worker.begin("echo", "after")
    assert worker.running() == stream.call_id
    for expected in (1, 2):
        stream.grant(1)
        assert stream.take() == expected
    assert not waiting.done()
    stream.grant(1)
    assert list(itertools.islice(stream.rpc, 1)) == []
    assert worker.finish(waiting) == "after"
