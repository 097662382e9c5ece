"""Arrays in the memory that a worker shares with its host."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, SupportsIndex

from snakepit import _native
from snakepit._values import PLAIN_KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy


def empty(shape: SupportsIndex | Sequence[SupportsIndex], dtype: Any = float) -> numpy.ndarray[Any, Any]:
    """An uninitialised NumPy array, as of ``numpy.empty``, that reaches the host without a copy by Python.

    A function that fills it and returns it, or a contiguous part of it, sends a reference. It is an ordinary
    array where that makes no difference: a small one, outside of a worker, without shared memory or room.

    The host may leave the array where it is and read it later: do not write to it once it was returned.
    """
    import numpy

    parsed = numpy.dtype(dtype)
    try:
        extents = tuple(operator.index(extent) for extent in shape)  # type: ignore[union-attr]
    except TypeError:
        extents = (operator.index(shape),)  # type: ignore[arg-type]
    block = None
    if parsed.kind in PLAIN_KINDS and min(extents, default=0) >= 0:
        block = _native.make_block(parsed.itemsize * math.prod(extents))
    if block is None:
        return numpy.empty(extents, parsed)
    flat: numpy.ndarray[Any, Any] = numpy.frombuffer(memoryview(block), parsed, math.prod(extents))
    return flat.reshape(extents)
