"""Asks for prices through the connections that the host keeps for this worker."""

import os

import snakepit


@snakepit.function
def total(items: list[str]) -> int:
    """The sum of the prices of these items, in cents."""
    return sum(snakepit.context.host.price(item) for item in items)


@snakepit.function
def pid() -> int:
    """The worker's process."""
    return os.getpid()
