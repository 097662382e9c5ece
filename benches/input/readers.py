"""Reads what the caller streams, and nothing more."""

from collections.abc import AsyncIterator, Iterator


def count(items: Iterator[bytes]) -> int:
    return sum(1 for _ in items)


async def count_async(items: AsyncIterator[bytes]) -> int:
    counted = 0
    async for _ in items:
        counted += 1
    return counted


def back(items: Iterator[bytes]) -> Iterator[bytes]:
    yield from items


def give(size: int, count: int) -> Iterator[bytes]:
    item = bytes(size)
    for _ in range(count):
        yield item
