"""Every way user code can fail, as data; the worker serves on after each."""

from __future__ import annotations

import pytest
from host import Worker


def test_exception_arrives_with_its_own_traceback(worker: Worker) -> None:
    failure = worker.failure("fail", "boom")
    assert failure.kind == "RAISED"
    assert failure.error.message == "ValueError: boom"
    (exception,) = failure.error.exceptions
    assert (exception.type, exception.message) == ("ValueError", "boom")
    assert "sample.py" in exception.traceback
    assert exception.traceback.endswith("ValueError: boom\n")


@pytest.mark.parametrize("function", ["fail", "async_fail", "stream_fail", "async_stream_fail"])
def test_runtime_frames_are_not_in_tracebacks(worker: Worker, function: str) -> None:
    if "stream" in function:
        with pytest.raises(Exception, match="boom") as raised:
            list(worker.stream(function, "boom"))
        failure = raised.value
    else:
        failure = worker.failure(function, "boom")
    traceback = failure.error.exceptions[0].traceback
    assert "_runtime.py" not in traceback
    assert "_aio.py" not in traceback
    assert "asyncio" not in traceback
    assert traceback.count("  File ") == 1


def test_cause_and_context_are_told_apart(worker: Worker) -> None:
    outer, inner = worker.failure("fail_with_cause").error.exceptions
    assert (outer.type, outer.link) == ("RuntimeError", 0)
    assert (inner.type, inner.link) == ("KeyError", 1)
    assert "KeyError" not in outer.traceback
    outer, inner = worker.failure("fail_with_context").error.exceptions
    assert (inner.type, inner.link) == ("KeyError", 2)
    (only,) = worker.failure("fail_from_none").error.exceptions
    assert only.type == "RuntimeError"


def test_class_names_come_with_their_module(worker: Worker) -> None:
    assert worker.failure("json:loads", "{").error.exceptions[0].type == "json.decoder.JSONDecodeError"


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 3), (-1, -1), ("text", 1)])
def test_sys_exit_ends_the_call_and_not_the_worker(worker: Worker, code: object, expected: int) -> None:
    failure = worker.failure("leave", code)
    assert failure.kind == "SYSTEM_EXIT"
    assert failure.error.exit_code == expected
    assert worker.call("echo", 1) == 1


@pytest.mark.parametrize("function", ["leave", "interrupt", "async_leave", "async_interrupt"])
def test_base_exceptions_do_not_end_the_worker(worker: Worker, function: str) -> None:
    assert worker.failure(function).kind in ("SYSTEM_EXIT", "RAISED")
    assert worker.call("echo", 1) == 1
    assert worker.call("async_echo", 2) == 2


def test_exception_without_a_text_is_still_reported(worker: Worker) -> None:
    failure = worker.failure("fail_broken")
    assert failure.kind == "RAISED"
    assert failure.error.exceptions[0].type == "sample.Broken"
    assert "str() failed" in failure.error.message


def test_wild_exceptions_are_still_reported(worker: Worker) -> None:
    for function in ("fail_surrogate", "fail_group", "fail_deep", "fail_cycle", "fail_notes"):
        failure = worker.failure(function)
        assert failure.kind == "RAISED", function
        assert failure.error.exceptions, function
    assert "a note" in worker.failure("fail_notes").error.exceptions[0].traceback
    assert "inside the group" in worker.failure("fail_group").error.exceptions[0].traceback


def test_worker_survives_recursion_without_end(worker: Worker) -> None:
    failure = worker.failure("recurse")
    assert failure.error.exceptions[0].type == "RecursionError"
    assert worker.call("echo", 1) == 1
