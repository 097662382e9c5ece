"""Starts, calls and measures what is used from a Python program.

Requests are JSON lines on stdin, answers JSON lines on stdout; an answer with an `error` says why something
cannot be done.
"""

import json
import os
import signal
import sys
import threading
from time import perf_counter, perf_counter_ns

# Between the start of a fresh pool and the end of its worker.
QUIET_SECONDS = 0.05


class System:
    """A pool of one library. `start` returns the pids of its workers when each of them has answered."""

    def prepare(self, library: str) -> None:
        """Whatever is there before the clock of a start runs."""

    def start(self, workers: int, library: str) -> list[int]:
        """Starts so many workers that have imported a library (`""` for none)."""
        raise NotImplementedError

    def call(self, caller: int, value):
        """Has a worker answer a value, for the caller of this number."""
        raise NotImplementedError

    def pid(self) -> int:
        """Asks the only worker for its pid, and does whatever its user has to when the one before was killed.

        Raises when it has no answer yet; the caller asks again.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """Ends the workers."""
        raise NotImplementedError


def percentile(ordered: list, q: float) -> float:
    """The nearest-rank percentile of ordered nanoseconds, in microseconds."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] / 1e3


def value_of(size: int, array: bool):
    """What is sent: bytes, or float64 of as many bytes."""
    if not array:
        return b"x" * size
    import numpy

    return numpy.ones(size // 8)


def load(
    system: System, size: int, array: bool, callers: int, seconds: float, warm_up: list, least: int
) -> dict:
    """Closed loop: each caller calls, waits, calls again, for so long and at least so often."""
    value = value_of(size, array)
    length = len(value)
    calls, until = warm_up[0], perf_counter() + warm_up[1]
    for done in range(calls):
        if done and perf_counter() >= until:
            break
        system.call(done, value)
    took = [[] for _ in range(callers)]
    failures = []
    start = perf_counter()
    until = start + seconds

    def caller(number: int, mine: list) -> None:
        try:
            while len(mine) < least or perf_counter() < until:
                before = perf_counter_ns()
                answer = system.call(number, value)
                mine.append(perf_counter_ns() - before)
                if len(answer) != length:
                    raise RuntimeError("something else was answered")
        except Exception as error:
            failures.append(error)

    if callers == 1:
        caller(0, took[0])
    else:
        threads = [threading.Thread(target=caller, args=each) for each in enumerate(took)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elapsed = perf_counter() - start
    if failures:
        raise failures[0]
    ordered = sorted(ns for mine in took for ns in mine)
    return {
        "p50_us": percentile(ordered, 0.5),
        "p90_us": percentile(ordered, 0.9),
        "p99_us": percentile(ordered, 0.99),
        "per_s": len(ordered) / elapsed,
    }


def start(system: System, workers: int, library: str) -> dict:
    """Seconds until each worker has answered."""
    system.prepare(library)
    begin = perf_counter()
    pids = system.start(workers, library)
    return {"seconds": perf_counter() - begin, "pids": pids}


def recover(system: System) -> dict:
    """Seconds from the end of the only worker until another has answered."""
    before = system.pid()
    threading.Event().wait(QUIET_SECONDS)
    begin = perf_counter()
    os.kill(before, signal.SIGKILL)
    while True:
        try:
            if system.pid() != before:
                return {"seconds": perf_counter() - begin}
        except Exception:
            if perf_counter() - begin > 60:
                raise


def stop(system: System) -> dict:
    """Ends the workers."""
    system.stop()
    return {}


def serve(make) -> None:
    """Answers requests until stdin closes; the first makes the system."""
    system = None
    requests = {"start": start, "load": load, "recover": recover, "stop": stop}
    # What the library prints goes to stderr; the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            system = system or make()
            answer = requests[request.pop("op")](system, **request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), file=answers, flush=True)
