"""Values in memory that host and worker share; the test is the host."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy
import pytest
from host import CallFailed, InheritedWorker, eventually, pb

from snakepit import _native

CONTROL = 64 << 10
HALF = 4 << 20
HOST_COUNTERS = 4 << 10
WORKER_COUNTERS = 20 << 10
LARGE = 64 << 10

pytestmark = pytest.mark.parametrize(
    "mode", [{}, {"threads": 2}, {"asyncio": 2}], ids=["one", "threads", "asyncio"]
)


class Host:
    """A worker with an arena, and the host's side of that."""

    def __init__(self, worker: InheritedWorker, mode: dict[str, int]) -> None:
        self.worker = worker
        fd = os.memfd_create("arena")
        journal = os.memfd_create("journal")
        os.ftruncate(fd, CONTROL + 2 * HALF)
        os.ftruncate(journal, 64)
        self.memory = mmap.mmap(fd, CONTROL + 2 * HALF)
        worker.open_gate(others=(journal, fd))
        os.close(fd)
        os.close(journal)
        self.capabilities = list(worker.handshake(("shares",), **mode).capabilities)
        assert worker.ready().WhichOneof("outcome") == "ready"

    def put(self, data: bytes, number: int = 3, at: int = 0) -> Any:
        """A block of the host."""
        self.memory[CONTROL + at : CONTROL + at + len(data)] = data
        return pb.Block(number=number, offset=CONTROL + at, len=len(data))

    def holds(self, counters: int, number: int) -> int:
        """How many holds the other side has on a block."""
        return int(struct.unpack_from("=I", self.memory, counters + 4 * number)[0])

    def fell_back(self) -> int:
        """Results that found no room."""
        return int(struct.unpack_from("=Q", self.memory, 0)[0])

    def get(self, block: Any) -> bytes:
        """What is in a block."""
        return self.memory[block.offset : block.offset + block.len]

    def give_back(self, block: Any) -> None:
        """The host has read a result."""
        counters = HOST_COUNTERS if block.offset < CONTROL + HALF else WORKER_COUNTERS
        at = counters + 4 * block.number
        struct.pack_into("=I", self.memory, at, struct.unpack_from("=I", self.memory, at)[0] - 1)

    def call(self, function: str, value: bytes = b"", blocks: tuple[Any, ...] = ()) -> Any:
        """Calls with one argument that is encoded already."""
        request = self.worker.request(f"shares:{function}")
        if value:
            request.args = b"\x91" + value
        request.blocks.args.extend(blocks)
        return self.finish(request)

    def call_with(self, function: str, *args: Any) -> Any:
        """Calls with plain arguments."""
        return self.finish(self.worker.request(f"shares:{function}", *args))

    def finish(self, request: Any) -> Any:
        """The response of a call that succeeds."""
        response = self.worker.data.Call(request, timeout=30)
        if response.WhichOneof("outcome") == "error":
            raise CallFailed(response.error)
        return response


def bytes_at(number: int) -> bytes:
    """A reference to bytes."""
    return bytes([0xD4, 11, number])


def array_at(number: int, dtype: str, shape: list[int]) -> bytes:
    """A reference to an array."""
    payload = _native.encode([dtype, shape, number])
    return bytes([0xC7, len(payload), 10]) + payload


@pytest.fixture
def host(inherited_worker: Callable[..., InheritedWorker], mode: dict[str, int]) -> Host:
    """A worker with an arena."""
    return Host(inherited_worker(ready=False), mode)


def test_the_worker_says_that_it_has_the_arena(host: Host) -> None:
    assert "arena" in host.capabilities


def test_bytes_come_as_bytes_and_nothing_is_held(host: Host) -> None:
    block = host.put(b"\x07" * LARGE)
    response = host.call("echo", bytes_at(0), (block,))
    assert response.WhichOneof("outcome") == "in_arena"
    [back] = response.in_arena.blocks
    assert response.in_arena.value == bytes_at(0)
    assert back.offset >= CONTROL + HALF
    assert host.get(back) == b"\x07" * LARGE
    assert host.holds(WORKER_COUNTERS, back.number) == 1
    assert host.holds(HOST_COUNTERS, block.number) == 0


def test_an_array_is_a_view_that_holds_its_block(host: Host) -> None:
    data = numpy.arange(LARGE // 8, dtype="f8")
    block = host.put(data.tobytes())
    value = array_at(0, "<f8", [2, LARGE // 16])
    described = _native.decode(host.call("describe", value, (block,)).value)
    assert described == ["ndarray", "float64", [2, LARGE // 16], data.sum(), True]
    eventually(lambda: host.holds(HOST_COUNTERS, 3) == 0)
    host.call("keep", value, (block,))
    assert host.holds(HOST_COUNTERS, 3) == 1
    host.call("forget")
    eventually(lambda: host.holds(HOST_COUNTERS, 3) == 0)


def test_an_argument_is_returned_without_a_copy(host: Host) -> None:
    block = host.put(b"\x01" * LARGE)
    response = host.call("echo", array_at(0, "|u1", [LARGE]), (block,))
    [back] = response.in_arena.blocks
    assert (back.offset, back.len, back.number) == (block.offset, block.len, block.number)
    # The array is gone: what is left is the hold of the answer.
    eventually(lambda: host.holds(HOST_COUNTERS, 3) == 1)


def test_what_is_made_in_the_arena_is_returned_without_a_copy(host: Host) -> None:
    [first] = host.call_with("made", [4, LARGE], "u1", 7).in_arena.blocks
    assert host.get(first) == b"\x07" * (4 * LARGE)
    whole, part, shaped, strided = host.call_with("views").in_arena.blocks
    assert (whole.offset, whole.len) == (first.offset, first.len)
    assert (shaped.offset, shaped.len) == (first.offset, first.len)
    assert (part.offset, part.len) == (first.offset + LARGE, 3 * LARGE)
    assert strided.offset >= first.offset + first.len
    assert host.get(strided) == b"\x07" * (2 * LARGE)


def test_results_that_find_no_room_are_in_the_value_and_counted(host: Host) -> None:
    responses = [host.call_with("filled", 1 << 20) for _ in range(5)]
    outcomes = [response.WhichOneof("outcome") for response in responses]
    assert outcomes == ["in_arena"] * 4 + ["value"]
    assert host.fell_back() == 1
    assert _native.decode(responses[4].value) == bytes(1 << 20)
    for response in responses[:4]:
        host.give_back(response.in_arena.blocks[0])
    assert host.call_with("filled", 4 << 20).WhichOneof("outcome") == "in_arena"


def test_a_result_that_cannot_be_represented_holds_nothing(host: Host) -> None:
    for _ in range(8):
        with pytest.raises(CallFailed) as failed:
            host.call_with("broken", 1 << 20)
        assert failed.value.kind == "BAD_RESULT"
    assert host.fell_back() == 0


def test_buffers_of_all_kinds_go_there(host: Host) -> None:
    [block] = host.call_with("mutable", LARGE).in_arena.blocks
    assert host.get(block) == b"\x05" * LARGE
    assert host.call_with("filled", LARGE - 1).WhichOneof("outcome") == "value"


def test_items_of_a_stream_go_there(host: Host) -> None:
    stream = host.worker.stream("shares:several", LARGE, credit=3)
    for byte in range(3):
        response = next(stream.rpc)
        assert response.WhichOneof("message") == "in_arena"
        assert host.get(response.in_arena.blocks[0]) == bytes([byte]) * LARGE


def test_references_to_anywhere_else_are_refused(host: Host) -> None:
    good = host.put(bytes(LARGE))
    for wrong in [
        pb.Block(number=1, offset=0, len=LARGE),
        pb.Block(number=1, offset=CONTROL + HALF, len=LARGE),
        pb.Block(number=1, offset=CONTROL + HALF - 1, len=2),
        pb.Block(number=1, offset=CONTROL, len=0),
        pb.Block(number=4096, offset=CONTROL, len=LARGE),
        pb.Block(number=1, offset=2**64 - 1, len=2),
    ]:
        for value in (bytes_at(0), array_at(0, "|u1", [LARGE])):
            with pytest.raises(CallFailed) as failed:
                host.call("echo", value, (wrong,))
            assert failed.value.kind == "BAD_ARGUMENTS"
    for value in (
        bytes_at(1),
        array_at(0, "|u1", [LARGE + 1]),
        array_at(0, "O", [LARGE // 8]),
        b"\xd4\x0b\xc0",
    ):
        with pytest.raises(CallFailed) as failed:
            host.call("echo", value, (good,))
        assert failed.value.kind == "BAD_ARGUMENTS"
    eventually(lambda: host.holds(HOST_COUNTERS, good.number) == 0)


def test_empty_is_as_numpy_has_it(host: Host) -> None:
    assert _native.decode(host.call_with("numpy_agrees").value) is True
    assert _native.decode(host.call_with("is_ordinary").value) == [True] * 5
    assert _native.decode(host.call_with("wrong_shapes").value) == [
        "ValueError",
        "ValueError",
        "TypeError",
        "TypeError",
    ]


def test_without_an_arena_arrays_are_ordinary(
    inherited_worker: Callable[..., InheritedWorker], mode: dict[str, int]
) -> None:
    worker = inherited_worker(("shares",), **mode)
    assert (worker.call("shares:made", [LARGE], "u1", 7) == 7).all()
    request = worker.request("shares:echo")
    request.args = b"\x91" + bytes_at(0)
    request.blocks.args.append(pb.Block(number=0, offset=CONTROL, len=LARGE))
    response = worker.data.Call(request, timeout=30)
    assert response.error.kind == pb.CallError.KIND_BAD_ARGUMENTS


def test_a_file_that_is_no_arena_is_left_alone(
    inherited_worker: Callable[..., InheritedWorker], mode: dict[str, int]
) -> None:
    worker = inherited_worker(ready=False)
    fd = os.memfd_create("nonsense")
    journal = os.memfd_create("journal")
    os.ftruncate(fd, 12345)
    os.ftruncate(journal, 64)
    worker.open_gate(others=(journal, fd))
    os.close(fd)
    os.close(journal)
    assert "arena" not in worker.handshake(("shares",), **mode).capabilities
    assert worker.ready().WhichOneof("outcome") == "ready"
    eventually(lambda: "cannot map" in worker.stderr_text)
    assert len(worker.call("shares:filled", LARGE)) == LARGE
