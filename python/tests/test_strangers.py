"""Workers started by hand, spoken to by ordinary gRPC clients."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from host import UnixWorker, Worker, eventually, pb, rpc

from snakepit import _native


def test_ordinary_client_calls_over_a_unix_path(worker: UnixWorker) -> None:
    # No options: as grpcio comes, with the authority it makes up from the path.
    with grpc.insecure_channel(f"unix:{worker.path}") as channel:
        request = pb.CallRequest(call_id=1, function="math:sqrt", args=_native.encode([16]))
        answer = rpc.WorkerStub(channel).Call(request, timeout=10)
    assert _native.decode(answer.value) == 4.0
    assert answer.call_id == 1


def test_health_is_answered(worker: UnixWorker) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    health = health_pb2_grpc.HealthStub(worker.channel)
    for service in ("", "snakepit.worker.v1.Worker", "snakepit.worker.v1.WorkerControl"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service="nonsense"), timeout=5)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_the_services(worker: UnixWorker, version: str) -> None:
    from grpc_reflection.v1alpha import reflection_pb2

    # The two versions have the same messages.
    call = worker.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = iter(
        [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="snakepit.worker.v1.Worker"),
        ]
    )
    listing, file = call(requests, timeout=10)
    names = {service.name for service in listing.list_services_response.service}
    assert {"snakepit.worker.v1.Worker", "snakepit.worker.v1.WorkerControl", "grpc.health.v1.Health"} <= names
    assert file.file_descriptor_response.file_descriptor_proto


def test_unknown_service_is_unimplemented(worker: UnixWorker) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        worker.channel.unary_unary("/no.such.Service/Method")(b"", timeout=5)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_many_connections_are_served_in_order(worker: UnixWorker) -> None:
    channels = [grpc.insecure_channel(f"unix:{worker.path}") for _ in range(4)]
    futures = [
        rpc.WorkerStub(channel).Call.future(worker.request("sleep", 0.02), timeout=30)
        for channel in channels
        for _ in range(5)
    ]
    assert [worker.finish(future) for future in futures] == ["slept"] * 20
    for channel in channels:
        channel.close()


def test_control_is_answered_while_the_gil_is_held(worker: UnixWorker) -> None:
    call = worker.begin("hold_gil", 1)
    eventually(lambda: worker.running() == call.call_id)
    assert worker.finish(call) == "held"


def test_handshake_is_optional_and_adds_adapters(worker: UnixWorker) -> None:
    assert worker.call("echo", 1) == 1
    worker.handshake(("unmarked",))
    report = worker.ready().ready
    assert {"echo", "public"} <= set(report.functions)
    assert worker.call("public", 1) == 2


def test_client_that_goes_away_does_not_end_the_worker(worker: UnixWorker) -> None:
    with socket.socket(socket.AF_UNIX) as rude:
        rude.connect(str(worker.path))
        rude.sendall(b"this is no HTTP/2")
    assert worker.call("echo", 1) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_worker_and_removes_its_socket(worker: UnixWorker, number: int) -> None:
    worker.process.send_signal(number)
    assert worker.wait() == 0
    assert not worker.path.exists()


def test_socket_of_a_dead_worker_is_replaced_and_of_a_live_one_is_not(
    unix_worker: Callable[..., UnixWorker], tmp_path: Path
) -> None:
    first = unix_worker("sample")
    second = Worker()
    second.spawn([], f"unix:{first.path}", stdin=subprocess.DEVNULL)
    assert second.wait() == 2
    assert "live" in second.stderr_text
    assert first.call("echo", 1) == 1
    first.process.kill()
    first.wait()
    assert first.path.exists()
    third = UnixWorker(first.path, "sample")
    try:
        third.wait_until_serving()
        assert third.call("echo", 2) == 2
    finally:
        third.end()


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "precious"
    file.write_text("data")
    worker = Worker()
    worker.spawn([], f"unix:{file}", stdin=subprocess.DEVNULL)
    assert worker.wait() == 2
    assert file.read_text() == "data"


def test_tcp_serves_the_same() -> None:
    worker = Worker()
    worker.spawn([], "tcp:127.0.0.1:0", stdin=subprocess.DEVNULL)
    try:
        address = eventually(lambda: re.search(r"serving on tcp:(\S+)", worker.stderr_text), 30)
        with grpc.insecure_channel(address.group(1)) as channel:
            request = pb.CallRequest(call_id=1, function="math:sqrt", args=_native.encode([16]))
            assert _native.decode(rpc.WorkerStub(channel).Call(request, timeout=10).value) == 4.0
    finally:
        worker.end()


@pytest.mark.parametrize(
    ("arguments", "channel", "says"),
    [
        (["--nonsense"], "unix:/tmp/x", "--path DIR"),
        (["--path"], "unix:/tmp/x", "--path"),
        (["--path", "/no/such/directory"], "unix:/tmp/x", "/no/such/directory"),
        (["not-a-module"], "unix:/tmp/x", "package.module"),
        (["dir/adapter.py"], "unix:/tmp/x", "package.module"),
        ([], "nonsense", "unix:PATH or tcp:HOST:PORT"),
        ([], "fd:7", "fd:0"),
        ([], "unix:", "unix:PATH"),
        ([], "tcp:localhost", "tcp:HOST:PORT"),
        ([], "tcp:localhost:99999", "tcp:HOST:PORT"),
        ([], "unix:/no/such/directory/w.sock", "/no/such/directory"),
        ([], "unix:/tmp/" + "x" * 200, "failed to listen"),
        ([], "tcp:no.such.host.invalid:80", "failed to listen"),
    ],
)
def test_bad_input_is_refused_with_what_would_be_right(arguments: list[str], channel: str, says: str) -> None:
    worker = Worker()
    worker.spawn(arguments, channel, stdin=subprocess.DEVNULL)
    assert worker.wait() == 2
    assert says in worker.stderr_text
    assert "Traceback" not in worker.stderr_text


def test_help_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "snakepit", "--help"],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    assert done.returncode == 0
    assert "SNAKEPIT_CHANNEL" in done.stdout


def test_broken_adapter_on_the_command_line_is_shown(tmp_path: Path) -> None:
    worker = UnixWorker(tmp_path / "w.sock", "broken_import")
    assert worker.wait() == 1
    assert "ZeroDivisionError" in worker.stderr_text
    assert "broken_import.py" in worker.stderr_text
    assert not worker.path.exists()
    worker.end()


def test_caller_that_gives_up_while_waiting_is_not_executed(worker: UnixWorker, tmp_path: Path) -> None:
    first = worker.begin("sleep", 0.5)
    eventually(lambda: worker.running() == first.call_id)
    marker = tmp_path / "executed"
    second = worker.begin("builtins:open", str(marker), "w")
    second.cancel()
    third = worker.begin("echo", "after")
    assert worker.finish(first) == "slept"
    assert worker.finish(third) == "after"
    assert not marker.exists()
