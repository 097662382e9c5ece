"""How a call is interrupted."""


class Cancelled(BaseException):
    """Raised in the running call when the host cancels it.

    It derives from ``BaseException``, as ``KeyboardInterrupt`` and ``asyncio.CancelledError`` do: code that
    catches ``Exception`` to go on regardless does not swallow it. Catch it to clean up, then raise it again.

    The host's cancel arrives as the signal ``SIGRTMIN + 1`` to the main thread, so it also interrupts
    ``time.sleep``, waits for locks and ``subprocess.run``. In an ``async def`` function that waits, the task
    is cancelled as by ``Task.cancel`` instead, and ``asyncio.CancelledError`` is raised.
    """


Cancelled.__module__ = "snakepit"
