"""Functions of the host, called from a worker whose host is the test."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from host import FIXTURES, UNLIMITED, CallFailed, Desk, InheritedWorker, UnixWorker, Worker, eventually, rpc

from snakepit import _native

NAMES = ("ask", "score", "load_user")
KIND = Worker.pb.HostError.Kind


class TcpWorker(Worker):
    """A worker started by hand on a TCP address."""

    def __init__(self) -> None:
        super().__init__()
        self.spawn(["--path", str(FIXTURES)], "tcp:127.0.0.1:0", stdin=subprocess.DEVNULL)

    def connect(self) -> None:
        """Connects to the address that it chose."""
        address = eventually(lambda: re.search(r"serving on tcp:(\S+)", self.stderr_text), 30)[1]
        channel = grpc.insecure_channel(address, options=UNLIMITED)
        self.data = rpc.WorkerStub(channel)
        self.control = rpc.WorkerControlStub(channel)


@pytest.fixture(params=["inherited", "unix", "tcp", "threads", "tasks"])
def worker(
    request: pytest.FixtureRequest,
    inherited_worker: Callable[..., InheritedWorker],
    unix_worker: Callable[..., UnixWorker],
) -> Any:
    """Every form of channel and of running calls, hands shaken."""
    if request.param in ("inherited", "threads", "tasks"):
        worker: Worker = inherited_worker(ready=False)
        assert isinstance(worker, InheritedWorker)
        worker.open_gate()
    elif request.param == "unix":
        worker = unix_worker()
    else:
        worker = TcpWorker()
    try:
        if isinstance(worker, TcpWorker):
            worker.connect()
        threads = 4 if request.param == "threads" else 0
        tasks = 4 if request.param == "tasks" else 0
        worker.handshake(("asks",), host_functions=NAMES, host_calls=4, threads=threads, asyncio=tasks)
        assert worker.ready().WhichOneof("outcome") == "ready"
        yield worker
    finally:
        worker.end()


@pytest.fixture
def desk(worker: Worker) -> Any:
    """The open stream."""
    desk = Desk(worker)
    yield desk
    desk.drop()


@pytest.mark.parametrize("form", ["ask", "ask_async"])
def test_a_call_carries_its_arguments_and_its_surroundings(worker: Worker, desk: Desk, form: str) -> None:
    began = worker.begin(f"asks:{form}", "score", 1, [b"x", None], deadline=60.0, limit=3)
    call = desk.call()
    assert call.function == "score"
    assert call.call_id == began.call_id
    assert _native.decode(call.args) == [1, [b"x", None]]
    assert _native.decode(call.kwargs) == {"limit": 3}
    assert 0 < call.deadline_us <= 60_000_000
    desk.answer(call.id, {"score": 0.5})
    assert worker.finish(began) == {"score": 0.5}
    began = worker.begin(f"asks:{form}", "ask")
    call = desk.call()
    assert (call.args, call.kwargs, call.HasField("deadline_us")) == (b"", b"", False)
    desk.answer(call.id, None)
    assert worker.finish(began) is None
    assert desk.is_quiet()


def test_the_gil_is_free_meanwhile(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:ticks_meanwhile", "ask")
    call = desk.call()
    time.sleep(0.2)
    # The control thread answers as ever.
    assert worker.ping().call_id == began.call_id
    desk.answer(call.id, None)
    assert worker.finish(began) > 5


@pytest.mark.parametrize("form", ["ask", "ask_async"])
def test_a_cancel_of_the_call_gives_its_host_call_up(worker: Worker, desk: Desk, form: str) -> None:
    began = worker.begin(f"asks:{form}", "ask")
    call = desk.call()
    assert worker.cancel(began.call_id)
    with pytest.raises(CallFailed) as raised:
        worker.finish(began)
    assert raised.value.kind == "CANCELLED"
    assert desk.cancelled() == call.id
    # An answer that comes too late goes to nobody.
    desk.answer(call.id, "late")
    began = worker.begin(f"asks:{form}", "ask")
    desk.answer(desk.call().id, "right")
    assert worker.finish(began) == "right"


@pytest.mark.parametrize("form", ["ask", "ask_async"])
def test_no_host_call_outlives_its_call_whenever_that_is_cancelled(
    worker: Worker, desk: Desk, form: str
) -> None:
    for round_number in range(40):
        began = worker.begin(f"asks:{form}", "ask")
        call = desk.call()
        time.sleep(0.0001 * (round_number % 8))
        worker.cancel(began.call_id)
        with pytest.raises(CallFailed) as raised:
            worker.finish(began)
        assert raised.value.kind == "CANCELLED"
        assert desk.cancelled() == call.id


def test_a_cancel_gives_the_host_call_up_while_somebody_holds_the_gil(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:ask_while_gil_is_held", "ask", 3)
    call = desk.call()
    time.sleep(0.5)
    assert worker.cancel(began.call_id)
    assert desk.cancelled() == call.id
    assert not began.done()
    with pytest.raises(CallFailed) as raised:
        worker.finish(began)
    assert raised.value.kind == "CANCELLED"


def test_code_that_swallows_a_cancel_can_call_again(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:swallow_then_ask", "ask")
    first = desk.call()
    assert worker.cancel(began.call_id)
    assert desk.cancelled() == first.id
    desk.answer(desk.call().id, "cleaned up")
    assert worker.finish(began) == "cleaned up"


@pytest.mark.parametrize("form", ["ask_within", "ask_within_async"])
def test_a_timeout_is_an_error_and_the_host_is_told(worker: Worker, desk: Desk, form: str) -> None:
    failure = worker.failure(f"asks:{form}", 0.3, "ask")
    call = desk.call()
    assert 0 < call.deadline_us <= 300_000
    assert failure.error.exceptions[0].type == "snakepit.HostError"
    assert "deadline" in failure.error.message
    assert desk.cancelled() == call.id
    # The shorter one counts.
    began = worker.begin(f"asks:{form}", 1000.0, "ask", deadline=10.0)
    call = desk.call()
    assert call.deadline_us <= 10_000_000
    desk.answer(call.id, 1)
    assert worker.finish(began) == 1


@pytest.mark.parametrize("form", ["ask", "ask_async"])
def test_the_deadline_of_the_call_arrives_as_its_cancel(worker: Worker, desk: Desk, form: str) -> None:
    began = worker.begin(f"asks:{form}", "ask", deadline=0.3)
    call = desk.call()
    assert 0 < call.deadline_us <= 300_000
    overdue = Worker.pb.HostError(kind=KIND.KIND_DEADLINE, message="too late")
    desk.say(Worker.pb.HostResponse(id=call.id, error=overdue))
    time.sleep(0.35)
    assert worker.running() == began.call_id
    assert worker.cancel(began.call_id)
    with pytest.raises(CallFailed) as raised:
        worker.finish(began)
    assert raised.value.kind == "CANCELLED"
    # A host that does not cancel is not waited for for ever.
    failure = worker.failure(f"asks:{form}", "ask", deadline=0.3)
    assert failure.kind == "RAISED"
    assert "deadline" in failure.error.message
    # The first, which the host had stopped, needed no cancel.
    second = desk.call()
    assert desk.cancelled() == second.id


@pytest.mark.parametrize("seconds", [-1, float("nan"), -0.001])
def test_a_timeout_that_makes_no_sense_is_refused(worker: Worker, desk: Desk, seconds: float) -> None:
    assert "ValueError" in worker.failure("asks:bad_timeout", seconds).error.message


def test_errors_of_every_kind_arrive_as_what_they_are(worker: Worker, desk: Desk) -> None:
    kinds = {
        KIND.KIND_UNKNOWN_FUNCTION: "unknown_function",
        KIND.KIND_BAD_ARGUMENTS: "bad_arguments",
        KIND.KIND_FAILED: "failed",
        KIND.KIND_BAD_RESULT: "bad_result",
        KIND.KIND_CANCELLED: "cancelled",
        KIND.KIND_DEADLINE: "deadline",
        KIND.KIND_BUSY: "busy",
        # From a later host.
        99: "failed",
    }
    for kind, name in kinds.items():
        began = worker.begin("asks:describe", "ask")
        error = Worker.pb.HostError(kind=kind, message="it went wrong", causes=["the disk", "the cable"])
        desk.say(Worker.pb.HostResponse(id=desk.call().id, error=error))
        assert worker.finish(began) == [
            "HostError",
            name,
            "ask",
            "it went wrong",
            ["the disk", "the cable"],
        ]


def test_nonsense_is_nobodys_answer(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:describe", "ask")
    call = desk.call()
    desk.answer(call.id + 1000, "for nobody")
    desk.say(Worker.pb.HostResponse(id=call.id, value=b"\xc1"))
    desk.answer(call.id, "twice")
    assert worker.finish(began)[1] == "bad_result"
    began = worker.begin("asks:describe", "ask")
    desk.say(Worker.pb.HostResponse(id=desk.call().id))
    assert worker.finish(began)[1:4] == ["failed", "ask", "the host answered nothing"]
    began = worker.begin("asks:ask", "ask")
    desk.answer(desk.call().id, "whole")
    assert worker.finish(began) == "whole"


@pytest.mark.parametrize("form", ["ask_from_threads", "ask_all_async"])
def test_no_more_are_under_way_than_was_agreed_on(worker: Worker, desk: Desk, form: str) -> None:
    began = worker.begin(f"asks:{form}", "ask", 10)
    calls = [desk.call() for _ in range(4)]
    time.sleep(0.1)
    for waiting in range(6, -4, -1):
        assert desk.is_quiet()
        call = calls.pop(0)
        desk.answer(call.id, _native.decode(call.args)[0] * 2)
        if waiting > 0:
            calls.append(desk.call())
    assert worker.finish(began) == [2 * i for i in range(10)]


def test_one_task_of_many_can_give_up(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:give_up_async", "ask")
    given_up, seen = desk.call(), desk.call()
    desk.answer(seen.id, None)
    assert desk.cancelled() == given_up.id
    desk.answer(desk.call().id, "kept")
    assert worker.finish(began) == "kept"


def test_one_loop_serves_call_after_call(worker: Worker, desk: Desk) -> None:
    for _ in range(3):
        began = worker.begin("asks:ask_in_turn_async", "ask", 20)
        for i in range(20):
            call = desk.call()
            assert _native.decode(call.args) == [i]
            desk.answer(call.id, i)
        assert worker.finish(began) == list(range(20))


def test_the_end_of_the_stream_fails_what_waits_and_a_new_stream_serves(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:describe", "ask")
    desk.call()
    desk.drop()
    assert worker.finish(began)[1] == "cancelled"
    assert worker.call("asks:describe", "ask")[1] == "cancelled"
    second = Desk(worker)
    worker.handshake((), host_functions=NAMES)
    worker.ready()
    began = worker.begin("asks:ask", "ask")
    second.answer(second.call().id, "second")
    assert worker.finish(began) == "second"
    # A third takes its place: what the second was asked fails, and what it still says is of no interest.
    began = worker.begin("asks:describe", "ask")
    call = second.call()
    third = Desk(worker)
    assert worker.finish(began)[1] == "cancelled"
    assert second.request() is None
    began = worker.begin("asks:ask", "ask")
    asked = third.call()
    second.answer(call.id, "stale")
    third.answer(asked.id, "third")
    assert worker.finish(began) == "third"
    third.end()
    eventually(
        lambda: worker.call("asks:describe", "ask")[1:4:2] == ["cancelled", "there is no host to answer it"]
    )


def test_a_thread_that_outlives_its_call_is_not_cancelled_with_a_later_one(
    worker: Worker, desk: Desk
) -> None:
    worker.call("asks:background", "score")
    in_thread = desk.call()
    assert not in_thread.HasField("call_id")
    began = worker.begin("asks:ask", "ask")
    in_call = desk.call()
    worker.cancel(began.call_id)
    assert desk.cancelled() == in_call.id
    desk.answer(in_thread.id, None)
    assert desk.is_quiet()


@pytest.mark.parametrize("form", ["ask", "ask_async", "ask_in_a_thread_async"])
@pytest.mark.parametrize("worker", ["threads", "tasks"], indirect=True)
def test_calls_that_run_side_by_side_are_told_apart(worker: Worker, desk: Desk, form: str) -> None:
    first = worker.begin(f"asks:{form}", "ask", deadline=100.0)
    second = worker.begin(f"asks:{form}", "score")
    calls = {call.call_id: call for call in (desk.call(), desk.call())}
    assert calls[first.call_id].function == "ask"
    assert calls[first.call_id].HasField("deadline_us")
    assert calls[second.call_id].function == "score"
    assert not calls[second.call_id].HasField("deadline_us")
    assert worker.cancel(first.call_id)
    assert desk.cancelled() == calls[first.call_id].id
    with pytest.raises(CallFailed) as raised:
        worker.finish(first)
    assert raised.value.kind == "CANCELLED"
    desk.answer(calls[second.call_id].id, "second")
    assert worker.finish(second) == "second"


def test_names_are_looked_up_without_asking_the_host(worker: Worker, desk: Desk) -> None:
    names, has, has_not, host, function = worker.call("asks:describe_all")
    assert names == sorted(NAMES)
    assert has
    assert not has_not
    assert host == "<snakepit.context.host: ask, load_user, score>"
    assert function == "<function ask of the host>"
    assert worker.call("asks:describe", "scor") == [
        "UnknownHostFunction",
        "unknown_function",
        "scor",
        "the host has no such function; did you mean score?",
        [],
    ]
    assert (
        worker.call("asks:describe", "xyz")[3]
        == "the host has no such function; it has ask, load_user, score"
    )
    assert (
        worker.call("asks:keep_function")
        == "<function ask of the host, at most 60 s>; ask: went wrong; failed"
    )
    assert desk.is_quiet()


def test_a_shutdown_cancels_a_host_call_after_its_grace(worker: Worker, desk: Desk) -> None:
    began = worker.begin("asks:ask", "ask")
    desk.call()
    worker.shutdown(0.1)
    with pytest.raises(CallFailed) as raised:
        worker.finish(began)
    assert raised.value.kind == "CANCELLED"
    assert worker.wait() == 0


def test_a_start_hook_may_call(inherited_worker: Callable[..., InheritedWorker]) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    worker.handshake(("asks",), host_functions=("at_start",))
    desk = Desk(worker)
    call = desk.call()
    assert call.function == "at_start"
    assert not call.HasField("call_id")
    desk.answer(call.id, "from the host")
    assert worker.ready().WhichOneof("outcome") == "ready"
    assert worker.call("asks:told_at_start") == "from the host"


def test_a_host_without_functions_is_told_from_a_name_that_is_wrong(
    unix_worker: Callable[..., UnixWorker],
) -> None:
    worker = unix_worker("asks")
    told = worker.call("asks:describe", "ask")
    assert told[:2] == ["UnknownHostFunction", "unknown_function"]
    assert told[3] == "the host has registered no functions"


def test_it_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    """What a start imports is what every worker pays."""
    code = "import sys, snakepit; print(*sys.modules); assert issubclass(snakepit.HostError, Exception)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    imported = set(run.stdout.split())
    assert "snakepit._context" in imported
    assert imported.isdisjoint({"snakepit._host", "snakepit._host_aio", "asyncio", "difflib", "typing"})
