"""State that a worker keeps for sessions, and their ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from host import CallFailed, InheritedWorker, Start, UnixWorker, eventually

MODES = [{}, {"threads": 3}, {"asyncio": 3}]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    path.touch()
    return path


def keeper(start: Start, journal: Path, **options: object) -> InheritedWorker:
    return start(("keeps",), env={"JOURNAL": str(journal)}, **options)


def lines(journal: Path) -> list[str]:
    return journal.read_text().splitlines()


@pytest.mark.parametrize("mode", MODES)
def test_state_lives_over_the_calls_of_its_session_and_no_other(
    inherited_worker: Start, journal: Path, mode: dict[str, int]
) -> None:
    worker = keeper(inherited_worker, journal, **mode)
    assert [worker.call("count", session=1) for _ in range(3)] == [1, 2, 3]
    assert worker.call("async_count", session=2) == 1
    assert worker.call("async_count", session=1) == 4
    assert list(worker.stream("count_to", 3, session=2)) == [2, 3, 4]
    assert worker.call("session", session=2**63) == 2**63
    assert lines(journal) == []


@pytest.mark.parametrize("mode", MODES)
def test_outside_of_a_session_there_is_none(
    inherited_worker: Start, journal: Path, mode: dict[str, int]
) -> None:
    worker = keeper(inherited_worker, journal, **mode)
    worker.call("count", session=7)
    assert worker.call("session") is None
    assert worker.call("session", session=7) == 7


@pytest.mark.parametrize("mode", MODES)
def test_an_end_runs_the_hooks_and_forgets_the_state(
    inherited_worker: Start, journal: Path, mode: dict[str, int]
) -> None:
    worker = keeper(inherited_worker, journal, **mode)
    for session in (1, 1, 2):
        worker.call("count", session=session)
    assert worker.end_session(1) is None
    assert lines(journal) == ["1 async-ended at 2", "1 ended at 2"]
    assert worker.call("count", session=1) == 1
    assert worker.call("count", session=2) == 2


@pytest.mark.parametrize("mode", MODES)
def test_an_orderly_end_of_the_worker_ends_its_sessions_before_it_stops(
    inherited_worker: Start, journal: Path, mode: dict[str, int]
) -> None:
    worker = keeper(inherited_worker, journal, **mode)
    for session in (1, 2):
        worker.call("count", session=session)
    worker.end_session(1)
    journal.write_text("")
    worker.shutdown()
    assert worker.wait() == 0
    assert lines(journal) == ["2 async-ended at 1", "2 ended at 1 by the worker", "stop"]


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_that_fails_is_logged_and_keeps_nothing_from_running(
    inherited_worker: Start, journal: Path, mode: dict[str, int]
) -> None:
    worker = keeper(inherited_worker, journal, **mode)
    events = worker.control.Events(worker.pb.EventsRequest())
    worker.call("keep", "fails", session=5)
    assert worker.end_session(5) is None
    log = next(event.log for event in events if event.log.logger == "snakepit.session")
    assert log.message == "end hook keeps:failing failed for session 5"
    assert "ValueError: does not keep the others" in log.exception
    assert log.level == 40
    assert len(lines(journal)) == 2


@pytest.mark.parametrize("mode", MODES)
def test_a_hook_can_be_cancelled_as_a_call_and_the_session_is_over(
    inherited_worker: Start, journal: Path, mode: dict[str, int]
) -> None:
    worker = keeper(inherited_worker, journal, **mode)
    worker.call("keep", "slow", session=5)
    end = worker.begin_end(5)
    eventually(lambda: worker.running() == end.call_id)
    worker.cancel(end.call_id)
    with pytest.raises(CallFailed) as failed:
        worker.finish(end)
    assert failed.value.kind == "CANCELLED"
    assert worker.call("count", session=5) == 1


def test_calls_of_a_session_that_run_side_by_side_share_its_state(
    inherited_worker: Start, journal: Path
) -> None:
    worker = keeper(inherited_worker, journal, threads=2)
    calls = [worker.begin("meet", session=1) for _ in range(2)]
    assert [worker.finish(call) for call in calls] == [2, 2]


def test_a_worker_says_that_it_ends_sessions(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    assert "session" in worker.handshake().capabilities


def test_any_grpc_client_can_have_sessions(unix_worker: Callable[..., UnixWorker], journal: Path) -> None:
    worker = unix_worker("keeps", env={"JOURNAL": str(journal)})
    assert [worker.call("count", session=1) for _ in range(2)] == [1, 2]
    worker.end_session(1)
    assert lines(journal) == ["1 async-ended at 2", "1 ended at 2"]


def test_the_decorator_takes_functions() -> None:
    import snakepit

    with pytest.raises(TypeError, match="takes a function of a session, not int"):
        snakepit.on_session_end(3)  # type: ignore[type-var]
