"""The peer: spawned processes of multiprocessing, each at the end of a pipe over which values are pickled."""

import multiprocessing
from queue import SimpleQueue

from measure import System
from worker_side import work


class Pipes(System):
    """Workers that callers take turns at: whoever calls takes a free one."""

    def start(self, workers: int, library: str) -> list[int]:
        """Starts the processes and waits for their pids."""
        context = multiprocessing.get_context("spawn")
        self.processes = []
        connections = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, library))
            process.start()
            theirs.close()
            self.processes.append(process)
            connections.append(ours)
        pids = [connection.recv() for connection in connections]
        self.free = SimpleQueue()
        for connection in connections:
            self.free.put(connection)
        return pids

    def call(self, caller: int, value):
        """Sends to a free worker and waits for its answer."""
        connection = self.free.get()
        connection.send(value)
        answer = connection.recv()
        self.free.put(connection)
        return answer

    def stop(self) -> None:
        """Closes the pipes and waits for the workers' end."""
        while not self.free.empty():
            self.free.get().close()
        for process in self.processes:
            process.join()
