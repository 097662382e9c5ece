"""Calls over a socket of their own: in order, one answer each, and no difference to those over HTTP/2."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from host import InheritedWorker, UnixWorker, eventually


def send(worker: InheritedWorker, function: str, *args: Any) -> int:
    """Sends a call, whose answer nobody reads yet; its id."""
    request = worker.request(function, *args)
    message = request.SerializeToString()
    worker.calls.sendall(struct.pack(">BI", 0, len(message)) + message)
    return int(request.call_id)


class Calls:
    """The host's end of the socket, and what was answered so far."""

    def __init__(self, worker: InheritedWorker) -> None:
        self.worker = worker
        self.answers: list[Any] = []
        self.ended = False
        self.error: OSError | None = None
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            while head := self._exactly(5):
                compressed, length = struct.unpack(">BI", head)
                assert compressed == 0
                answer = self.worker.pb.CallResponse()
                answer.ParseFromString(self._exactly(length))
                self.answers.append(answer)
        except OSError as error:
            self.error = error
        self.ended = True

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count and (part := self.worker.calls.recv(min(count, 1 << 20))):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def begin(self, function: str, *args: Any) -> int:
        """Sends a call; its id."""
        return send(self.worker, function, *args)

    def until(self, count: int) -> list[Any]:
        """So many answers."""
        eventually(lambda: len(self.answers) >= count or self.ended, 30)
        assert len(self.answers) == count, self.error
        return self.answers

    def close(self) -> None:
        """Nothing more is called."""
        self.worker.calls.shutdown(socket.SHUT_WR)
        eventually(lambda: self.ended, 30)
        assert self.error is None


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
    assert worker.call("echo", "over HTTP/2, too") == "over HTTP/2, too"
    # A host that closes any of its sockets is lost.
    calls.close()
    assert worker.wait() == 1


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


def test_a_worker_that_leaves_closes_the_socket(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    calls.begin("echo", 1)
    calls.until(1)
    worker.control.Shutdown(worker.pb.ShutdownRequest(grace_ms=5000), timeout=10)
    eventually(lambda: calls.ended, 10)
    assert calls.error is None
    assert worker.process.wait(10) == 0


def test_a_large_answer_leaves_before_the_worker_does(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    send(worker, "operator:mul", "x", 3_000_000)
    # The socket is full, and nobody reads.
    eventually(lambda: worker.ping().calls == 1)
    worker.control.Shutdown(worker.pb.ShutdownRequest(grace_ms=5000), timeout=10)
    calls = Calls(worker)
    assert len(worker.finish(Answered(calls.until(1)[0]))) == 3_000_000
    assert worker.process.wait(10) == 0


def test_what_comes_while_the_stop_hooks_run_is_refused_by_name(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker(("dawdles",))
    calls = Calls(worker)
    worker.shutdown()
    eventually(lambda: "stopping" in worker.stderr_text)
    for number in range(3):
        calls.begin("math:sqrt", number)
    kinds = [worker.pb.CallError.Kind.Name(answer.error.kind) for answer in calls.until(3)]
    assert kinds == ["KIND_SHUTTING_DOWN"] * 3
    assert worker.wait() == 0


def test_a_host_that_reads_nothing_holds_up_other_calls_for_a_while_only(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    send(worker, "operator:mul", "x", 3_000_000)
    eventually(lambda: worker.ping().calls == 1)
    assert worker.call("echo", "over HTTP/2") == "over HTTP/2"
    calls = Calls(worker)
    assert len(worker.finish(Answered(calls.until(1)[0]))) == 3_000_000


def test_calls_leave_turns_to_streams_signals_and_the_other_connection(
    inherited_worker: Callable[..., InheritedWorker],
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    stop = threading.Event()

    def flood() -> None:
        sent = 0
        while not stop.is_set():
            calls.begin("echo", sent)
            sent += 1
            while sent - len(calls.answers) > 50:
                time.sleep(0.0005)

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        eventually(lambda: len(calls.answers) > 500)
        for _ in range(20):
            assert worker.call("echo", "between") == "between"
        assert list(worker.stream("count", 3)) == [0, 1, 2]
    finally:
        stop.set()
        flooding.join(30)
    calls.close()


@pytest.mark.parametrize("nonsense", [b"\x01\0\0\0\0", b"\0\xff\xff\xff\xff", b"\0\0\0\0\x02\x0a\x7f"])
def test_what_is_no_call_is_told_and_the_end(
    inherited_worker: Callable[..., InheritedWorker], nonsense: bytes
) -> None:
    worker = inherited_worker()
    calls = Calls(worker)
    worker.calls.sendall(nonsense)
    eventually(lambda: calls.ended, 10)
    assert worker.wait() == 1
    assert "failed to serve calls" in worker.stderr_text


def test_where_calls_run_side_by_side_they_come_over_http_2(
    inherited_worker: Callable[..., InheritedWorker], unix_worker: Callable[..., UnixWorker]
) -> None:
    several = inherited_worker(ready=False)
    several.open_gate()
    assert "calls" not in several.handshake(threads=2).capabilities
    several.ready()
    several.calls.close()
    # User code that closes what it finds is noticed twice a second.
    time.sleep(0.6)
    assert several.call("math:sqrt", 4) == 2
    assert "calls" not in unix_worker("sample").handshake().capabilities
