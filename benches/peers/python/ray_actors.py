"""The peer: Ray actors on this machine, with a cluster that is up before the clock of a start runs."""

import os

import ray
from echo_adapter import echo
from measure import System
from worker_side import bring


@ray.remote(num_cpus=0, max_restarts=-1)
class Worker:
    """An actor; Ray restarts it whenever it dies."""

    def __init__(self, library: str) -> None:
        """Imports the library before it answers."""
        bring(library)

    def echo(self, value):
        """Returns its argument."""
        return echo(value)

    def pid(self) -> int:
        """The process it is in."""
        return os.getpid()


class Ray(System):
    """Actors; each caller has one of them."""

    def prepare(self, library: str) -> None:
        """Starts a cluster of its own: the services of Ray, no actors. It reports to nobody."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="error")

    def start(self, workers: int, library: str) -> list[int]:
        """Starts actors and waits for their pids."""
        self.actors = [Worker.remote(library) for _ in range(workers)]
        return ray.get([actor.pid.remote() for actor in self.actors])

    def call(self, caller: int, value):
        """Calls the caller's actor and waits."""
        return ray.get(self.actors[caller % len(self.actors)].echo.remote(value))

    def pid(self) -> int:
        """Asks the actor, which fails while Ray restarts it."""
        return ray.get(self.actors[0].pid.remote())

    def stop(self) -> None:
        """Ends the cluster."""
        ray.shutdown()
