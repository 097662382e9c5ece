"""What runs in the workers of the peers. It imports next to nothing, since their start is timed."""

import os

from echo_adapter import echo


def bring(library: str) -> None:
    """Imports a library, `""` for none, in a worker that starts."""
    if library:
        __import__(library)


def meet(arrived: str, leave: str) -> int:
    """A task of a meeting: it tells its worker's pid, and ends when all have come."""
    with open(arrived, "wb", buffering=0) as fifo:
        fifo.write(f"{os.getpid()}\n".encode())
    with open(leave, "rb", buffering=0) as fifo:
        fifo.read(1)
    return os.getpid()


def work(connection, library: str) -> None:
    """A worker at the end of a pipe: imports, tells its pid, then answers."""
    bring(library)
    connection.send(os.getpid())
    while True:
        try:
            value = connection.recv()
        except EOFError:
            return
        connection.send(echo(value))
