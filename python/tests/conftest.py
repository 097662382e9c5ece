"""Fixtures: workers that end with the test that started them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

try:
    import snakepit._native  # noqa: F401
except ImportError as error:
    pytest.exit(f"the package is not laid out ({error}): run python/check", returncode=1)

from host import InheritedWorker, UnixWorker, Worker


@pytest.fixture
def unix_worker(tmp_path: Path) -> Iterator[Callable[..., UnixWorker]]:
    """Starts workers on Unix sockets."""
    workers: list[Worker] = []

    def start(*arguments: str, **options: object) -> UnixWorker:
        worker = UnixWorker(tmp_path / f"w{len(workers)}.sock", *arguments, **options)
        workers.append(worker)
        worker.wait_until_serving()
        return worker

    yield start
    for worker in workers:
        worker.end()


@pytest.fixture
def inherited_worker(tmp_path: Path) -> Iterator[Callable[..., InheritedWorker]]:
    """Starts workers on inherited sockets, handshake done and ready unless told otherwise."""
    workers: list[Worker] = []

    def start(
        adapters: tuple[str, ...] = ("sample",),
        ready: bool = True,
        threads: int = 0,
        asyncio: int = 0,
        **options: object,
    ) -> InheritedWorker:
        worker = InheritedWorker(tmp_path / f"relay{len(workers)}", **options)
        workers.append(worker)
        if ready:
            worker.open_gate()
            answer = worker.handshake(adapters, threads=threads, asyncio=asyncio)
            assert answer.concurrency == (threads or asyncio or 1)
            report = worker.control.Ready(worker.pb.ReadyRequest(), timeout=30)
            assert report.WhichOneof("outcome") == "ready", report
        return worker

    yield start
    for worker in workers:
        worker.end()


@pytest.fixture
def worker(unix_worker: Callable[..., UnixWorker]) -> UnixWorker:
    """A worker with the sample adapter on a Unix socket."""
    return unix_worker("sample")
