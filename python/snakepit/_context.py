"""What code may know about the call it runs in."""

from __future__ import annotations

from snakepit import _native

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging

    from snakepit._host import Host
    from snakepit._session import Session


def place() -> int | None:
    """Where the native side keeps the present context's call; ``None`` while one call runs at a time."""
    return None


class Context:
    """The current call. Outside of one all but ``host`` and ``session`` raise ``RuntimeError``."""

    __slots__ = ()

    @staticmethod
    def _call() -> tuple[int, str, float | None, bool]:
        call = _native.current_call(place())
        if call is None:
            raise RuntimeError("snakepit.context describes the current call, and no call is running")
        return call

    @property
    def call_id(self) -> int:
        """The host's number for the call, unique within this worker's life."""
        return self._call()[0]

    @property
    def function(self) -> str:
        """The name the function was called by."""
        return self._call()[1]

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller stops waiting, 0.0 when that has passed; ``None`` without a deadline."""
        return self._call()[2]

    @property
    def deadline(self) -> float | None:
        """The same as a point on ``time.monotonic()``'s clock."""
        import time

        remaining = self.remaining
        return None if remaining is None else time.monotonic() + remaining

    @property
    def cancelled(self) -> bool:
        """Whether the host has cancelled the call; for code that looks rather than be interrupted."""
        return self._call()[3]

    @property
    def log(self) -> logging.Logger:
        """A logger named after the function. Its records reach the host with the call's id."""
        import logging

        return logging.getLogger(f"snakepit.call.{self.function.replace(':', '.')}")

    @property
    def session(self) -> Session | None:
        """The session that the call belongs to; ``None`` where there is none, and outside of calls."""
        number = _native.current_session(place())
        if number is None:
            return None
        from snakepit import _session

        return _session.of(number)

    @property
    def host(self) -> Host:
        """The functions that the host has registered; there outside of calls too, in hooks and threads."""
        from snakepit._host import host

        return host

    def __repr__(self) -> str:
        """Shows the call, or that there is none; never raises."""
        call = _native.current_call(place())
        return (
            "<snakepit.context: no call>"
            if call is None
            else f"<snakepit.context: call {call[0]} of {call[1]}>"
        )


context = Context()
"""The call that runs now."""
