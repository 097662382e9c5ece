"""What adapters declare: functions by bare name, and hooks."""

from __future__ import annotations

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, overload

    from snakepit._session import Session

    F = TypeVar("F", bound=Callable[..., Any])
    SessionHook = TypeVar("SessionHook", bound=Callable[[Session], Any])
else:

    def overload(target):
        """Does at run time what typing's does: nothing of use."""
        return target


MARK = "__snakepit_function__"

start_hooks: list[Callable[[], Any]] = []
"""Start hooks that have not run yet, in the order of their declaration."""

stop_hooks: list[Callable[[], Any]] = []
"""Stop hooks, in the order of their declaration."""

health_hooks: list[Callable[[], Any]] = []
"""Health hooks, in the order of their declaration."""

session_end_hooks: list[Callable[[Session], Any]] = []
"""End hooks of sessions, in the order of their declaration."""


@overload
def function(target: F, /) -> F: ...
@overload
def function(*, name: str | None = None) -> Callable[[F], F]: ...  # noqa: F811
def function(target: F | None = None, /, *, name: str | None = None) -> F | Callable[[F], F]:  # noqa: F811
    """Offers a function by bare name, its own or the one given.

    A module that marks functions this way offers those and no others by bare name; without any mark, its
    public functions are offered. The function itself is returned unchanged.
    """
    if name is not None and (not isinstance(name, str) or not name or ":" in name):
        raise ValueError(f"the name of a function must be a non-empty str without a colon, not {name!r}")

    def mark(target: F) -> F:
        if not callable(target):
            raise TypeError(f"@snakepit.function marks callables, not {type(target).__name__}")
        setattr(target, MARK, name or target.__name__)
        return target

    return mark if target is None else mark(target)


def on_start(hook: F, /) -> F:
    """Runs a function without arguments after the adapters are imported, before the worker is ready."""
    start_hooks.append(_hook(hook, "on_start"))
    return hook


def on_stop(hook: F, /) -> F:
    """Runs a function without arguments after the last call, the last declared first."""
    stop_hooks.append(_hook(hook, "on_stop"))
    return hook


def health(hook: F, /) -> F:
    """Has the host ask a function without arguments, between calls, whether this worker is healthy.

    ``None`` or ``True`` says that it is; ``False`` or an exception that it is not, and the host replaces it.
    """
    health_hooks.append(_hook(hook, "health"))
    return hook


def on_session_end(hook: SessionHook, /) -> SessionHook:
    """Runs a function with a session that ends, whose state is still there, the last declared first.

    A session ends when its host says so, and when the worker leaves in order: before the stop hooks then.
    Every session that had a call on this worker counts, whether it kept state or not.
    """
    session_end_hooks.append(_hook(hook, "on_session_end", "of a session"))
    return hook


def _hook(hook: F, decorator: str, takes: str = "without arguments") -> F:
    if not callable(hook):
        raise TypeError(f"@snakepit.{decorator} takes a function {takes}, not {type(hook).__name__}")
    return hook


def offered(module: Any) -> dict[str, Callable[..., Any]]:
    """The functions a module offers by bare name."""
    members = list(vars(module).items())
    marked: dict[str, Callable[..., Any]] = {}
    for _, member in members:
        # Looked up on the object itself: a module-level proxy with a wild __getattr__ has everything.
        name = getattr(member, "__dict__", {}).get(MARK) if callable(member) else None
        if isinstance(name, str):
            marked[name] = member
    if marked:
        return marked
    return {
        name: member
        for name, member in members
        if not name.startswith("_")
        and callable(member)
        and not isinstance(member, type)
        and getattr(member, "__module__", None) == module.__name__
    }
