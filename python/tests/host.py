"""A small host: starts workers, talks to them with grpcio, and ends every process it started."""

from __future__ import annotations

import array
import os
import queue
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from snakepit import _native

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
FIXTURES = HERE / "fixtures"
# The worker's interpreter, so that one environment with grpcio can test them all.
PYTHON = os.environ.get("SNAKEPIT_WORKER_PYTHON", sys.executable)
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# grpcio makes the authority of a Unix channel from its path, percent-encoded, which HTTP libraries refuse.
PLAIN_AUTHORITY = [*UNLIMITED, ("grpc.default_authority", "localhost")]


def _load_stubs() -> tuple[Any, Any]:
    """Compiles the protocol for grpcio; the modules get names that do not collide with the package."""
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory(prefix="snakepit-stubs-") as out:
        source = Path(out) / "worker.proto"
        source.write_text((PROTO / "snakepit/worker/v1/worker.proto").read_text())
        if (
            protoc.main(
                ["protoc", f"-I{out}", f"--python_out={out}", f"--grpc_python_out={out}", str(source)]
            )
            != 0
        ):
            raise RuntimeError("the protocol does not compile")
        sys.path.insert(0, out)
        try:
            import worker_pb2
            import worker_pb2_grpc
        finally:
            sys.path.remove(out)
    return worker_pb2, worker_pb2_grpc


pb, rpc = _load_stubs()


def eventually(condition: Callable[[], Any], limit: float = 10.0, what: str = "the condition") -> Any:
    """Waits for a condition, never for a fixed time."""
    deadline = time.monotonic() + limit
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {limit} s")
        time.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class CallFailed(Exception):
    """A `CallError`."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message)
        self.error = error
        self.kind = pb.CallError.Kind.Name(error.kind).removeprefix("KIND_")


class Worker:
    """One worker process and the means to talk to it."""

    pb = pb
    process: subprocess.Popen[str]
    data: Any
    control: Any

    def __init__(self) -> None:
        self.ids = iter(range(1, 1_000_000))
        self.stderr_text = ""
        self._reader: threading.Thread | None = None

    def spawn(self, arguments: list[str], channel: str | None, **options: Any) -> None:
        """Starts the process; its stderr is read all along, so that it never waits for us."""
        environment = {**os.environ, **options.pop("env", {})}
        environment.pop("SNAKEPIT_CHANNEL", None)
        if channel is not None:
            environment["SNAKEPIT_CHANNEL"] = channel
        self.process = subprocess.Popen(
            [options.pop("python", PYTHON), "-m", "snakepit", *arguments],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Not where the tests run: the source package there has no native module.
            cwd=tempfile.gettempdir(),
            **options,
        )

        def read() -> None:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.stderr_text += line

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.process.pid

    def request(
        self,
        function: str,
        *args: Any,
        call_id: int | None = None,
        deadline: float | None = None,
        session: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """A `CallRequest`."""
        request = pb.CallRequest(
            call_id=next(self.ids) if call_id is None else call_id,
            function=function,
            args=_native.encode(list(args)) if args else b"",
            kwargs=_native.encode(kwargs) if kwargs else b"",
        )
        if deadline is not None:
            request.deadline_us = int(deadline * 1e6)
        if session is not None:
            request.session = session
        return request

    def begin_end(self, session: int, timeout: float = 30) -> Any:
        """Ends a session; the future's `call_id` names the call."""
        request = pb.CallRequest(call_id=next(self.ids), session=session, end_session=True)
        future = self.data.Call.future(request, timeout=timeout)
        future.call_id = request.call_id
        return future

    def end_session(self, session: int) -> Any:
        """Ends a session and waits for its hooks."""
        return self.finish(self.begin_end(session))

    def call(self, function: str, *args: Any, timeout: float = 30, **kwargs: Any) -> Any:
        """Calls and waits."""
        return self.finish(self.begin(function, *args, timeout=timeout, **kwargs))

    def begin(self, function: str, *args: Any, timeout: float = 30, **kwargs: Any) -> Any:
        """Calls; the future's `call_id` names the call."""
        request = self.request(function, *args, **kwargs)
        future = self.data.Call.future(request, timeout=timeout)
        future.call_id = request.call_id
        return future

    @staticmethod
    def finish(future: Any) -> Any:
        """The value, or the error as an exception."""
        response = future.result()
        if response.WhichOneof("outcome") == "error":
            raise CallFailed(response.error)
        return _native.decode(response.value)

    def failure(self, function: str, *args: Any, **kwargs: Any) -> CallFailed:
        """The error a call must end with."""
        try:
            value = self.call(function, *args, **kwargs)
        except CallFailed as error:
            return error
        raise AssertionError(f"{function} returned {value!r} instead of failing")

    def stream(self, function: str, *args: Any, credit: int = 4, **kwargs: Any) -> Stream:
        """Calls for items."""
        return Stream(self, self.request(function, *args, **kwargs), credit)

    def ping(self) -> Any:
        return self.control.Ping(pb.PingRequest(), timeout=10)

    def cancel(self, call_id: int) -> bool:
        return bool(self.control.Cancel(pb.CancelRequest(call_id=call_id), timeout=10).was_running)

    def running(self) -> int | None:
        """The id of the running call."""
        answer = self.ping()
        return answer.call_id if answer.HasField("call_id") else None

    def handshake(
        self,
        adapters: tuple[str, ...] = (),
        paths: tuple[str, ...] = (str(FIXTURES),),
        versions: tuple[int, ...] = (1,),
        log_level: int = 0,
        threads: int = 0,
        asyncio: int = 0,
        host_functions: tuple[str, ...] = (),
        host_calls: int = 8,
        beat_ms: int = 0,
    ) -> Any:
        kinds = pb.HandshakeRequest.ConcurrencyKind
        kind = "THREADS" if threads else "ASYNCIO" if asyncio else "UNSPECIFIED"
        return self.control.Handshake(
            pb.HandshakeRequest(
                protocol_versions=versions,
                run_id="0" * 32,
                worker_id=1,
                host_version="test",
                adapters=adapters,
                paths=paths,
                log_level=log_level,
                concurrency=threads or asyncio or 1,
                concurrency_kind=kinds.Value(f"CONCURRENCY_KIND_{kind}"),
                host_functions=host_functions,
                host_calls=host_calls,
                beat_ms=beat_ms,
            ),
            timeout=10,
        )

    def ready(self) -> Any:
        return self.control.Ready(pb.ReadyRequest(), timeout=30)

    def shutdown(self, grace: float = 5.0) -> None:
        self.control.Shutdown(pb.ShutdownRequest(grace_ms=int(grace * 1000)), timeout=10)

    def wait(self, limit: float = 10.0) -> int:
        """The exit status."""
        status = self.process.wait(limit)
        assert self._reader is not None
        self._reader.join(5)
        return status

    def end(self) -> None:
        """Ends the process, whatever state the test left it in."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


class Stream:
    """A stream of items with credit."""

    def __init__(self, worker: Worker, call: Any, credit: int) -> None:
        self.call_id = call.call_id
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests.put(pb.StreamRequest(start=pb.StreamStart(call=call, credit=credit)))
        self.rpc = worker.data.CallStream(iter(self._requests.get, None), timeout=60)

    def grant(self, credit: int) -> None:
        self._requests.put(pb.StreamRequest(credit=credit))

    def close_requests(self) -> None:
        self._requests.put(None)

    def drop(self) -> None:
        """Gives up, as a consumer does that is no longer interested."""
        self.rpc.cancel()
        self._requests.put(None)

    def take(self) -> Any:
        """The next item."""
        response = next(self.rpc)
        if response.WhichOneof("message") == "error":
            raise CallFailed(response.error)
        return _native.decode(response.item)

    def __iter__(self) -> Iterator[Any]:
        """All items; grants one for each."""
        try:
            while True:
                yield self.take()
                self.grant(1)
        except StopIteration:
            return


class Desk:
    """The host's side of host calls, answered by the test."""

    def __init__(self, worker: Worker) -> None:
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.rpc = worker.control.Host(iter(self._answers.get, None))
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for request in self.rpc:
                self._requests.put(request)
        except grpc.RpcError:
            pass
        self._requests.put(None)

    def request(self) -> Any:
        """The next message, or ``None`` at the end."""
        return self._requests.get(timeout=20)

    def call(self) -> Any:
        """The next message, which must be a call."""
        request = self.request()
        assert request is not None
        assert request.WhichOneof("message") == "call", request
        return request.call

    def cancelled(self) -> int:
        """The next message, which must be a cancel."""
        request = self.request()
        assert request is not None
        assert request.WhichOneof("message") == "cancel", request
        return int(request.cancel)

    def is_quiet(self) -> bool:
        """Whether no message has come."""
        return self._requests.empty()

    def answer(self, call: int, value: object) -> None:
        """Answers a call."""
        self.say(pb.HostResponse(id=call, value=_native.encode(value)))

    def say(self, response: Any) -> None:
        """Sends a message, whatever it is."""
        self._answers.put(response)

    def end(self) -> None:
        """Ends the stream as a host does that has nothing more to say."""
        self._answers.put(None)

    def drop(self) -> None:
        """Resets the stream."""
        self.rpc.cancel()
        self._answers.put(None)


class UnixWorker(Worker):
    """A worker started by hand on a Unix path."""

    def __init__(self, path: Path, *arguments: str, **options: Any) -> None:
        super().__init__()
        self.path = path
        self.spawn([*arguments, "--path", str(FIXTURES)], f"unix:{path}", stdin=subprocess.DEVNULL, **options)
        self.channel = grpc.insecure_channel(f"unix:{path}", options=UNLIMITED)
        self.data = rpc.WorkerStub(self.channel)
        self.control = rpc.WorkerControlStub(self.channel)

    def wait_until_serving(self) -> None:
        eventually(lambda: "serving on" in self.stderr_text or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.stderr_text

    def end(self) -> None:
        self.channel.close()
        super().end()


class Relay:
    """Lets grpcio, which can only connect to addresses, talk to a socket that exists already."""

    def __init__(self, path: Path, far: socket.socket) -> None:
        self.far = far
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        try:
            near, _ = self.listener.accept()
        except OSError:
            return
        threading.Thread(target=self._copy, args=(near, self.far), daemon=True).start()
        self._copy(self.far, near)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        try:
            while chunk := source.recv(1 << 20):
                sink.sendall(chunk)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        """The host's end of the socket goes away, as when the host dies."""
        for end in (self.far, self.listener):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


class InheritedWorker(Worker):
    """A worker started as a host starts it: standard input is its channel."""

    def __init__(self, path: Path, **options: Any) -> None:
        super().__init__()
        self.near, far = socket.socketpair()
        self.spawn([], "fd:0", stdin=far, **options)
        far.close()
        # For calls without HTTP/2.
        self.calls, self._their_calls = socket.socketpair()
        self.path = path
        self.relays: list[Relay] = []
        self.channels: list[grpc.Channel] = []

    def open_gate(self, preamble: bytes | None = None, others: tuple[int, ...] = ()) -> None:
        """Sends the preamble with the control socket, the one of calls and other descriptors, and connects."""
        near, far = socket.socketpair()
        sent = array.array("i", [far.fileno(), self._their_calls.fileno(), *others])
        message = struct.pack(">8sHHI", b"SNAKEPIT", 2, len(sent), 0) if preamble is None else preamble
        self.near.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        far.close()
        self._their_calls.close()
        stubs = []
        for name, end in (("data", self.near), ("control", near)):
            address = self.path.with_suffix(f".{name}")
            self.relays.append(Relay(address, end))
            self.channels.append(grpc.insecure_channel(f"unix:{address}", options=PLAIN_AUTHORITY))
            stubs.append(self.channels[-1])
        self.data = rpc.WorkerStub(stubs[0])
        self.control = rpc.WorkerControlStub(stubs[1])

    def lose_host(self) -> None:
        """Closes the host's ends abruptly."""
        for relay in self.relays:
            relay.close()
        for end in (self.near, self.calls, self._their_calls):
            end.close()

    def end(self) -> None:
        for channel in self.channels:
            channel.close()
        self.lose_host()
        super().end()


# Starts a worker with an inherited channel, and ends it when the test ends.
Start = Callable[..., InheritedWorker]
