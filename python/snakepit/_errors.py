"""Exceptions as data. Nothing an exception class does may break its report."""

from __future__ import annotations

import os
import traceback
from types import TracebackType

KIND_RAISED = 1
KIND_UNKNOWN_MODULE = 2
KIND_UNKNOWN_FUNCTION = 3
KIND_CANCELLED = 6
KIND_SYSTEM_EXIT = 7

LINK_NONE = 0
LINK_CAUSE = 1
LINK_CONTEXT = 2

# A chain longer than this says nothing more to a reader.
_LONGEST_CHAIN = 50

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_ASYNCIO = os.sep + "asyncio" + os.sep
_FROZEN_IMPORT = "<frozen importlib"

Part = tuple[str, str, str, int]
Failure = tuple[int, str, list[str], "BaseException | None"]


def type_name(kind: type) -> str:
    """The class's name with its module, except for builtins."""
    module = getattr(kind, "__module__", None)
    name = getattr(kind, "__qualname__", None) or "?"
    return name if module in (None, "builtins") else f"{module}.{name}"


def text_of(value: object) -> str:
    """``str(value)``, or a stand-in when that fails. Lone surrogates are escaped: the wire is UTF-8."""
    try:
        text = str(value)
    except BaseException:
        text = f"<{type_name(type(value))} whose str() failed>"
    return clean(text)


def clean(text: str) -> str:
    """The text with lone surrogates escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def user_frames(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame that is not the runtime's own."""
    ours = False
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if filename.startswith(_HERE):
            ours = True
        elif not (
            ours and (_ASYNCIO in filename or filename.startswith(_FROZEN_IMPORT) or _is_importlib(filename))
        ):
            break
        trace = trace.tb_next
    return trace


def _is_importlib(filename: str) -> bool:
    return filename.endswith(os.sep + os.path.join("importlib", "__init__.py"))


def format_one(error: BaseException) -> str:
    """The exception alone as Python prints it, without its causes and without the runtime's frames."""
    lines: list[str] = []
    try:
        frames = user_frames(error.__traceback__)
        if frames is not None:
            lines.append("Traceback (most recent call last):\n")
            lines.extend(traceback.StackSummary.extract(traceback.walk_tb(frames)).format())
        if isinstance(error, BaseExceptionGroup):
            # The members of a group are part of it, and only the full formatter draws them.
            lines = list(traceback.TracebackException.from_exception(error, compact=True).format(chain=False))
        else:
            lines.extend(traceback.format_exception_only(error))
    except BaseException:
        lines.append(f"{type_name(type(error))}: {text_of(error)}\n")
    return clean("".join(lines))


def chain(error: BaseException) -> list[Part]:
    """The exception and what led to it, outermost first."""
    parts: list[Part] = []
    seen: set[int] = set()
    current: BaseException | None = error
    link = LINK_NONE
    while current is not None and id(current) not in seen and len(parts) < _LONGEST_CHAIN:
        seen.add(id(current))
        parts.append((clean(type_name(type(current))), text_of(current), format_one(current), link))
        if current.__cause__ is not None:
            current, link = current.__cause__, LINK_CAUSE
        elif current.__context__ is not None and not current.__suppress_context__:
            current, link = current.__context__, LINK_CONTEXT
        else:
            current = None
    return parts


def one_line(error: BaseException) -> str:
    """The last line of a traceback: type and message."""
    name, text = type_name(type(error)), text_of(error)
    first = text.split("\n", 1)[0]
    return clean(f"{name}: {first}" if first else name)


def exit_code(error: SystemExit) -> int:
    """The status a process would exit with."""
    code = error.code
    if code is None:
        return 0
    if isinstance(code, int):
        return code if -(2**31) <= code < 2**31 else code & 0xFF
    return 1
