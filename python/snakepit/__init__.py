"""Python functions as workers of a Snakepit host.

An adapter is a plain module; nothing in it has to know about Snakepit::

    import snakepit

    @snakepit.function
    def embed(text: str) -> list[float]: ...

    @snakepit.on_start
    def load() -> None: ...

Functions of any importable module can be called without a decorator, by ``module:qualname``. The decorators
name what an adapter offers, what to run before the first and after the last call and at the end of a session,
and what tells whether the worker is healthy.
"""

from snakepit._cancel import Cancelled
from snakepit._context import Context, context
from snakepit._native import Input, __version__
from snakepit._registry import function, health, on_session_end, on_start, on_stop

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from snakepit._arrays import empty
    from snakepit._host import Host, HostError, HostFunction, UnknownHostFunction
    from snakepit._input import InputError
    from snakepit._session import Session
else:

    def __getattr__(name):
        """Imports what most workers never use when it is asked for."""
        if name in ("Host", "HostError", "HostFunction", "UnknownHostFunction"):
            from snakepit import _host

            return getattr(_host, name)
        if name == "Session":
            from snakepit._session import Session

            return Session
        if name == "InputError":
            from snakepit._input import InputError

            return InputError
        if name == "empty":
            from snakepit._arrays import empty

            return empty
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Cancelled",
    "Context",
    "Host",
    "HostError",
    "HostFunction",
    "Input",
    "InputError",
    "Session",
    "UnknownHostFunction",
    "__version__",
    "context",
    "empty",
    "function",
    "health",
    "on_session_end",
    "on_start",
    "on_stop",
]
