"""What goes wrong with the input of a call."""

from __future__ import annotations

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    Kind = Literal["failed", "bad_item", "cancelled"]


class InputError(Exception):
    """The input of a call has no next item, and did not end.

    Where the caller's stream failed, ``__cause__`` is an ``InputError`` with what led to it, and so on
    down the chain.
    """

    kind: Kind
    """What went wrong:

    - ``"failed"``: the caller's stream failed, or panicked
    - ``"bad_item"``: the item has no representation, or is too large
    - ``"cancelled"``: the call was cancelled or is over, or the host is gone
    """

    index: int
    """How many items there were before it."""

    def __init__(self, message: str, kind: Kind = "failed", index: int = 0) -> None:
        """Makes the error; raised by the runtime, and by tests that stand in for it."""
        super().__init__(message, kind, index)
        self.message = message
        self.kind = kind
        self.index = index

    def __str__(self) -> str:
        """The message."""
        return self.message


def error(message: str, kind: Kind, index: int, causes: list[str]) -> InputError:
    """A failure that the host, or the native side, has told of."""
    outermost = InputError(message, kind, index)
    outer = outermost
    for cause in causes:
        outer.__cause__ = InputError(cause, kind, index)
        outer = outer.__cause__
    return outermost


InputError.__module__ = "snakepit"
