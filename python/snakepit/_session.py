"""What a worker keeps for sessions."""

from __future__ import annotations

from snakepit import _context, _native, _registry
from snakepit._cancel import Cancelled

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Session:
    """Calls of one caller that belong together, as far as they came to this worker."""

    __slots__ = ("__weakref__", "id", "state")

    id: int
    """The host's number for the session, never given twice in a run."""
    state: dict[Any, Any]
    """What the code keeps for the session: on this worker, until the session ends or the worker does."""

    def __init__(self, number: int) -> None:
        """Begins with nothing kept."""
        self.id = number
        self.state = {}

    def __repr__(self) -> str:
        """Shows the session by its number."""
        return f"<snakepit.Session {self.id}>"


Session.__module__ = "snakepit"

_sessions: dict[int, Session] = {}
"""Those that had a call here and have not ended, in the order of their first calls."""


def of(number: int) -> Session:
    """The session of this number."""
    session = _sessions.get(number)
    # Of several threads that find none, one makes it.
    return _sessions.setdefault(number, Session(number)) if session is None else session


def end() -> None:
    """Ends the session of the present call."""
    number = _native.current_session(_context.place())
    if number is not None:
        _end(of(number))


def end_all() -> None:
    """Ends every session: the worker leaves."""
    for session in list(_sessions.values()):
        _end(session)


def _end(session: Session) -> None:
    try:
        for hook in reversed(_registry.session_end_hooks):
            _run(hook, session)
    finally:
        _sessions.pop(session.id, None)


def _run(hook: Callable[[Session], Any], session: Session) -> None:
    from snakepit import _resolve, _runtime

    try:
        _resolve.call_hook(hook, session)
    except BaseException as error:
        import logging

        name = f"{getattr(hook, '__module__', '?')}:{getattr(hook, '__qualname__', '?')}"
        logger = logging.getLogger("snakepit.session")
        logger.error("end hook %s failed for session %d", name, session.id, exc_info=error)
        if isinstance(error, Cancelled) or _runtime.is_asyncio_cancel(error):
            # The host's patience is over, and with it the other hooks'.
            raise
