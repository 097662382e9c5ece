"""Values that are no builtin type: what they become on the wire, and how they come back.

The native codec handles builtin types itself and asks here about everything else. The table is
``proto/VALUES.md``.
"""

from __future__ import annotations

import importlib
import struct
import sys
from typing import Any

REPLACED = 0
SUBCLASS = -1
BUFFER = -2

DATETIME = 1
DATE = 2
TIME = 3
TIMEDELTA = 4
DECIMAL = 5
UUID = 6
COMPLEX = 7
SET = 8
NDARRAY = 9
ARROW = 12

# What data of Arrow is.
BATCH = 0
TABLE = 1

# Kinds of dtype whose memory is the value: bool, integers, floats, complex, fixed-size bytes and text.
PLAIN_KINDS = "biufcSU"
# The integers of timedelta are small; anything else is malformed.
_INT32 = range(-(2**31), 2**31)


class Unrepresentable(Exception):
    """A value has no form on the wire, or bytes stand for no value. Its text continues a path."""


def reduce(value: Any) -> tuple[int, Any]:
    """The tag and payload of a value: an extension code, or one of the three constants above."""
    modules = sys.modules
    enum = modules.get("enum")
    if enum is not None and isinstance(value, enum.Enum):
        return REPLACED, value.value
    if isinstance(value, (str, int, float, bytes, dict, list, tuple)):
        return SUBCLASS, value
    if isinstance(value, bytearray):
        return BUFFER, value
    if isinstance(value, memoryview):
        if not value.c_contiguous:
            raise Unrepresentable("is a memoryview that is not contiguous; pass bytes(view) instead")
        return BUFFER, value
    if isinstance(value, (set, frozenset)):
        return SET, list(value)
    if isinstance(value, complex):
        return COMPLEX, struct.pack(">dd", value.real, value.imag)
    for name, reducer in _REDUCERS.items():
        module = modules.get(name)
        # Nobody can have made an instance of a class whose module was never imported.
        if module is not None:
            reduced = reducer(module, value)
            if reduced is not None:
                return reduced
    raise Unrepresentable(_explain(value))


def _reduce_datetime(module: Any, value: Any) -> tuple[int, Any] | None:
    # A datetime is a date, so it is asked about first.
    if isinstance(value, module.datetime):
        return DATETIME, value.isoformat()
    if isinstance(value, module.date):
        return DATE, value.isoformat()
    if isinstance(value, module.time):
        return TIME, value.isoformat()
    if isinstance(value, module.timedelta):
        return TIMEDELTA, (value.days, value.seconds, value.microseconds)
    return None


def _reduce_decimal(module: Any, value: Any) -> tuple[int, Any] | None:
    return (DECIMAL, str(value)) if isinstance(value, module.Decimal) else None


def _reduce_uuid(module: Any, value: Any) -> tuple[int, Any] | None:
    return (UUID, value.bytes) if isinstance(value, module.UUID) else None


def _reduce_numpy(module: Any, value: Any) -> tuple[int, Any] | None:
    # While NumPy is being imported its module has no names yet, and there are no arrays.
    array_type = getattr(module, "ndarray", None)
    if array_type is None:
        return None
    if isinstance(value, array_type):
        if hasattr(value, "mask") and hasattr(value, "filled"):
            raise Unrepresentable("is a masked array; pass array.filled(...) or its data and mask instead")
        dtype = value.dtype
        if dtype.kind not in PLAIN_KINDS:
            raise Unrepresentable(f"is an array of dtype {dtype}, which cannot be represented")
        # Flat: an array without dimensions has no shape for the buffer protocol to tell.
        data = module.ascontiguousarray(value).reshape(-1)
        return NDARRAY, (dtype.str, value.shape, data)
    if isinstance(value, module.generic):
        item = value.item()
        if value.dtype.kind not in PLAIN_KINDS or isinstance(item, module.generic):
            raise Unrepresentable(f"is a NumPy scalar of dtype {value.dtype}, which cannot be represented")
        return REPLACED, item
    return None


def _reduce_pyarrow(module: Any, value: Any) -> tuple[int, Any] | None:
    # As with NumPy, while it is being imported.
    batch_type, table_type = getattr(module, "RecordBatch", None), getattr(module, "Table", None)
    if batch_type is not None and isinstance(value, batch_type):
        kind, batches = BATCH, [value]
    elif table_type is not None and isinstance(value, table_type):
        kind, batches = TABLE, value.to_batches()
    else:
        return None
    try:
        return ARROW, (kind, _stream(module, value.schema, batches))
    except module.ArrowException as error:
        raise Unrepresentable(f"is data of Arrow that cannot be written as a stream: {error}") from None


def _stream(module: Any, schema: Any, batches: Any) -> Any:
    """The batches as a stream of the IPC format, in shared memory if it is large."""
    from snakepit import _native

    def write(sink: Any) -> Any:
        with module.ipc.new_stream(sink, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return sink

    # Copies nothing, and counts.
    size = write(module.MockOutputStream()).size()
    block = _native.make_block(size)
    if block is None:
        return write(module.BufferOutputStream()).getvalue()
    write(module.FixedSizeBufferWriter(module.py_buffer(block))).close()
    return block


def _reduce_dataclass(module: Any, value: Any) -> tuple[int, Any] | None:
    if not module.is_dataclass(value) or isinstance(value, type):
        return None
    return REPLACED, {field.name: getattr(value, field.name) for field in module.fields(value)}


_REDUCERS = {
    "datetime": _reduce_datetime,
    "decimal": _reduce_decimal,
    "uuid": _reduce_uuid,
    "numpy": _reduce_numpy,
    "pyarrow": _reduce_pyarrow,
    "dataclasses": _reduce_dataclass,
}


def _explain(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        way = "as a stream (Request::stream, on the command line --stream)"
        return f"is an iterator of type {name}; call the function {way}, or return a list"
    return f"is of type {name}, which cannot be represented"


def restore(code: int, payload: bytes) -> Any:
    """The value of an extension code and its payload."""
    restorer = _RESTORERS.get(code)
    if restorer is None:
        raise Unrepresentable(f"has the unknown extension code {code}")
    name, function = restorer
    try:
        return function(payload)
    except (ValueError, ArithmeticError, struct.error, TypeError) as error:
        raise Unrepresentable(f"is not a valid {name} (ext {code}): {error}") from None


def _restore_datetime(payload: bytes) -> Any:
    import datetime

    return datetime.datetime.fromisoformat(payload.decode())


def _restore_date(payload: bytes) -> Any:
    import datetime

    return datetime.date.fromisoformat(payload.decode())


def _restore_time(payload: bytes) -> Any:
    import datetime

    return datetime.time.fromisoformat(payload.decode())


def _restore_timedelta(payload: bytes) -> Any:
    import datetime

    from snakepit import _native

    parts = _native.decode(payload)
    if (
        not isinstance(parts, list)
        or len(parts) != 3
        or not all(type(n) is int and n in _INT32 for n in parts)
    ):
        raise ValueError("it must be [days, seconds, microseconds]")
    return datetime.timedelta(*parts)


def _restore_decimal(payload: bytes) -> Any:
    import decimal

    return decimal.Decimal(payload.decode())


def _restore_uuid(payload: bytes) -> Any:
    import uuid

    return uuid.UUID(bytes=payload)


def _restore_complex(payload: bytes) -> Any:
    return complex(*struct.unpack(">dd", payload))


_RESTORERS = {
    DATETIME: ("datetime", _restore_datetime),
    DATE: ("date", _restore_date),
    TIME: ("time", _restore_time),
    TIMEDELTA: ("timedelta", _restore_timedelta),
    DECIMAL: ("Decimal", _restore_decimal),
    UUID: ("UUID", _restore_uuid),
    COMPLEX: ("complex", _restore_complex),
}


def empty_array(dtype: Any, shape: Any, size: int) -> Any:
    """An array, and a flat view of its memory to be filled with ``size`` bytes."""
    numpy, parsed = _checked(dtype, shape, size)
    try:
        array = numpy.empty(shape, parsed)
    except (ValueError, MemoryError) as error:
        raise Unrepresentable(f"is an array of shape {shape}, which NumPy refuses: {error}") from None
    return array, array.reshape(-1)


def array_over(dtype: Any, shape: Any, memory: Any) -> Any:
    """An array over memory that is there."""
    numpy, parsed = _checked(dtype, shape, len(memory))
    try:
        return numpy.frombuffer(memory, parsed).reshape(shape)
    except ValueError as error:
        raise Unrepresentable(f"is an array of shape {shape}, which NumPy refuses: {error}") from None


def arrow_over(kind: Any, memory: Any) -> Any:
    """A record batch or a table over the memory of a stream."""
    try:
        arrow = importlib.import_module("pyarrow")
    except ImportError as error:
        raise Unrepresentable(f"is data of Arrow, and pyarrow cannot be imported here: {error}") from None
    if kind not in (BATCH, TABLE):
        raise Unrepresentable(f"is data of Arrow of the unknown kind {kind!r}")
    try:
        with arrow.ipc.open_stream(arrow.py_buffer(memory)) as reader:
            table = reader.read_all()
        table.validate()
        if kind == TABLE:
            return table
        [batch] = table.to_batches() or [arrow.RecordBatch.from_pylist([], schema=table.schema)]
    except (arrow.ArrowException, OSError) as error:
        raise Unrepresentable(f"is data of Arrow that is no stream of its IPC format: {error}") from None
    except ValueError:
        raise Unrepresentable("is a record batch of Arrow, and there are more in its stream") from None
    return batch


def _checked(dtype: Any, shape: Any, size: int) -> tuple[Any, Any]:
    """NumPy, and the dtype of an array of ``size`` bytes."""
    try:
        import numpy
    except ImportError as error:
        raise Unrepresentable(f"is a NumPy array, and NumPy cannot be imported here: {error}") from None
    if not isinstance(dtype, str) or not isinstance(shape, tuple) or not all(type(n) is int for n in shape):
        raise Unrepresentable("is an array that is not [dtype, shape, data]")
    try:
        parsed = numpy.dtype(dtype)
    except (TypeError, ValueError):
        raise Unrepresentable(f"is an array of the unknown dtype {dtype!r}") from None
    if parsed.kind not in PLAIN_KINDS:
        raise Unrepresentable(f"is an array of dtype {parsed}, which cannot be represented")
    expected = parsed.itemsize
    for extent in shape:
        if extent < 0:
            raise Unrepresentable(f"is an array with the impossible shape {shape}")
        expected *= extent
    if expected != size:
        raise Unrepresentable(
            f"is an array of dtype {dtype} and shape {shape}, which takes {expected} bytes, not {size}"
        )
    return numpy, parsed
