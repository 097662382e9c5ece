"""The event loop that ``async def`` functions share, so that what they open lives on.

There is one per thread that runs calls, and one thread unless the host asked for more.
"""

from __future__ import annotations

import asyncio
from _thread import get_ident
from collections.abc import Awaitable, Coroutine
from concurrent.futures import CancelledError, Future
from threading import main_thread
from types import FrameType
from typing import Any, TypeVar

from snakepit import _context

T = TypeVar("T")

DONE, RAISE, LATER = range(3)
"""What is left to do to interrupt a call: nothing; to raise where its code is; to try again."""


class _Runner:
    """A thread's loop, and what runs on it for the present call."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.task: asyncio.Future[Any] | None = None
        self.place: int | None = None


_runners: dict[int, _Runner] = {}
_serving: asyncio.AbstractEventLoop | None = None
"""The main thread's loop while calls run on it as tasks."""
_elsewhere: dict[int, tuple[int | None, Future[Any]]] = {}
"""What threads wait for that runs on that loop, with the place of the call."""


def _runner() -> _Runner:
    """The calling thread's."""
    thread = get_ident()
    runner = _runners.get(thread)
    if runner is None or runner.loop.is_closed():
        runner = _runners[thread] = _Runner()
        asyncio.set_event_loop(runner.loop)
    return runner


def run(awaitable: Awaitable[T]) -> T:
    """Runs an awaitable to its end on the loop that calls run on, or on the calling thread's."""
    coroutine = awaitable if isinstance(awaitable, Coroutine) else _await(awaitable)
    if _serving is not None and _serving.is_running():
        return _run_elsewhere(coroutine, _serving)
    runner = _runner()
    runner.place = _context.place()
    task = runner.task = runner.loop.create_task(coroutine)
    try:
        result: T = runner.loop.run_until_complete(task)
        return result
    finally:
        runner.task = None
        if not task.done():
            # Something tore through the loop itself; the coroutine's clean-up still has to run.
            task.cancel()
            runner.loop.run_until_complete(asyncio.wait([task], timeout=1))
        if task.done() and not task.cancelled():
            # SystemExit and KeyboardInterrupt leave the loop by another way: asyncio would complain of a task
            # whose exception nobody looked at.
            task.exception()


def _run_elsewhere(coroutine: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> T:
    thread = get_ident()
    if thread == main_thread().ident:
        coroutine.close()
        raise RuntimeError(
            "the event loop cannot wait for what has to run on it: await it in an async function"
        )
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    _elsewhere[thread] = (_context.place(), future)
    try:
        return future.result()
    except CancelledError:
        raise asyncio.CancelledError from None
    finally:
        del _elsewhere[thread]


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def interrupt(thread: int, place: int | None, frame: FrameType | None) -> int:
    """Cancels what a thread, which is in a frame, runs on its loop for the call at a place."""
    waits_for = _elsewhere.get(thread)
    if waits_for is not None and waits_for[0] == place:
        waits_for[1].cancel()
        return DONE
    runner = _runners.get(thread)
    if runner is None or runner.task is None or runner.place != place:
        return RAISE
    return interrupt_task(runner.task, frame)


def interrupt_task(task: asyncio.Future[Any], frame: FrameType | None) -> int:
    """Cancels a task whose thread is in a frame."""
    if task.done():
        # The call is over but for the loop's own last steps, and an exception there would break the loop.
        return DONE
    loop = task.get_loop()
    if asyncio.current_task(loop) is task:
        return RAISE if _reaches(frame, task) else LATER
    # Through the loop's own wakeup: a plain cancel() would be noticed only when something else happens.
    loop.call_soon_threadsafe(task.cancel)
    return DONE


def _reaches(frame: FrameType | None, task: Any) -> bool:
    """Whether an exception that is raised in a frame goes to a task's coroutine and tears nothing on its way.

    A task is the current one also while asyncio arranges its next step, or tells others of its end. What an
    exception kept from being arranged would never happen, and those who wait for it would wait forever.
    """
    # Of a task of asyncio's own; a task factory may make others, which are interrupted when they wait.
    coroutine = getattr(task.get_coro(), "cr_frame", None) if hasattr(task, "get_coro") else None
    while frame is not None and not str(frame.f_globals.get("__name__")).startswith("asyncio."):
        if frame is coroutine:
            return True
        frame = frame.f_back
    return False


def serve() -> asyncio.AbstractEventLoop:
    """The calling thread's loop, on which calls run from now on."""
    global _serving
    _serving = _runner().loop
    return _serving


def serve_no_longer() -> None:
    """Calls run on it no more."""
    global _serving
    _serving = None


def close() -> None:
    """Ends what still runs on the loops, and the loops. No call runs any more."""
    for runner in _runners.values():
        _close(runner.loop)


def _close(loop: asyncio.AbstractEventLoop) -> None:
    if loop.is_closed() or loop.is_running():
        return
    try:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
