"""What the soak calls: answers, streams, errors, waits, and an end."""

import os
import signal
import time


def echo(value):
    return value


def count(items):
    yield from range(items)


def fails(number):
    raise ValueError(f"no. {number}")


def waits(seconds):
    time.sleep(seconds)
    return seconds


def dies(number):
    os.kill(os.getpid(), signal.SIGKILL)
