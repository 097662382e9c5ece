"""The native side of the worker runtime."""

import asyncio
from typing import Any

__version__: str
CANCEL_SIGNAL: int

def serve(channel: str, adapters: list[str], paths: list[str], threads: int, asyncio: int) -> None:
    """Serves as a worker and ends the process; returns only if the host left before it opened the gate."""

class Block:
    """Memory shared with the host; it has a buffer, and is given back when nothing uses it."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def make_block(size: int) -> Block | None:
    """Uninitialised shared memory; ``None`` for a size that needs none, and where there is no room."""

class Threads:
    """What a thread needs to run calls."""

    def run(self) -> None:
        """Runs calls on the calling thread for as long as the process lives."""

class TaskCall:
    """A call that runs as a task."""

    WAIT: int
    PRODUCE: int
    STARVED: int
    place: int
    is_stream: bool
    cancelled: bool

    def returned(self) -> object:
        """What its function returned; once."""

    def answer(self, result: object) -> None:
        """It is over, with this result; the first end counts."""

    def fail(self, error: BaseException) -> None:
        """It is over, with this exception."""

    def starve(self) -> None:
        """It is over: its consumer grants nothing further."""

    def yields_nothing(self, result: object) -> None:
        """It is over: what it returned yields nothing."""

    def turn(self) -> int:
        """What a stream's producer does next."""

    def wake(self, future: asyncio.Future[None]) -> None:
        """Has a future resolved when there is another answer than to wait."""

    def item(self, item: object) -> bool:
        """Hands one item to the consumer; false when that cannot be done, and the call is over."""

class Inbox:
    """What other threads have for the event loop."""

    CALL: int
    WAKE: int
    GROW: int
    REARM: int
    PREPARE: int
    FINISH: int

    def fileno(self) -> int:
        """The descriptor that can be read while there is something to take."""

    def take(self) -> list[tuple[int, Any]]:
        """Takes what there is: what it is, and what it is about."""

    def prepare(self, adapters: list[str], paths: list[str]) -> None:
        """Imports adapters and publishes the outcome."""

def take_interrupt() -> bool:
    """Whether there is a cancel for the call that the main thread runs now; true once per cancel."""

def take_interrupts() -> list[tuple[int, int]]:
    """The other calls that are to be interrupted: the place of each, and its thread, 0 for a task."""

def interrupt_later(place: int | None) -> None:
    """Interrupts the call at a place, or the only one, in a moment: right now it is where it must not be."""

def interrupt_thread(place: int, exception: type[BaseException]) -> None:
    """Raises an exception in the thread that runs the call at a place, unless its user code has ended."""

def current_call(place: int | None) -> tuple[int, str, float | None, bool] | None:
    """The call at a place, or the only one: id, function, seconds left, told to stop."""

def current_session(place: int | None) -> int | None:
    """The number of the session of the call at a place, or of the only one."""

def emit_log(
    place: int | None,
    level: int,
    logger: str,
    message: str,
    exception: str,
    file: str,
    line: int,
    fields: dict[str, str],
) -> bool:
    """Takes a log record for the host; false when nobody is there to take it."""

def request_shutdown(grace_ms: int) -> None:
    """Asks the worker to end."""

def after_fork() -> None:
    """To be run in a child of fork."""

def encode(value: object) -> bytes:
    """The MessagePack form of a value; ``TypeError`` with the path to what has none."""

def decode(data: bytes) -> object:
    """The value of a MessagePack form; ``ValueError`` with the path to what is wrong."""

class Input:
    """The items that the caller streams to a call.

    It is the first positional argument of the function. ``for`` waits for each item while other threads run,
    ``async for`` while other tasks of the event loop run. It raises ``snakepit.InputError`` where the stream
    of the caller has failed. The call's end drops that stream, as does closing or collecting this before.
    """

    def __iter__(self) -> Input: ...
    def __next__(self) -> Any: ...
    def __aiter__(self) -> Input: ...
    async def __anext__(self) -> Any: ...
    def close(self) -> None:
        """Leaves the input: the caller's stream is dropped, and there are no more items."""

    def _step(self, inbox: HostInbox) -> tuple[int | None, Any]:
        """For an event loop: ``(None, item)``, or the number by which the inbox tells that there may be one.

        Raises ``StopAsyncIteration`` at the end.
        """

class HostInbox:
    """Where an event loop finds which of its calls of the host, and which inputs, have something for it."""

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to take."""

    def take(self) -> list[int]:
        """The numbers of those calls."""

class HostCallTask:
    """A call that an event loop waits for; given up when it is collected before it is finished."""

    @property
    def number(self) -> int:
        """The number by which an inbox names it."""

    @property
    def left(self) -> float | None:
        """The seconds to wait for it."""

    def finish(self) -> Any:
        """The result; a call that has none by now is past its deadline."""

    def abandon(self) -> None:
        """Gives the call up, unless it is finished."""

def host_functions() -> list[str]:
    """The names of the host's functions, in order."""

def host_has(name: str) -> bool:
    """Whether the host has a function."""

def host_call(
    place: int | None, function: str, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
) -> Any:
    """Calls a function of the host and waits for its result."""

def host_begin(
    inbox: HostInbox,
    place: int | None,
    function: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None,
) -> HostCallTask:
    """Calls a function of the host for an event loop."""

class Fork:
    """A template's request for a process."""

    id: int
    program: bytes
    arguments: list[bytes]
    environment: dict[bytes, bytes]
    gate: int | None

    def close(self) -> None:
        """Closes the descriptors that came with it."""

class Forks:
    """Where a template takes requests from, and what it knows of its own environment."""

    def __init__(
        self, connection: int, environment: dict[bytes, bytes], own: int, room: int, size: int
    ) -> None: ...
    def receive(self) -> Fork | None:
        """The next request; ``None`` when the host is gone."""

    def hold(self, fork: Fork, nested: bool) -> None:
        """Makes the calling process the one that was asked for, up to its gate, and tells so.

        ``nested`` is whether it has a PID namespace.
        """

    def changes(self, fork: Fork) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
        """What the environment of the process has to lose and to get."""

    def close(self) -> None:
        """Lets go of the socket, in a process that serves calls."""

class Nests:
    """Makes processes in PID namespaces of their own, which end with the host that this pidfd is of.

    ``OSError`` where that is not possible.
    """

    def __init__(self, host: int) -> None: ...
    def fork(self, forks: Forks, fork: Fork) -> int | None:
        """Forks: 0 in the process that was asked for, else the pid of the first process of its namespace.

        ``None`` where there is none, and the host has been told why.
        """

def receive_setup(lifeline: int) -> tuple[list[bytes], list[int]] | None:
    """The one message that comes over a template's lifeline; ``None`` when the host is gone."""

def fill_holes() -> None:
    """Takes what is free in the heap between things that are in use, and keeps it."""
