"""What an event loop waits for from the host: results of its functions, items of the input of a call."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakKeyDictionary

from snakepit import _context, _native


class _Answers:
    """Brings what became of calls into one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.inbox = _native.HostInbox()
        self.waiting: dict[int, asyncio.Future[None]] = {}
        loop.add_reader(self.inbox.fileno(), self._deliver)

    def _deliver(self) -> None:
        for call in self.inbox.take():
            future = self.waiting.get(call)
            if future is not None:
                wake(future)


_answers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Answers] = WeakKeyDictionary()


def wake(future: asyncio.Future[None]) -> None:
    """Lets a call go on; it looks itself at what became of it."""
    if not future.done():
        future.set_result(None)


def _answers_of(loop: asyncio.AbstractEventLoop) -> _Answers:
    answers = _answers.get(loop)
    if answers is None:
        answers = _answers[loop] = _Answers(loop)
    return answers


async def next_item(items: _native.Input) -> Any:
    """The next item of a call's input."""
    loop = asyncio.get_running_loop()
    answers = _answers_of(loop)
    while True:
        number, item = items._step(answers.inbox)
        if number is None:
            return item
        future = answers.waiting[number] = loop.create_future()
        try:
            await future
        finally:
            answers.waiting.pop(number, None)


async def call(function: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None) -> Any:
    """Calls a function of the host and awaits its result."""
    loop = asyncio.get_running_loop()
    answers = _answers_of(loop)
    task: _native.HostCallTask | None = None
    timer: asyncio.TimerHandle | None = None
    try:
        task = _native.host_begin(answers.inbox, _context.place(), function, args, kwargs, timeout)
        future = answers.waiting[task.number] = loop.create_future()
        if task.left is not None:
            timer = loop.call_later(task.left, wake, future)
        await future
        return task.finish()
    finally:
        # The code of a call can be interrupted between any two of the above.
        if timer is not None:
            timer.cancel()
        if task is not None:
            answers.waiting.pop(task.number, None)
            task.abandon()
