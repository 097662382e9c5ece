"""The peers: concurrent.futures.ProcessPoolExecutor by each start method, and loky's executor."""

import multiprocessing
import os
import tempfile
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor

from echo_adapter import echo
from measure import System
from worker_side import bring, meet


class Executor(System):
    """An executor, submitted to by the callers' threads."""

    def __init__(self, method: str) -> None:
        """An executor by a start method, or by the name `loky` that library's."""
        self.method = method

    def prepare(self, library: str) -> None:
        """A program that forks has imported what its workers use; a fork server is told to."""
        if self.method == "fork":
            bring(library)
        if self.method == "forkserver":
            multiprocessing.set_forkserver_preload(["__main__", *([library] if library else [])])

    def start(self, workers: int, library: str) -> list[int]:
        """Starts an executor, and has all its workers meet."""
        self.made = (workers, library)
        self.make()
        return self.meeting(workers)

    def make(self) -> None:
        """Makes the executor; by the name `loky` the library's reusable one."""
        workers, library = self.made
        if self.method == "loky":
            import loky

            # Without a timeout: its workers would end between two loads.
            self.executor = loky.get_reusable_executor(
                workers, timeout=None, initializer=bring, initargs=(library,)
            )
        else:
            context = multiprocessing.get_context(self.method)
            self.executor = ProcessPoolExecutor(workers, context, initializer=bring, initargs=(library,))

    def meeting(self, workers: int) -> list[int]:
        """The pids of all workers: each answers, as no task of a meeting ends before the last has begun."""
        with tempfile.TemporaryDirectory() as directory:
            arrived, leave = (os.path.join(directory, name) for name in ("arrived", "leave"))
            os.mkfifo(arrived)
            os.mkfifo(leave)
            tasks = [self.executor.submit(meet, arrived, leave) for _ in range(workers)]
            # Open for both directions, so that opening waits for nobody.
            with open(arrived, "r+b", buffering=0) as here, open(leave, "r+b", buffering=0) as away:
                text = b""
                while text.count(b"\n") < workers:
                    text += here.read(4096)
                away.write(b"." * workers)
                pids = {task.result() for task in tasks}
        if len(pids) != workers:
            raise RuntimeError(f"{workers} tasks ran in {len(pids)} workers")
        return list(pids)

    def call(self, caller: int, value):
        """Submits and waits."""
        return self.executor.submit(echo, value).result()

    def pid(self) -> int:
        """Asks for the pid; an executor that has broken is replaced, as every user of it has to."""
        try:
            return self.executor.submit(os.getpid).result()
        except BrokenExecutor:
            self.make()
            raise

    def stop(self) -> None:
        """Waits for the workers' end."""
        self.executor.shutdown()
