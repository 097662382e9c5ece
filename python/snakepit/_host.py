"""Functions of the host, callable from a worker."""

from __future__ import annotations

from snakepit import _context, _native

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    Kind = Literal[
        "unknown_function", "bad_arguments", "failed", "bad_result", "cancelled", "deadline", "busy"
    ]


class HostError(Exception):
    """A call of a host function has no result.

    Where the function failed, ``__cause__`` is a ``HostError`` with what led to it, and so on down the chain.
    """

    kind: Kind
    """What went wrong:

    - ``"unknown_function"``: the host has no such function
    - ``"bad_arguments"``: the arguments are not what it takes, have no representation, or are too large
    - ``"failed"``: it failed, or panicked
    - ``"bad_result"``: its result has no representation, or is too large
    - ``"cancelled"``: the host gave the call up, or the worker is leaving
    - ``"deadline"``: the timeout passed
    - ``"busy"``: the host refused it because too many were under way
    """

    function: str
    """The name of the function."""

    def __init__(self, message: str, kind: Kind = "failed", function: str = "") -> None:
        """Makes the error; raised by the runtime, and by tests that stand in for it."""
        super().__init__(message, kind, function)
        self.message = message
        self.kind = kind
        self.function = function

    def __str__(self) -> str:
        """The message."""
        return f"{self.function}: {self.message}" if self.function else self.message


class UnknownHostFunction(HostError, AttributeError):
    """The host has no function of that name."""


class HostFunction:
    """One function of the host."""

    __slots__ = ("_name", "_timeout")

    def __init__(self, name: str, timeout: float | None = None) -> None:
        """Names the function."""
        self._name = name
        self._timeout = timeout

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Calls the function and waits for its result, while other threads run.

        When the surrounding call is cancelled, or its deadline passes, ``snakepit.Cancelled`` is raised out
        of here and the host stops the function.

        Raises ``HostError`` when there is no result.
        """
        return _native.host_call(_context.place(), self._name, args, kwargs, self._timeout)

    async def aio(self, /, *args: Any, **kwargs: Any) -> Any:
        """The same for ``async def`` functions: other tasks of the event loop run meanwhile.

        Cancelling the task stops the function.
        """
        from snakepit import _host_aio

        return await _host_aio.call(self._name, args, kwargs, self._timeout)

    def with_timeout(self, seconds: float) -> HostFunction:
        """The function with a time of its own: ``HostError`` when it has passed."""
        if not seconds >= 0:
            raise ValueError(f"a timeout is a number of seconds from 0 on, not {seconds!r}")
        return HostFunction(self._name, seconds)

    def __repr__(self) -> str:
        """Shows the name, and the timeout if there is one."""
        timeout = "" if self._timeout is None else f", at most {self._timeout} s"
        return f"<function {self._name} of the host{timeout}>"


class Host:
    """The functions that the host has registered, as attributes.

    Each can be called from a function that the host called, from hooks, and from threads.
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> HostFunction:
        """The function of that name; raises ``UnknownHostFunction``, which is an ``AttributeError`` too."""
        if not _native.host_has(name):
            raise _unknown(name)
        return HostFunction(name)

    def __dir__(self) -> list[str]:
        """The names of the functions."""
        return _native.host_functions()

    def __repr__(self) -> str:
        """Shows the names of the functions."""
        return f"<snakepit.context.host: {', '.join(_native.host_functions()) or 'no functions'}>"


host = Host()
"""The functions of the host that started this worker."""


def _unknown(name: str) -> UnknownHostFunction:
    names = _native.host_functions()
    if not names:
        return UnknownHostFunction("the host has registered no functions", "unknown_function", name)
    import difflib

    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    advice = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(names)}"
    return UnknownHostFunction(f"the host has no such function; {advice}", "unknown_function", name)


def error(message: str, kind: Kind, function: str, causes: list[str]) -> HostError:
    """A failure that the host, or the native side, has told of."""
    outermost = HostError(message, kind, function)
    outer = outermost
    for cause in causes:
        outer.__cause__ = HostError(cause, kind)
        outer = outer.__cause__
    return outermost


for _public in (HostError, UnknownHostFunction):
    _public.__module__ = "snakepit"
