"""The event loop that ``async def`` functions share, one per worker, so that what they open lives on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_loop: asyncio.AbstractEventLoop | None = None
_task: asyncio.Task[Any] | None = None


def run(awaitable: Awaitable[T]) -> T:
    """Runs an awaitable to its end on the worker's loop."""
    global _loop, _task
    if _loop is None or _loop.is_closed():
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    coroutine = awaitable if isinstance(awaitable, Coroutine) else _await(awaitable)
    _task = _loop.create_task(coroutine)
    try:
        result: T = _loop.run_until_complete(_task)
        return result
    finally:
        task, _task = _task, None
        if task is not None and not task.done():
            # Something tore through the loop itself; the coroutine's clean-up still has to run.
            task.cancel()
            _loop.run_until_complete(asyncio.wait([task], timeout=1))
        if task is not None and task.done() and not task.cancelled():
            # SystemExit and KeyboardInterrupt leave the loop by another way: asyncio would complain of a task
            # whose exception nobody looked at.
            task.exception()


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def interrupt() -> bool:
    """Cancels the running task if it waits; False when there is none or it is executing right now."""
    task, loop = _task, _loop
    if task is None or loop is None or asyncio.current_task(loop) is task:
        return False
    if task.done():
        # The call is over but for the loop's own last steps, and an exception there would break the loop.
        return True
    # Through the loop's own wakeup: a plain cancel() would be noticed only when something else happens.
    loop.call_soon_threadsafe(task.cancel)
    return True


def close() -> None:
    """Ends what still runs on the loop, and the loop."""
    if _loop is None or _loop.is_closed():
        return
    try:
        tasks = asyncio.all_tasks(_loop)
        for task in tasks:
            task.cancel()
        if tasks:
            _loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        _loop.run_until_complete(_loop.shutdown_asyncgens())
    finally:
        _loop.close()
