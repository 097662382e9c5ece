"""Calls as tasks of the event loop on the main thread, which runs until the worker ends."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
from collections.abc import Awaitable, Callable
from types import CoroutineType, FrameType
from typing import Any

from snakepit import _aio, _native, _runtime, _several
from snakepit._cancel import Cancelled

_running: dict[int, asyncio.Task[Any]] = {}
"""The tasks of the calls that run, by their places."""


def is_async(target: Callable[..., Any]) -> bool:
    """Whether calling it runs nothing and gives what belongs on the loop."""
    return any(
        inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        for function in (target, type(target).__call__)
    )


def serve(inbox: _native.Inbox, threads: _native.Threads, signals: int) -> None:
    """Runs the loop until there is nothing more to do."""
    loop = _aio.serve()
    commands: list[Any] = []
    started = 0

    def look() -> None:
        nonlocal started
        for what, subject in inbox.take():
            if what == inbox.CALL:
                _start(loop, subject)
            elif what == inbox.WAKE:
                if not subject.done():
                    subject.set_result(None)
            elif what == inbox.GROW:
                _several.start_thread(threads, started)
                started += 1
            elif what == inbox.REARM:
                _runtime.rearm()
            else:
                commands.append(subject)
                loop.stop()

    loop.add_reader(inbox.fileno(), look)
    # A signal that comes while the loop waits: Python runs its handler once the loop has woken up.
    loop.add_reader(signals, _drain, signals)
    try:
        while True:
            try:
                loop.run_forever()
            except (SystemExit, KeyboardInterrupt, Cancelled):
                # What a task of user code raises; asyncio hands these on to whoever runs the loop as well.
                continue
            while commands:
                command = commands.pop(0)
                if command is None:
                    return
                # Outside of the loop, since start hooks may need it.
                inbox.prepare(*command)
    finally:
        loop.remove_reader(inbox.fileno())
        loop.remove_reader(signals)
        _aio.serve_no_longer()


def _drain(signals: int) -> None:
    try:
        os.read(signals, 64)
    except BlockingIOError:
        pass


def _start(loop: asyncio.AbstractEventLoop, call: _native.TaskCall) -> None:
    place = call.place
    context = contextvars.copy_context()
    context.run(_several.enter, place)
    returned = call.returned()
    if call.is_stream:
        coroutine: Any = _produce(call, returned)
    elif isinstance(returned, CoroutineType):
        coroutine = returned
    else:
        coroutine = _await(returned)
    task = loop.create_task(coroutine, context=context)
    _running[place] = task

    def finished(task: asyncio.Task[Any]) -> None:
        del _running[place]
        try:
            result = task.result()
        except BaseException as error:
            call.fail(error)
        else:
            call.answer(result)

    task.add_done_callback(finished)
    if call.cancelled:
        # In between, when there was no task to cancel.
        task.cancel()


async def _await(value: Any) -> Any:
    return await value if isinstance(value, Awaitable) else value


async def _produce(call: _native.TaskCall, returned: Any) -> None:
    """Yields the items of what a function returned, as far as the consumer takes them."""
    if isinstance(returned, Awaitable):
        returned = await returned
    opened = _runtime.open_stream(returned)
    if opened is None:
        call.yields_nothing(returned)
        return
    iterator, is_async = opened
    try:
        while await _may_produce(call):
            try:
                item = await anext(iterator) if is_async else next(iterator)
            except (StopAsyncIteration, StopIteration):
                return
            if not call.item(item):
                return
            # The other tasks' turn, also when this one never has to wait.
            await asyncio.sleep(0)
    finally:
        close = getattr(iterator, "aclose" if is_async else "close", None)
        if close is not None:
            closed = close()
            if is_async:
                await closed


async def _may_produce(call: _native.TaskCall) -> bool:
    while (turn := call.turn()) == call.WAIT:
        woken = asyncio.get_running_loop().create_future()
        call.wake(woken)
        await woken
    if turn == call.STARVED:
        call.starve()
    return turn == call.PRODUCE


def interrupt(place: int, frame: FrameType | None) -> int:
    """Cancels a call's task; the loop's thread is in a frame."""
    task = _running.get(place)
    # Without one it is over, or about to begin, and looks whether it was cancelled.
    return _aio.DONE if task is None else _aio.interrupt_task(task, frame)
