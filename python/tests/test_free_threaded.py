"""The same on an interpreter without the GIL, where there is one.

The extension is built for it: there is no stable ABI for free-threaded interpreters before Python 3.15.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
import warnings
from pathlib import Path

import pytest
from host import HERE, CallFailed, InheritedWorker, Start, eventually

ROOT = HERE.parent.parent
CHOSEN = "SNAKEPIT_FREE_THREADED_PYTHON"


def _interpreter() -> str | None:
    # PyO3 begins at 3.14.
    candidates = [os.environ.get(CHOSEN), "python3.15t", "python3.14t"]
    for candidate in filter(None, candidates):
        path = shutil.which(candidate)
        if path is None:
            continue
        question = "import sysconfig; print(sysconfig.get_config_var('Py_GIL_DISABLED'))"
        # A version manager's shim exists also where the version does not.
        answer = subprocess.run([path, "-c", question], capture_output=True, text=True)
        if answer.stdout.strip() == "1":
            return path
        if candidate == os.environ.get(CHOSEN):
            raise RuntimeError(f"{CHOSEN} is {candidate}, which is no free-threaded interpreter")
    return None


@pytest.fixture(scope="module")
def free_threaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What starts a worker on it."""
    python = _interpreter()
    if python is None:
        message = (
            "NOT TESTED: calls on a free-threaded interpreter. There is none here; "
            f"put python3.14t into PATH or its path into {CHOSEN}"
        )
        warnings.warn(message, stacklevel=1)
        pytest.skip(message)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "free-threaded"
    subprocess.run(
        ["cargo", "build", "--quiet", "-p", "snakepit-python", "--target-dir", str(target)],
        cwd=ROOT,
        env={**os.environ, "PYO3_PYTHON": python},
        check=True,
    )
    layout = tmp_path_factory.mktemp("free-threaded")
    shutil.copytree(ROOT / "python" / "snakepit", layout / "snakepit")
    shutil.copy(target / "debug" / "libsnakepit_native.so", layout / "snakepit" / "_native.so")
    return {"python": python, "env": {"PYTHONPATH": str(layout)}}


@pytest.fixture(params=["threads", "asyncio"])
def worker(
    request: pytest.FixtureRequest, inherited_worker: Start, free_threaded: dict[str, object]
) -> InheritedWorker:
    return inherited_worker(("sample", "together"), **{request.param: 8}, **free_threaded)


def test_the_extension_does_not_bring_the_gil_back(worker: InheritedWorker) -> None:
    assert worker.call("has_gil") is False


def test_c_code_that_would_hold_the_gil_holds_up_nobody(worker: InheritedWorker) -> None:
    worker.call("echo", 0)
    holds = worker.begin("hold_gil", 2)
    eventually(lambda: worker.ping().running == 1)
    for number in range(20):
        assert worker.call("echo", number) == number
    assert not holds.done()
    assert worker.finish(holds) == "held"


def test_calls_meet(worker: InheritedWorker) -> None:
    calls = [worker.begin("meet", 8) for _ in range(8)]
    assert [worker.finish(call)[0] for call in calls] == [call.call_id for call in calls]


@pytest.mark.parametrize("function", ["busy", "stay", "async_stay"])
def test_interrupts(worker: InheritedWorker, function: str) -> None:
    calls = [worker.begin(function) for _ in range(3)]
    eventually(lambda: worker.ping().running == 3)
    time.sleep(0.05)
    for call in calls:
        assert worker.cancel(call.call_id)
        with pytest.raises(CallFailed) as raised:
            worker.finish(call)
        assert raised.value.kind == "CANCELLED"
    assert worker.call("echo", 1) == 1


def test_stale_cancel_never_hits_a_later_call(worker: InheritedWorker) -> None:
    for round_number in range(100):
        calls = [worker.begin("sleep", 0.0005 * (round_number % 4)) for _ in range(4)]
        for call in calls:
            worker.cancel(call.call_id)
        for call in calls:
            try:
                worker.finish(call)
            except CallFailed as error:
                assert error.kind == "CANCELLED"
        later = [worker.begin("sleep", 0.001) for _ in range(8)]
        assert [worker.finish(call) for call in later] == ["slept"] * 8


def test_a_dict_that_changes_while_it_is_encoded_is_an_error_at_worst(worker: InheritedWorker) -> None:
    writers = [worker.begin("write_shared", 200_000) for _ in range(3)]
    outcomes = set()
    while not all(writer.done() for writer in writers):
        try:
            worker.call("read_shared")
            outcomes.add("whole")
        except CallFailed as error:
            outcomes.add(error.kind)
    assert outcomes <= {"whole", "RAISED", "BAD_RESULT"}
    for writer in writers:
        assert worker.finish(writer) > 0


def test_streams_run_side_by_side(worker: InheritedWorker) -> None:
    streams = [worker.stream("count", 50, credit=8) for _ in range(4)]
    assert [list(stream) for stream in streams] == [list(range(50))] * 4
