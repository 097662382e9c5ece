"""The program that uses a peer.

Usage: driver.py fork|forkserver|spawn|loky|pipes|ray. Spawned workers import this module too, so it imports
nothing for them. It leads a process group of its own, which the benchmark ends with it.
"""

import sys


def make(peer: str):
    """The peer of this name; its library is imported only here."""
    if peer == "ray":
        from ray_actors import Ray

        return Ray()
    if peer == "pipes":
        from pipe_pool import Pipes

        return Pipes()
    from executors import Executor

    return Executor(peer)


if __name__ == "__main__":
    from measure import serve

    serve(lambda: make(sys.argv[1]))
