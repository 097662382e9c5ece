"""The native side of the worker runtime."""

__version__: str
CANCEL_SIGNAL: int

def serve(channel: str, adapters: list[str], paths: list[str]) -> None:
    """Serves as a worker and ends the process; returns only if the host left before it opened the gate."""

def take_interrupt() -> bool:
    """Whether there is a cancel for the code that runs now; true once per cancel."""

def current_call() -> tuple[int, str, float | None, bool] | None:
    """The running call: id, function, seconds left, told to stop."""

def emit_log(
    level: int, logger: str, message: str, exception: str, file: str, line: int, fields: dict[str, str]
) -> bool:
    """Takes a log record for the host; false when nobody is there to take it."""

def request_shutdown(grace_ms: int) -> None:
    """Asks the worker to end."""

def after_fork() -> None:
    """To be run in a child of fork."""

def encode(value: object) -> bytes:
    """The MessagePack form of a value; ``TypeError`` with the path to what has none."""

def decode(data: bytes) -> object:
    """The value of a MessagePack form; ``ValueError`` with the path to what is wrong."""
