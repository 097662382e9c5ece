"""A hundred years of the Nile: the adapter behind `snakepit demo`.

Around 1898 the river's yearly flow dropped and stayed low. The functions here look at the measurements beside this
file, and ask how likely such a break is by chance.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import math
import pathlib
import random
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import snakepit

flows: dict[int, int] = {}


@snakepit.on_start
def load() -> None:
    """Reads the measurements, once per worker and before its first call."""
    with pathlib.Path(__file__).with_name("nile.csv").open(encoding="utf-8") as file:
        rows = csv.DictReader(line for line in file if not line.startswith("#"))
        flows.update((int(row["year"]), int(row["flow"])) for row in rows)


@snakepit.function
def summary() -> dict[str, Any]:
    """What the measurements are, in a few figures."""
    return {
        "years": len(flows),
        "mean": _mean(flows.values()),
        "lowest": min(flows, key=flows.__getitem__),
        "highest": max(flows, key=flows.__getitem__),
    }


@snakepit.function
def flow(year: int) -> int:
    """The flow of one year."""
    return flows[year]


@snakepit.function
def unusual(sigmas: float = 1.5) -> Iterator[dict[str, Any]]:
    """Yields the years that lie far from the mean, one by one."""
    mean = _mean(flows.values())
    deviation = math.sqrt(_mean([(value - mean) ** 2 for value in flows.values()]))
    for year, value in flows.items():
        distance = (value - mean) / deviation
        if abs(distance) >= sigmas:
            yield {"year": year, "flow": value, "sigmas": distance}


@snakepit.function
def sharpest_break() -> dict[str, Any]:
    """The year after which the flow changed most, and the means before and after."""
    years, values = list(flows), list(flows.values())
    _, at = _break(values)
    return {
        "year": years[at],
        "before": _mean(values[: at + 1]),
        "after": _mean(values[at + 1 :]),
    }


@snakepit.function
def shuffles(count: int, seed: int) -> int:
    """How many of `count` random orders of the same years break as sharply. This computes, and holds the GIL."""
    values = list(flows.values())
    observed, _ = _break(values)
    chance = random.Random(seed)
    found = 0
    for _ in range(count):
        chance.shuffle(values)
        found += _break(values)[0] >= observed
    return found


@snakepit.function
def ponder(seconds: float) -> None:
    """Takes its time."""
    time.sleep(seconds)


@snakepit.function
def has_numpy() -> bool:
    """Whether NumPy can be imported here."""
    return importlib.util.find_spec("numpy") is not None


@snakepit.function
def rolling_mean(values: Any, width: int) -> Any:
    """The mean of each `width` neighbours: a NumPy array in, a NumPy array out."""
    import numpy

    return numpy.convolve(values, numpy.full(width, 1 / width), mode="valid")


def _mean(values: Collection[float]) -> float:
    # Not the module statistics: what it imports in turn, every new worker would wait for.
    return math.fsum(values) / len(values)


def _break(values: Sequence[int]) -> tuple[float, int]:
    """How far the running sum strays from a straight line, and where: a change of the mean bends it."""
    mean = _mean(values)
    strayed = [abs(sum_ - mean * (at + 1)) for at, sum_ in enumerate(itertools.accumulate(values))]
    at = max(range(len(strayed)), key=strayed.__getitem__)
    return strayed[at], at
