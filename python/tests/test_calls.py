"""Many calls over one stream: in order, one answer each, and no difference to calls of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from host import InheritedWorker, UnixWorker, Worker, eventually


class Calls:
    """The stream, and what was answered so far."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.requests: queue.Queue[Any] = queue.Queue()
        self.answers: list[Any] = []
        self.ended: grpc.RpcError | bool = False
        self.responses = worker.data.Calls(self._sent(), timeout=60)
        threading.Thread(target=self._read, daemon=True).start()

    def _sent(self) -> Iterator[Any]:
        while (request := self.requests.get()) is not None:
            yield request

    def _read(self) -> None:
        try:
            self.answers.extend(self.responses)
            self.ended = True
        except grpc.RpcError as error:
            self.ended = error

    def begin(self, function: str, *args: Any) -> int:
        """Sends a call; its id."""
        request = self.worker.request(function, *args)
        self.requests.put(request)
        return int(request.call_id)

    def until(self, count: int) -> list[Any]:
        """So many answers."""
        eventually(lambda: len(self.answers) >= count or self.ended, 30)
        assert len(self.answers) == count, self.ended
        return self.answers

    def close(self) -> None:
        """Nothing more is called."""
        self.requests.put(None)
        eventually(lambda: self.ended, 30)
        assert self.ended is True


def test_each_call_is_answered_once_and_in_order(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    ids = [calls.begin("echo", number) for number in range(200)]
    answers = calls.until(200)
    assert [answer.call_id for answer in answers] == ids
    values = [worker.finish(Answered(answer)) for answer in answers]
    assert values == list(range(200))
    calls.close()
    # The worker serves on, also with calls of their own and another stream.
    assert worker.call("echo", "on") == "on"
    again = Calls(worker)
    again.begin("echo", "again")
    again.until(1)
    again.close()


class Answered:
    """An answer that is there, as a future."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def result(self) -> Any:
        return self.answer


def test_an_error_is_one_calls_and_a_large_value_arrives_whole(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    calls.begin("math:sqrt", -1)
    calls.begin("no_such_function")
    calls.begin("echo", b"x" * 5_000_000)
    calls.begin("echo", 1)
    raised, unknown, large, small = calls.until(4)
    assert raised.error.exceptions[0].type == "ValueError"
    assert "no_such_function" in unknown.error.message
    assert worker.finish(Answered(large)) == b"x" * 5_000_000
    assert worker.finish(Answered(small)) == 1
    calls.close()


@pytest.mark.parametrize("size", [1_000_000, 12_000_000, 60_000_000])
def test_a_large_answer_has_left_before_the_next_call_begins(
    inherited_worker: Callable[..., InheritedWorker], size: int
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    calls.begin("operator:mul", "x", size)
    later = calls.begin("sleep", 4)
    assert len(worker.finish(Answered(calls.until(1)[0]))) == size
    # The socket holds less than any of them.
    eventually(lambda: worker.running() == later, 2)


def test_a_cancel_reaches_the_running_call_and_one_that_waits(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    running = calls.begin("time:sleep", 60)
    eventually(lambda: worker.ping().call_id == running, 10)
    waiting = calls.begin("time:sleep", 60)
    calls.begin("echo", "after")
    eventually(lambda: worker.cancel(running), 10)
    eventually(lambda: len(calls.answers) > 0, 10)
    eventually(lambda: worker.cancel(waiting) or len(calls.answers) == 3, 10)
    first, second, third = calls.until(3)
    kinds = [worker.pb.CallError.Kind.Name(each.error.kind) for each in (first, second)]
    assert kinds == ["KIND_CANCELLED", "KIND_CANCELLED"]
    assert worker.finish(Answered(third)) == "after"
    calls.close()


def test_a_worker_that_leaves_ends_the_stream(inherited_worker: Callable[..., InheritedWorker]) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    calls.begin("echo", 1)
    calls.until(1)
    worker.control.Shutdown(worker.pb.ShutdownRequest(grace_ms=5000), timeout=10)
    eventually(lambda: calls.ended, 10)
    assert calls.ended is True
    assert worker.process.wait(10) == 0


def test_where_calls_run_side_by_side_there_is_no_stream_of_them(
    inherited_worker: Callable[..., InheritedWorker], unix_worker: Callable[..., UnixWorker]
) -> None:
    for worker in (inherited_worker(threads=2), unix_worker("sample")):
        with pytest.raises(grpc.RpcError) as refused:
            list(worker.data.Calls(iter([worker.request("echo", 1)]), timeout=10))
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert worker.call("echo", 1) == 1
