"""What the native side calls. User code runs between these functions and the ones it runs itself."""

from __future__ import annotations

import _thread
import os
import sys
from types import CoroutineType

from snakepit import _native, _registry
from snakepit._cancel import Cancelled

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from types import FrameType, ModuleType
    from typing import Any
else:
    # What `signal` is made of, without the enums around it, which take longer to import than all of this.
    import _signal as signal

COROUTINE = CoroutineType
RUNTIME = (
    f"CPython {sys.version.split()[0]}"
    if sys.implementation.name == "cpython"
    else sys.version.split("\n")[0]
)

# What a call still gets when the process is asked to end by SIGTERM, instead of by the host's Shutdown.
_SIGTERM_GRACE_MS = 1000

_wakeup_fd = -1


def install(wakeup_fd: int, inherited: bool) -> None:
    """Puts signal handlers, fork handler, logging and crash reports in place."""
    global _wakeup_fd
    _wakeup_fd = wakeup_fd
    import faulthandler

    if sys.stderr is not None:
        try:
            faulthandler.enable()
        except (OSError, ValueError, RuntimeError):
            # Standard error is no file. Crash reports are a courtesy.
            pass
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, write_through=True)
    signal.signal(_native.CANCEL_SIGNAL, _on_cancel)
    signal.signal(signal.SIGTERM, _on_terminate)
    if inherited:
        # The kernel sends it to a stopped group whose host dies. Dying of it would leave our children behind;
        # the end of the channel, seen as soon as we go on, does not.
        signal.signal(signal.SIGHUP, _on_hangup)
    signal.signal(signal.SIGINT, _on_interrupt if inherited else _on_terminate)
    rearm()
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork
    )

    from snakepit import _logs

    _logs.install()


def rearm() -> None:
    """Makes signals wake the idle main thread again, unless somebody else listens to them on purpose."""
    previous = signal.set_wakeup_fd(_wakeup_fd, warn_on_full_buffer=False)
    if previous not in (-1, _wakeup_fd):
        signal.set_wakeup_fd(previous, warn_on_full_buffer=False)


def _on_cancel(signum: int, frame: FrameType | None) -> None:
    several = sys.modules.get("snakepit._several")
    if several is not None:
        several.interrupt(frame)
        return
    # A signal that arrives after its call has ended finds nothing to take.
    if not _native.take_interrupt():
        return
    aio = sys.modules.get("snakepit._aio")
    if aio is not None:
        left = aio.interrupt(_thread.get_ident(), None, frame)
        if left == aio.LATER:
            _native.interrupt_later(None)
        if left != aio.RAISE:
            return
    raise Cancelled("the host cancelled this call")


def _on_terminate(signum: int, frame: FrameType | None) -> None:
    _native.request_shutdown(_SIGTERM_GRACE_MS)


def _on_hangup(signum: int, frame: FrameType | None) -> None:
    pass


def _on_interrupt(signum: int, frame: FrameType | None) -> None:
    # Between calls nobody can be told; a Ctrl-C at the host's terminal is the host's to handle.
    if _native.current_call(None) is not None:
        raise KeyboardInterrupt


_HELD_DURING_FORK = {_native.CANCEL_SIGNAL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_mask = _thread._local()


def _before_fork() -> None:
    """Holds signals back: one that reached a child before it has handlers of its own would be lost."""
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_DURING_FORK)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _after_fork() -> None:
    """A forked child is no worker: it lets go of the channel and of the worker's signals."""
    _native.after_fork()
    signal.set_wakeup_fd(-1)
    for number, ours, default in (
        (_native.CANCEL_SIGNAL, _on_cancel, signal.SIG_DFL),
        (signal.SIGTERM, _on_terminate, signal.SIG_DFL),
        (signal.SIGHUP, _on_hangup, signal.SIG_DFL),
        (signal.SIGINT, _on_interrupt, signal.default_int_handler),
        (signal.SIGINT, _on_terminate, signal.default_int_handler),
    ):
        if signal.getsignal(number) is ours:
            signal.signal(number, default)
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def several() -> ModuleType:
    """The module for workers that run several calls at the same time; with its import several do."""
    from snakepit import _several

    return _several


def leave_child(error: BaseException | None) -> None:
    """Ends a forked child that came back from user code, as it would end after a script's last line."""
    status = 0
    try:
        if isinstance(error, SystemExit):
            from snakepit import _errors

            status = _errors.exit_code(error) & 0xFF
            if error.code is not None and not isinstance(error.code, int):
                print(error.code, file=sys.stderr)
        elif error is not None:
            status = 1
            from snakepit import _errors

            sys.stderr.write(_errors.format_one(error))
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    finally:
        os._exit(status)


def resolve(name: str) -> tuple[Callable[..., Any] | None, Any]:
    """A wire name's callable, or what is wrong with it."""
    from snakepit import _resolve

    try:
        return _resolve.resolve(name), None
    except _resolve.Unresolved as error:
        return None, error.failure


def enter_session(number: int) -> None:
    """A call of a session begins."""
    from snakepit import _session

    _session.of(number)


def prepare(
    adapters: list[str], paths: list[str], log_level: int
) -> tuple[tuple[list[str], str] | None, Any]:
    """Imports adapters: what they offer and how their health is checked, or what is wrong with them."""
    from snakepit import _logs

    _logs.set_level(log_level)
    if not adapters and not paths and "snakepit._resolve" not in sys.modules:
        return ([], ""), None
    from snakepit import _resolve

    try:
        offered = _resolve.prepare(adapters, paths)
    except _resolve.Unresolved as error:
        return None, error.failure
    return (offered, _health_check()), None


def _health_check() -> str:
    if not _registry.health_hooks:
        return ""
    from snakepit import _health

    return _health.CHECK


def report(
    error: BaseException, cancel_requested: bool
) -> tuple[int, str, list[tuple[str, str, str, int]], int]:
    """An exception as kind, message, chain and exit code."""
    from snakepit import _errors

    if cancel_requested and (isinstance(error, Cancelled) or is_asyncio_cancel(error)):
        return _errors.KIND_CANCELLED, "the call was cancelled", _errors.chain(error), 0
    if isinstance(error, SystemExit):
        code = _errors.exit_code(error)
        return (
            _errors.KIND_SYSTEM_EXIT,
            f"user code called sys.exit({error.code!r})",
            _errors.chain(error),
            code,
        )
    return _errors.KIND_RAISED, _errors.one_line(error), _errors.chain(error), 0


def batch(target: Callable[..., Any], calls: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    """Makes many calls of one function."""
    from snakepit import _batch

    return _batch.run(target, calls, kwargs)


def is_asyncio_cancel(error: BaseException) -> bool:
    """Whether it is how asyncio cancels a task."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(error, asyncio.CancelledError)


def misfit(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> str | None:
    """Why a callable does not take these arguments; ``None`` when they fit, so that the error is its own."""
    import inspect

    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    try:
        signature = inspect.signature(target)
    except (ValueError, TypeError):
        # Written in C and silent about its signature: it may have run before it raised.
        return None
    try:
        signature.bind(*args, **(kwargs or {}))
    except TypeError as mismatch:
        return f"the arguments do not fit {name}{signature}: {mismatch}"
    return None


def run(awaitable: Awaitable[Any]) -> Any:
    """Runs an awaitable on the worker's event loop."""
    from snakepit import _aio

    return _aio.run(awaitable)


def open_stream(result: Any) -> tuple[Any, bool] | None:
    """An iterator over a result and whether it is asynchronous; ``None`` when it yields nothing."""
    if hasattr(type(result), "__aiter__"):
        return aiter(result), True
    try:
        iterator = iter(result)
    except TypeError:
        if hasattr(type(result), "__iter__"):
            raise
        return None
    return iterator, False


def step_async(iterator: AsyncIterator[Any]) -> tuple[Any] | None:
    """The next item in a tuple of one, or ``None`` at the end."""
    try:
        return (run(anext(iterator)),)
    except StopAsyncIteration:
        return None


def close_stream(iterator: Iterator[Any] | AsyncIterator[Any], is_async: bool) -> None:
    """Runs a generator's clean-up now rather than when it is collected."""
    close = getattr(iterator, "aclose" if is_async else "close", None)
    if close is not None:
        closed = close()
        if is_async:
            run(closed)


def finish() -> None:
    """Ends the sessions, runs the stop hooks and the exit handlers.

    Each may fail without keeping the others from running.
    """
    sessions = sys.modules.get("snakepit._session")
    if sessions is not None:
        _attempt(sessions.end_all, "ending the sessions")
    for hook in reversed(_registry.stop_hooks):
        _attempt(_call_hook, f"stop hook {getattr(hook, '__qualname__', hook)!s}", hook)
    aio = sys.modules.get("snakepit._aio")
    if aio is not None:
        _attempt(aio.close, "closing the event loop")
    import atexit

    _attempt(atexit._run_exitfuncs, "exit handlers")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            _attempt(stream.flush, "flushing output")


def _call_hook(hook: Callable[[], Any]) -> None:
    from snakepit import _resolve

    _resolve.call_hook(hook)


def _attempt(action: Callable[..., Any], what: str, *arguments: Any) -> None:
    try:
        action(*arguments)
    except BaseException as error:
        from snakepit import _errors

        if sys.stderr is not None:
            sys.stderr.write(f"snakepit: {what} failed\n{_errors.format_one(error)}")
