"""Which callables a name reaches, and what is said when it reaches none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from host import UnixWorker, Worker


def test_calls_marked_functions_by_bare_name(worker: Worker) -> None:
    assert worker.call("echo", {"a": [1, 2.5, None]}) == {"a": [1, 2.5, None]}
    assert worker.call("renamed", 1, c=5) == [1, 2, 5]


def test_calls_plain_functions_of_any_module(worker: Worker) -> None:
    assert worker.call("math:hypot", 3, 4) == 5.0
    assert worker.call("builtins:sorted", [3, 1, 2], reverse=True) == [3, 2, 1]
    assert worker.call("fractions:Fraction.from_float.__name__.__len__") == 10
    assert worker.call("sample:unmarked") == "called by its full name"
    assert worker.call("sample:Nested.Inner.method") == "nested"
    assert worker.call("builtins:dict", a=1) == {"a": 1}


def test_module_without_marks_offers_its_public_functions(unix_worker: Callable[..., UnixWorker]) -> None:
    worker = unix_worker("unmarked")
    assert worker.call("public", 4) == 8
    assert worker.failure("_private").kind == "UNKNOWN_FUNCTION"
    # Imported into the module, not defined there.
    assert worker.failure("sqrt").kind == "UNKNOWN_FUNCTION"


def test_unknown_function_comes_with_near_names(worker: Worker) -> None:
    failure = worker.failure("ecko")
    assert failure.kind == "UNKNOWN_FUNCTION"
    assert "echo" in failure.error.suggestions
    failure = worker.failure("math:hypto")
    assert failure.kind == "UNKNOWN_FUNCTION"
    assert "math:hypot" in failure.error.suggestions
    failure = worker.failure("sample:Nested.Iner.method")
    assert "sample:Nested.Inner" in failure.error.suggestions or failure.kind == "UNKNOWN_FUNCTION"


def test_unknown_module_comes_with_near_names(worker: Worker) -> None:
    failure = worker.failure("jsn:dumps")
    assert failure.kind == "UNKNOWN_MODULE"
    assert "no module named 'jsn'" in failure.error.message
    assert "json" in failure.error.suggestions


def test_module_that_fails_to_import_is_told_from_one_that_is_missing(worker: Worker) -> None:
    failure = worker.failure("broken_import:function")
    assert failure.kind == "UNKNOWN_MODULE"
    assert "failed to import" in failure.error.message
    assert "ZeroDivisionError" in failure.error.message
    assert failure.error.exceptions[0].type == "ZeroDivisionError"
    assert "broken_import.py" in failure.error.exceptions[0].traceback
    # A module it needs is missing: it exists itself.
    failure = worker.failure("needs_missing:function")
    assert "failed to import" in failure.error.message
    assert worker.failure("exits_on_import:function").kind == "UNKNOWN_MODULE"
    assert worker.call("echo", 1) == 1


def test_name_without_a_function_part_is_explained(worker: Worker) -> None:
    for name in ("math:", ":hypot", ""):
        assert worker.failure(name).kind == "UNKNOWN_FUNCTION"
    failure = worker.failure("math:pi")
    assert failure.kind == "UNKNOWN_FUNCTION"
    assert "float" in failure.error.message


def test_arguments_that_do_not_fit_are_told_from_a_type_error_inside(worker: Worker) -> None:
    failure = worker.failure("renamed")
    assert failure.kind == "BAD_ARGUMENTS"
    assert "original(a, b=2, *, c=3)" in failure.error.message
    assert worker.failure("renamed", 1, nonsense=2).kind == "BAD_ARGUMENTS"
    assert worker.failure("async_echo").kind == "BAD_ARGUMENTS"
    # A C function that does not tell its signature may have run before it raised.
    assert worker.failure("math:hypot", "text").kind == "RAISED"
    failure = worker.failure("builtins:sum", [1, "text"])
    assert failure.kind == "RAISED"
    assert failure.error.exceptions[0].type == "TypeError"


def test_arguments_that_cannot_be_decoded_are_refused(worker: Worker) -> None:
    request = worker.request("echo")
    request.args = b"\x91\xd4\x7f\x00"
    response = worker.data.Call(request)
    assert response.error.kind == worker.pb.CallError.KIND_BAD_ARGUMENTS
    assert response.error.path == "args[0]"
    request.args = b"\x01"
    assert "array" in worker.data.Call(request).error.message
    request.args = b""
    request.kwargs = b"\x81\x01\x02"
    assert "strings" in worker.data.Call(request).error.message


def test_result_that_cannot_be_represented_is_an_error_with_its_path(worker: Worker) -> None:
    failure = worker.failure("builtins:eval", "{'a': [1, 2, 3, object()]}")
    assert failure.kind == "BAD_RESULT"
    assert failure.error.path == 'result["a"][3]'
    assert "object" in failure.error.message


def test_unary_call_of_a_generator_points_to_streams(worker: Worker) -> None:
    failure = worker.failure("count", 3)
    assert failure.kind == "BAD_RESULT"
    assert "stream" in failure.error.message


def test_ambiguous_bare_name_is_refused_with_full_names(unix_worker: Callable[..., UnixWorker]) -> None:
    worker = unix_worker("unmarked", "unmarked_too")
    failure = worker.failure("public", 1)
    assert failure.kind == "UNKNOWN_FUNCTION"
    assert set(failure.error.suggestions) == {"unmarked:public", "unmarked_too:public"}
    assert worker.call("unmarked_too:public", 1) == 3


def test_large_values_cross_both_ways(worker: Worker) -> None:
    blob = bytes(64 * 1024 * 1024)
    assert worker.call("echo", blob, timeout=60) == blob


def test_async_functions_share_one_loop(worker: Worker) -> None:
    assert worker.call("async_echo", [1]) == [1]
    loop = "builtins:eval"
    expression = "id(__import__('asyncio').get_event_loop_policy().get_event_loop())"
    assert worker.call(loop, expression) == worker.call(loop, expression)


def test_worker_runs_in_the_directory_and_with_the_input_it_was_given(worker: Worker, tmp_path: Path) -> None:
    assert worker.call("pid") == worker.pid
    assert worker.call("os:read", 0, 1) == b""
