"""What the benchmark calls."""

import snakepit

_made = {}


def same(array):
    return array


def ready_made(count):
    if count not in _made:
        _made.clear()
        _made[count] = snakepit.empty(count)
        _made[count][:] = 1.0
    return _made[count]


def rows(batch):
    return batch.num_rows
