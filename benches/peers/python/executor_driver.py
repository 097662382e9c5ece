"""The peer: concurrent.futures.ProcessPoolExecutor, measured from inside the Python program that uses it.

Requests are JSON lines on stdin, answers JSON lines on stdout. The driver leads its own process group, and at
end-of-file on stdin it ends that group, so that no executor worker outlives the benchmark.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from time import perf_counter, perf_counter_ns

from echo_adapter import echo

barrier = None


def adopt(shared) -> None:
    """Initializer of a worker: keeps the barrier that `meet` waits at."""
    global barrier
    barrier = shared


def meet() -> bool:
    """A task that ends only when every worker runs one: proof that all of them answer."""
    barrier.wait()
    return True


def percentile(ordered: list, q: float) -> float:
    """The nearest-rank percentile of ordered nanoseconds, in microseconds."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] / 1e3


def load(executor: ProcessPoolExecutor, payload: int, callers: int, seconds: float) -> dict:
    """Closed loop: each caller submits, waits, submits again."""
    data = b"x" * payload
    for _ in range(10):
        executor.submit(echo, data).result()
    took = [[] for _ in range(callers)]
    start = perf_counter()
    until = start + seconds

    def caller(mine: list) -> None:
        while True:
            before = perf_counter_ns()
            answer = executor.submit(echo, data).result()
            mine.append(perf_counter_ns() - before)
            if len(answer) != payload:
                raise RuntimeError("the executor answered something else")
            if perf_counter() >= until:
                return

    if callers == 1:
        caller(took[0])
    else:
        threads = [threading.Thread(target=caller, args=(mine,)) for mine in took]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    elapsed = perf_counter() - start
    ordered = sorted(ns for mine in took for ns in mine)
    return {
        "p50_us": percentile(ordered, 0.5),
        "p90_us": percentile(ordered, 0.9),
        "p99_us": percentile(ordered, 0.99),
        "per_s": len(ordered) / elapsed,
    }


def ready(workers: int, method: str) -> dict:
    """Seconds from making an executor until each of its workers has answered."""
    context = multiprocessing.get_context(method)
    shared = context.Barrier(workers)
    start = perf_counter()
    executor = ProcessPoolExecutor(workers, context, initializer=adopt, initargs=(shared,))
    for done in [executor.submit(meet) for _ in range(workers)]:
        done.result()
    elapsed = perf_counter() - start
    executor.shutdown()
    return {"seconds": elapsed}


def main() -> None:
    """Answers requests until stdin closes."""
    executor = None
    for line in sys.stdin:
        request = json.loads(line)
        op = request.pop("op")
        if op == "ready":
            answer = ready(**request)
        else:
            if executor is None:
                executor = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            answer = load(executor, **request)
        print(json.dumps(answer), flush=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
