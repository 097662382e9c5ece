"""The handler on the root logger."""

from __future__ import annotations

import logging
import sys

from snakepit import _context, _native
from snakepit._errors import clean, text_of

# What every record has: the rest came in by `extra=`.
_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
}


class HostHandler(logging.Handler):
    """Forwards records to the host without ever waiting; without a host they go to standard error."""

    def __init__(self) -> None:
        """Makes the handler, with a format for standard error."""
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one record."""
        try:
            message = clean(record.getMessage())
            exception = ""
            if record.exc_info and record.exc_info[0] is not None:
                exception = record.exc_text or logging.Formatter().formatException(record.exc_info)
            if record.stack_info:
                exception = f"{exception}\n{record.stack_info}" if exception else record.stack_info
            fields = {
                clean(str(key)): text_of(value) for key, value in vars(record).items() if key not in _STANDARD
            }
            taken = _native.emit_log(
                _context.place(),
                max(record.levelno, 0),
                clean(record.name),
                message,
                clean(exception),
                clean(record.pathname),
                record.lineno or 0,
                fields,
            )
            if not taken and sys.stderr is not None:
                sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)
