"""How long calls of the host take, seen from Python."""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from snakepit import context


def echo(value: bytes) -> bytes:
    return value


def median(count: int, size: int) -> float:
    """Microseconds."""
    function, value = context.host.echo, bytes(size)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        function(value)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def median_async(count: int, size: int) -> float:
    function, value = context.host.echo.aio, bytes(size)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        await function(value)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


def per_second(threads: int, count: int, size: int) -> float:
    """Calls a second of several threads together."""
    function, value = context.host.echo, bytes(size)
    began = time.perf_counter()
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(lambda _: [function(value) for _ in range(count // threads)], range(threads)))
    return count / (time.perf_counter() - began)
