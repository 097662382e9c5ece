"""What a worker needs besides that runs several calls at the same time."""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from types import FrameType, ModuleType

from snakepit import _aio, _context, _native
from snakepit._cancel import Cancelled

_place: ContextVar[int | None] = ContextVar("snakepit_call", default=None)
# Whoever asks for the present call asks for the one of the present context: that of the thread, of the task,
# and of what they have handed their context on to.
_context.place = _place.get
enter = _place.set


def start_threads(threads: _native.Threads, count: int) -> None:
    """Starts threads that run calls."""
    for number in range(count):
        start_thread(threads, number)


def start_thread(threads: _native.Threads, number: int) -> None:
    """Starts one of them."""
    threading.Thread(target=threads.run, name=f"snakepit-call-{number}", daemon=True).start()


def event_loop() -> ModuleType:
    """The module that runs calls as tasks."""
    from snakepit import _tasks

    return _tasks


def interrupt(frame: FrameType | None) -> None:
    """Delivers cancels. It runs on the main thread, which runs no calls but those of the event loop."""
    executing = False
    for place, thread in _native.take_interrupts():
        if thread:
            # A thread that waits for a task would not notice an exception until that has ended.
            left = _aio.interrupt(thread, place, sys._current_frames().get(thread))
        else:
            left = event_loop().interrupt(place, frame)
        if left == _aio.LATER:
            _native.interrupt_later(place)
        elif left == _aio.RAISE:
            if thread:
                _native.interrupt_thread(place, Cancelled)
            else:
                executing = True
    if executing:
        raise Cancelled("the host cancelled this call")
