"""What the host calls to learn whether a worker is healthy."""

from __future__ import annotations

from snakepit import _registry, _resolve

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CHECK = f"{__name__}:check"
"""The wire name of the check."""


def check() -> str | None:
    """Asks the health hooks in the order of their declaration: what is wrong, if anything is."""
    for hook in _registry.health_hooks:
        answer = _resolve.call_hook(hook)
        if answer is False:
            return f"health hook {_name(hook)} returned False"
        if answer is not None and answer is not True:
            # Not guessed at: a "down" is as true as an "up".
            raise TypeError(
                f"health hook {_name(hook)} must return None, True or False, not {type(answer).__name__}"
            )
    return None


def _name(hook: Callable[[], Any]) -> str:
    return f"{getattr(hook, '__module__', '?')}:{getattr(hook, '__qualname__', hook)}"
