"""Many calls of one function in one."""

from __future__ import annotations

from os import getpid
from types import CoroutineType

from snakepit import _runtime
from snakepit._cancel import Cancelled

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Outcome = list[Any]

_VALUE, _ERROR = range(2)
_BAD_ARGUMENTS = 4


def run(target: Callable[..., Any], calls: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """The outcomes of the calls, or a coroutine that gives them where the function is asynchronous."""
    outcomes: list[Outcome] = []
    left, own = iter(calls), getpid()
    waiting = _until_awaitable(target, left, kwargs or {}, outcomes, own)
    return outcomes if waiting is None else _go_on(target, left, kwargs or {}, outcomes, own, waiting)


def _until_awaitable(
    target: Callable[..., Any],
    left: Iterator[Any],
    kwargs: dict[str, Any],
    outcomes: list[Outcome],
    own: int,
) -> Any:
    """Makes calls until one has to be awaited: that, or nothing when there are no more."""
    for args in left:
        try:
            value = target(*args, **kwargs)
        except BaseException as error:
            _stay_in_parent(own, error)
            outcomes.append(_failed(error, target, args, kwargs))
            continue
        _stay_in_parent(own, None)
        if type(value) is CoroutineType:
            return value
        outcomes.append([_VALUE, value])
    return None


async def _go_on(
    target: Callable[..., Any],
    left: Iterator[Any],
    kwargs: dict[str, Any],
    outcomes: list[Outcome],
    own: int,
    waiting: Any,
) -> list[Outcome]:
    while waiting is not None:
        try:
            outcomes.append([_VALUE, await waiting])
        except BaseException as error:
            _stay_in_parent(own, error)
            outcomes.append(_failed(error, target, (), kwargs))
        _stay_in_parent(own, None)
        waiting = _until_awaitable(target, left, kwargs, outcomes, own)
    return outcomes


def _failed(error: BaseException, target: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Outcome:
    # A cancel is for all of them.
    if isinstance(error, (Cancelled, GeneratorExit)) or _runtime.is_asyncio_cancel(error):
        raise error
    kind, message, chain, exit_code = _runtime.report(error, False)
    # Without a frame below ours it was raised by the act of calling.
    trace = error.__traceback__
    if isinstance(error, TypeError) and trace is not None and trace.tb_next is None:
        misfit = _runtime.misfit(target, tuple(args), kwargs)
        if misfit is not None:
            kind, message = _BAD_ARGUMENTS, misfit
    return [_ERROR, [kind, message, chain, exit_code]]


def _stay_in_parent(own: int, error: BaseException | None) -> None:
    """A child that user code forked and that came back from it makes none of the other calls."""
    if getpid() != own:
        _runtime.leave_child(error)
