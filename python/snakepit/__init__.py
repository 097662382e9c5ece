"""Python functions as workers of a Snakepit host.

An adapter is a plain module; nothing in it has to know about Snakepit::

    import snakepit

    @snakepit.function
    def embed(text: str) -> list[float]: ...

    @snakepit.on_start
    def load() -> None: ...

Functions of any importable module can be called without a decorator, by ``module:qualname``. The decorators
name what an adapter offers, and what to run before the first and after the last call.
"""

from snakepit._cancel import Cancelled
from snakepit._context import Context, context
from snakepit._native import __version__
from snakepit._registry import function, on_start, on_stop

__all__ = ["Cancelled", "Context", "__version__", "context", "function", "on_start", "on_stop"]
