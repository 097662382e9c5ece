"""Beats: what a worker shows its host in place of answers to pings."""

import os
import signal
import struct
import time
from collections.abc import Iterator

import pytest
from host import Start, eventually

# Of the journal: 8 entries, then the number of beats (proto/src/preamble.rs).
LEN = 72
BEATS = 64


@pytest.fixture
def journal() -> Iterator[int]:
    fd = os.memfd_create("journal")
    os.ftruncate(fd, LEN)
    yield fd
    os.close(fd)


def beats(journal: int) -> int:
    return int(struct.unpack("=Q", os.pread(journal, 8, BEATS))[0])


@pytest.mark.parametrize("mode", [{}, {"threads": 2}, {"asyncio": 2}], ids=["one", "threads", "asyncio"])
def test_a_worker_beats_while_it_runs_and_only_then(
    inherited_worker: Start, journal: int, mode: dict[str, int]
) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate(others=(journal,))
    assert beats(journal) == 0
    assert "beats" in worker.handshake(beat_ms=5, **mode).capabilities
    assert worker.ready().WhichOneof("outcome") == "ready"
    first = beats(journal)
    eventually(lambda: beats(journal) > first + 10)
    os.kill(worker.pid, signal.SIGSTOP)
    # One that was under way may come yet.
    time.sleep(0.05)
    stopped = beats(journal)
    time.sleep(0.1)
    assert beats(journal) == stopped
    os.kill(worker.pid, signal.SIGCONT)
    eventually(lambda: beats(journal) > stopped + 10)


def test_a_worker_beats_while_the_gil_is_held(inherited_worker: Start, journal: int) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate(others=(journal,))
    worker.handshake(beat_ms=5)
    worker.ready()
    call = worker.begin("sample:hold_gil", 2)
    eventually(lambda: worker.running() == call.call_id)
    before = beats(journal)
    eventually(lambda: beats(journal) > before + 5)
    assert not call.done()
    worker.finish(call)


def test_a_beat_reaps_as_a_ping_does(inherited_worker: Start, journal: int) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate(others=(journal,))
    worker.handshake(beat_ms=5)
    worker.ready()
    pid = worker.call("sample:orphan")
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_worker_beats_only_if_it_is_asked_and_can(inherited_worker: Start, journal: int) -> None:
    unasked = inherited_worker(ready=False)
    unasked.open_gate(others=(journal,))
    assert "beats" not in unasked.handshake().capabilities
    unasked.ready()
    without_journal = inherited_worker(ready=False)
    without_journal.open_gate()
    assert "beats" not in without_journal.handshake(beat_ms=5).capabilities
    without_journal.ready()
    assert beats(journal) == 0
