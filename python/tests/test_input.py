"""Input of calls, streamed by a test that is the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from host import Desk, InheritedWorker, Stream, Worker, eventually

from snakepit import _native

KIND = Worker.pb.HostError.Kind


class Feeder(Desk):
    """The host's side of inputs."""

    def granted(self, call_id: int) -> int:
        """The next message, which must grant items.

        Before it another call may leave its input: one that is cancelled can be over before its input is closed.
        """
        request = self.request()
        while request is not None and request.leave not in (0, call_id):
            request = self.request()
        assert request is not None
        assert request.WhichOneof("message") == "grant", request
        assert request.grant.call_id == call_id
        return int(request.grant.items)

    def left(self) -> int:
        """The next message, which must leave an input."""
        request = self.request()
        assert request is not None
        assert request.WhichOneof("message") == "leave", request
        return int(request.leave)

    def feed(self, call_id: int, *items: object, end: bool = False, error: Any = None) -> None:
        """Sends items."""
        encoded = [_native.encode(item) for item in items]
        pb = Worker.pb
        self.say(
            pb.HostResponse(
                input=pb.InputItems(call_id=call_id, items=encoded, end=end or error is not None, error=error)
            )
        )


@pytest.fixture(params=["one", "threads", "tasks"])
def worker(
    request: pytest.FixtureRequest, inherited_worker: Callable[..., InheritedWorker]
) -> InheritedWorker:
    """Every form of running calls."""
    worker = inherited_worker(ready=False)
    worker.open_gate()
    threads = 4 if request.param == "threads" else 0
    tasks = 4 if request.param == "tasks" else 0
    answer = worker.handshake(("reads",), threads=threads, asyncio=tasks)
    assert "input" in answer.capabilities
    assert worker.ready().WhichOneof("outcome") == "ready"
    return worker


@pytest.fixture
def feeder(worker: InheritedWorker) -> Any:
    """The open stream."""
    feeder = Feeder(worker)
    yield feeder
    feeder.drop()


def begin(worker: Worker, function: str, *args: object, credit: int = 4) -> Any:
    request = worker.request(function, *args)
    request.input_credit = credit
    future = worker.data.Call.future(request, timeout=60)
    future.call_id = request.call_id
    return future


def begin_stream(worker: Worker, function: str, credit: int = 4) -> Stream:
    request = worker.request(function)
    request.input_credit = credit
    return Stream(worker, request, 4)


@pytest.mark.parametrize("function", ["reads:collect", "reads:collect_async"])
def test_the_credit_is_granted_first_and_what_was_taken_in_halves(
    worker: Worker, feeder: Feeder, function: str
) -> None:
    call = begin(worker, function)
    assert feeder.granted(call.call_id) == 4
    feeder.feed(call.call_id, 0, 1, 2, 3)
    assert feeder.granted(call.call_id) == 2
    assert feeder.granted(call.call_id) == 2
    # What comes alone is asked for again at once, so that the host knows that it was taken.
    feeder.feed(call.call_id, "four")
    assert feeder.granted(call.call_id) == 1
    feeder.feed(call.call_id, {"five": 5}, end=True)
    assert worker.finish(call) == [0, 1, 2, 3, "four", {"five": 5}]
    assert feeder.is_quiet()


def test_a_stream_that_is_opened_late_is_waited_for(worker: Worker) -> None:
    call = begin(worker, "reads:collect")
    eventually(lambda: worker.running() == call.call_id)
    feeder = Feeder(worker)
    assert feeder.granted(call.call_id) == 4
    feeder.feed(call.call_id, end=True)
    assert worker.finish(call) == []
    feeder.drop()


def test_what_is_not_read_is_left(worker: Worker, feeder: Feeder) -> None:
    call = begin(worker, "reads:first", 0)
    assert worker.finish(call) == []
    assert feeder.left() == call.call_id
    call = begin(worker, "reads:first", 1)
    assert feeder.granted(call.call_id) == 4
    feeder.feed(call.call_id, 7, 8)
    assert worker.finish(call) == [7]
    assert feeder.left() == call.call_id
    # What was under way meanwhile finds nobody.
    feeder.feed(call.call_id, 9)
    again = begin(worker, "reads:first", 1)
    feeder.granted(again.call_id)
    feeder.feed(again.call_id, 10)
    assert worker.finish(again) == [10]


@pytest.mark.parametrize("function", ["reads:same", "reads:same_async"])
def test_items_come_out_while_others_go_in(worker: Worker, feeder: Feeder, function: str) -> None:
    stream = begin_stream(worker, function)
    feeder.granted(stream.call_id)
    for number in range(20):
        feeder.feed(stream.call_id, number)
        assert stream.take() == number
        stream.grant(1)
        assert feeder.granted(stream.call_id) == 1
    feeder.feed(stream.call_id, end=True)
    assert list(stream) == []
    stream.close_requests()


def test_errors_are_told(worker: Worker, feeder: Feeder) -> None:
    error = Worker.pb.HostError(kind=KIND.KIND_FAILED, message="no more", causes=["broken", "cut"])
    call = begin(worker, "reads:told")
    feeder.granted(call.call_id)
    feeder.feed(call.call_id, 1, 2, error=error)
    assert worker.finish(call) == ["failed", 2, "no more", ["broken", "cut"]]
    error = Worker.pb.HostError(kind=KIND.KIND_BAD_ARGUMENTS, message="it is opaque")
    call = begin(worker, "reads:told")
    feeder.granted(call.call_id)
    feeder.feed(call.call_id, error=error)
    assert worker.finish(call) == ["bad_item", 0, "input[0]: it is opaque", []]


def test_an_item_that_cannot_be_decoded_is_told_with_its_place(worker: Worker, feeder: Feeder) -> None:
    pb = Worker.pb
    call = begin(worker, "reads:told")
    feeder.granted(call.call_id)
    torn = pb.InputItems(call_id=call.call_id, items=[_native.encode(1), b"\x91\xc1"])
    feeder.say(pb.HostResponse(input=torn))
    kind, index, message, _ = worker.finish(call)
    assert (kind, index) == ("bad_item", 1)
    assert message.startswith("input[1][0] ")
    assert feeder.granted(call.call_id) == 2
    assert feeder.left() == call.call_id


def test_a_cancel_wakes_whoever_waits(worker: Worker, feeder: Feeder) -> None:
    for function in ("reads:collect", "reads:collect_async"):
        call = begin(worker, function)
        feeder.granted(call.call_id)
        worker.cancel(call.call_id)
        assert call.result(timeout=30).error.kind == worker.pb.CallError.KIND_CANCELLED
    call = begin(worker, "reads:after_cancel")
    feeder.granted(call.call_id)
    worker.cancel(call.call_id)
    assert worker.finish(call) == ["cancelled", 0, "the call was cancelled", []]


def test_a_host_that_leaves_fails_the_inputs(worker: Worker, feeder: Feeder) -> None:
    call = begin(worker, "reads:told")
    feeder.granted(call.call_id)
    feeder.end()
    kind, index, message, _ = worker.finish(call)
    assert (kind, index) == ("cancelled", 0)
    assert "the host takes no calls any more" in message


def test_what_it_is(worker: Worker, feeder: Feeder) -> None:
    call = begin(worker, "reads:looks")
    assert worker.finish(call) == [f"<snakepit.Input of call {call.call_id}>", True, True]
    assert feeder.left() == call.call_id
