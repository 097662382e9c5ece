"""Python's logging and the context of a call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from host import Start, UnixWorker, Worker, eventually


class Listener:
    """Collects a worker's events."""

    def __init__(self, worker: Worker) -> None:
        self.events: list[Any] = []
        self.rpc = worker.control.Events(worker.pb.EventsRequest(), timeout=60)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for event in self.rpc:
                self.events.append(event)
        except Exception:
            pass

    @property
    def records(self) -> list[Any]:
        return [event.log for event in self.events if event.WhichOneof("event") == "log"]

    def record(self, message: str) -> Any:
        """The record with this message, when it has come."""
        return eventually(lambda: next((r for r in self.records if r.message == message), None), what=message)


def test_record_arrives_with_level_fields_and_call(inherited_worker: Start) -> None:
    worker = inherited_worker()
    listener = Listener(worker)
    call = worker.begin("log", 30, "hello")
    worker.finish(call)
    record = listener.record("hello")
    assert (record.level, record.logger) == (30, "sample.logger")
    assert record.call_id == call.call_id
    assert record.file.endswith("sample.py")
    assert record.line > 0
    assert dict(record.fields) == {"answer": "42"}
    assert not record.exception


def test_record_carries_its_exception(inherited_worker: Start) -> None:
    worker = inherited_worker()
    listener = Listener(worker)
    worker.call("log_exception")
    assert "ValueError: logged" in listener.record("it failed").exception


def test_records_of_the_start_wait_for_the_subscriber(inherited_worker: Start) -> None:
    worker = inherited_worker(("logs_on_import",))
    assert not Listener(worker).record("while importing").HasField("call_id")


def test_level_of_the_handshake_decides_what_is_sent(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    worker.handshake(("sample",), log_level=30)
    worker.ready()
    listener = Listener(worker)
    worker.call("log", 20, "too low")
    worker.call("log", 30, "high enough")
    listener.record("high enough")
    assert all(record.message != "too low" for record in listener.records)


def test_flood_is_dropped_and_counted_and_never_waits(inherited_worker: Start) -> None:
    worker = inherited_worker()
    worker.call("chatter", 20_000)
    listener = Listener(worker)
    eventually(lambda: any(event.WhichOneof("event") == "dropped" for event in listener.events))
    dropped = sum(event.dropped for event in listener.events if event.WhichOneof("event") == "dropped")
    eventually(lambda: len(listener.records) + dropped == 20_000)
    assert dropped > 0
    worker.call("log", 20, "after the flood")
    listener.record("after the flood")


def test_records_of_stop_hooks_still_arrive(inherited_worker: Start) -> None:
    worker = inherited_worker(("logs_on_stop",))
    listener = Listener(worker)
    worker.ping()
    worker.shutdown()
    listener.record("while stopping")
    assert worker.wait() == 0


def test_newer_subscription_ends_the_older(inherited_worker: Start) -> None:
    worker = inherited_worker()
    older = Listener(worker)
    worker.call("log", 20, "one")
    older.record("one")
    newer = Listener(worker)
    eventually(lambda: older.rpc.done())
    worker.call("log", 20, "two")
    newer.record("two")


def test_records_nobody_asked_for_go_to_standard_error(
    inherited_worker: Start, unix_worker: Callable[..., UnixWorker]
) -> None:
    stranger = unix_worker("sample")
    stranger.call("log", 30, "for the terminal")
    eventually(lambda: "for the terminal" in stranger.stderr_text)
    worker = inherited_worker()
    worker.call("log", 30, "nobody listens")
    worker.shutdown()
    assert worker.wait() == 0
    assert "nobody listens" in worker.stderr_text


def test_context_describes_the_call(inherited_worker: Start) -> None:
    worker = inherited_worker()
    listener = Listener(worker)
    call = worker.begin("call_context", deadline=5)
    call_id, function, remaining, cancelled = worker.finish(call)
    assert (call_id, function, cancelled) == (call.call_id, "call_context", False)
    assert 4 < remaining <= 5
    assert listener.record("from the context").call_id == call.call_id
    assert worker.call("call_context")[2] is None


def test_context_outside_of_a_call_is_a_clear_error() -> None:
    import snakepit

    for name in ("call_id", "function", "remaining", "deadline", "cancelled", "log"):
        with pytest.raises(RuntimeError, match="no call is running"):
            getattr(snakepit.context, name)
    assert "no call" in repr(snakepit.context)


def test_output_is_not_buffered(inherited_worker: Start) -> None:
    worker = inherited_worker()
    worker.call("builtins:exec", "import sys; sys.stderr.write('no newline')")
    # Reading stops at a line's end, so one is added by another call.
    worker.call("builtins:exec", "import os; os.write(2, b'|raw\\n')")
    eventually(lambda: "no newline|raw" in worker.stderr_text)


def test_crash_leaves_a_python_traceback(inherited_worker: Start) -> None:
    worker = inherited_worker()
    call = worker.begin("ctypes:string_at", 0)
    assert worker.wait() == -11
    assert call.exception() is not None
    assert "Fatal Python error: Segmentation fault" in worker.stderr_text
