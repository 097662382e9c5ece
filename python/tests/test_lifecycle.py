"""From the gate to the last process of the tree."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from host import CallFailed, InheritedWorker, Start, UnixWorker, alive, eventually, pb


def test_nothing_happens_before_the_gate_opens(inherited_worker: Start, tmp_path: Path) -> None:
    worker = inherited_worker(ready=False)
    # Blocked in recvmsg, without the modules that only a serving worker has.
    eventually(lambda: "snakepit" in Path(f"/proc/{worker.pid}/maps").read_text())
    assert worker.process.poll() is None
    worker.open_gate()
    assert worker.handshake().pid == worker.pid


def test_host_that_leaves_before_the_gate_is_a_quiet_end(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.lose_host()
    assert worker.wait() == 0
    assert worker.stderr_text == ""


@pytest.mark.parametrize(
    ("preamble", "says"),
    [
        (b"GET / HTTP/1.1\r\n", "does not begin with a snakepit preamble"),
        (struct.pack(">8sHHI", b"SNAKEPIT", 9, 1, 0), "version 9"),
        (struct.pack(">8sHHI", b"SNAKEPIT", 2, 1, 2**31), "bytes of body"),
    ],
)
def test_wrong_preamble_is_refused_with_the_reason(
    inherited_worker: Start, preamble: bytes, says: str
) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate(preamble)
    assert worker.wait() == 2
    assert says in worker.stderr_text


def test_preamble_without_a_control_socket_is_refused(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.near.send(struct.pack(">8sHHI", b"SNAKEPIT", 2, 0, 0))
    assert worker.wait() == 2
    assert "without a control socket" in worker.stderr_text


def test_preamble_in_pieces_is_read_whole(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    whole = struct.pack(">8sHHI", b"SNAKEPIT", 2, 1, 3) + b"xyz"
    worker.near.send(whole[:5])
    time.sleep(0.05)
    worker.open_gate(whole[5:])
    assert worker.handshake().protocol_version == 1


def test_handshake_describes_the_worker(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    answer = worker.handshake()
    assert answer.protocol_version == 1
    assert answer.pid == worker.pid
    assert answer.runtime.startswith("CPython 3.")
    assert answer.concurrency == 1
    expected = {"batch", "calls", "cancel", "stream", "events", "host", "input", "session"}
    assert set(answer.capabilities) == expected


def test_handshake_without_a_common_version_names_both_and_ends(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    answer = worker.handshake(versions=(7, 8))
    assert answer.protocol_version == 0
    assert list(answer.protocol_versions) == [1]
    assert worker.wait() != 0
    assert "[7, 8]" in worker.stderr_text


def test_ready_names_the_functions(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    worker.handshake(("sample",))
    report = worker.ready().ready
    assert "echo" in report.functions
    assert "renamed" in report.functions
    assert "unmarked" not in report.functions
    assert report.import_us > 0


@pytest.mark.parametrize(
    ("adapter", "says", "exception"),
    [
        ("no_such_module", "no module named 'no_such_module'", "ModuleNotFoundError"),
        ("broken_import", "failed to import", "ZeroDivisionError"),
        ("needs_missing", "failed to import", "ModuleNotFoundError"),
        ("exits_on_import", "sys.exit(3)", "SystemExit"),
        ("failing_hook", "start hook failing_hook:load failed", "OSError"),
    ],
)
def test_adapter_that_fails_is_reported_and_the_worker_waits(
    inherited_worker: Start, adapter: str, says: str, exception: str
) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    worker.handshake((adapter,))
    error = worker.ready().error
    assert says in error.message
    assert error.exceptions[0].type == exception
    assert worker.process.poll() is None
    worker.ping()
    worker.shutdown()
    assert worker.wait() == 0


def test_import_that_kills_the_process_is_seen_by_its_status(inherited_worker: Start) -> None:
    worker = inherited_worker(ready=False)
    worker.open_gate()
    worker.handshake(("dies_on_import",))
    assert worker.wait() == 9


def test_hooks_run_around_all_calls(inherited_worker: Start, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    worker = inherited_worker(("hooked",), env={"JOURNAL": str(journal)})
    worker.call("note", "call")
    worker.shutdown()
    assert worker.wait() == 0
    assert journal.read_text().split() == ["start", "async-start", "call", "async-stop", "stop", "atexit"]


def test_a_health_hook_is_announced_and_called_by_that_name(inherited_worker: Start, tmp_path: Path) -> None:
    state = tmp_path / "state"
    worker = inherited_worker(("healthy",), env={"STATE": str(state)})
    check = worker.ready().ready.health
    assert check
    assert worker.call(check) is None
    state.write_text("False")
    assert worker.call(check) == "health hook healthy:check returned False"
    state.write_text("1 / 0")
    assert worker.failure(check).error.message == "ZeroDivisionError: division by zero"
    state.write_text("0")
    message = "TypeError: health hook healthy:check must return None, True or False, not int"
    assert worker.failure(check).error.message == message


def test_a_worker_without_health_hook_announces_none(inherited_worker: Start) -> None:
    assert inherited_worker().ready().ready.health == ""


def test_ping_tells_what_runs(inherited_worker: Start) -> None:
    worker = inherited_worker()
    assert worker.running() is None
    worker.call("echo", 1)
    assert worker.ping().calls == 1
    call = worker.begin("sleep", 60)
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.02)
    assert worker.ping().call_us > 10_000
    worker.cancel(call.call_id)


def test_ping_is_answered_while_the_gil_is_held(inherited_worker: Start) -> None:
    worker = inherited_worker()
    call = worker.begin("hold_gil", 2)
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.1)
    started = time.monotonic()
    for _ in range(20):
        worker.ping()
    assert time.monotonic() - started < 0.5
    assert worker.finish(call) == "held"


def gone_after(worker: InheritedWorker, pids: list[int]) -> float:
    """Seconds from the loss of the host until the worker and all of these are gone."""
    started = time.monotonic()
    worker.lose_host()
    eventually(lambda: not any(alive(pid) for pid in [worker.pid, *pids]), 5)
    return time.monotonic() - started


def test_loss_of_the_host_ends_an_idle_worker(inherited_worker: Start) -> None:
    worker = inherited_worker()
    assert gone_after(worker, []) < 0.5
    assert worker.wait() != 0


@pytest.mark.parametrize("function", ["hold_gil", "sleep", "busy", "ignore_cancel"])
def test_loss_of_the_host_ends_a_worker_that_computes(inherited_worker: Start, function: str) -> None:
    worker = inherited_worker()
    call = worker.begin(function, *([] if function in ("busy", "ignore_cancel") else [60]))
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.1)
    assert gone_after(worker, []) < 0.5


def test_loss_of_the_host_ends_everything_the_worker_started(inherited_worker: Start) -> None:
    worker = inherited_worker()
    pids = worker.call("spawn_tree")
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    call = worker.begin("hold_gil", 60)
    eventually(lambda: worker.running() == call.call_id)
    assert gone_after(worker, pids) < 1


def with_environment(entry: bytes) -> list[int]:
    """Pidfds of all processes that have this in their environment."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit():
            continue
        try:
            pidfd = os.pidfd_open(int(directory.name))
        except OSError:
            continue
        try:
            matches = entry in (directory / "environ").read_bytes().split(b"\0")
        except OSError:
            matches = False
        if matches and int(directory.name) != os.getpid():
            found.append(pidfd)
        else:
            os.close(pidfd)
    return found


@pytest.mark.parametrize("how", ["spawn", "fork", "thread"])
def test_loss_of_the_host_ends_what_the_worker_is_starting_just_then(
    inherited_worker: Start, how: str
) -> None:
    """The worker's threads start processes while another one ends them all."""
    for turn in range(8):
        mark = f"{os.getpid()}.{how}.{turn}.{time.monotonic_ns()}"
        worker = inherited_worker(env={"SNAKEPIT_TEST_MARK": mark})
        call = worker.begin("start_for_ever", how)
        eventually(lambda call=call, worker=worker: worker.running() == call.call_id)
        time.sleep(0.02 + turn * 0.003)
        worker.lose_host()
        worker.wait(5)
        left = with_environment(f"SNAKEPIT_TEST_MARK={mark}".encode())
        for pidfd in left:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        assert not left, f"{len(left)} processes are left in turn {turn}"


class NamedHost:
    """A process that stands for a host which names itself in its workers' environment."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(["sleep", "600"])
        with open(f"/proc/{self.process.pid}/stat") as stat:
            self.start = int(stat.read().rpartition(")")[2].split()[19])

    def name(self, **changes: object) -> dict[str, str]:
        namespace = os.stat("/proc/self/ns/pid").st_ino
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        parts = {
            "pid": self.process.pid,
            "start": self.start,
            "namespace": namespace,
            "boot": boot,
            **changes,
        }
        return {"SNAKEPIT_HOST": ".".join(str(part) for part in parts.values())}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def named_host() -> Iterator[NamedHost]:
    host = NamedHost()
    yield host
    host.kill()


def test_a_worker_on_a_path_ends_with_the_host_that_started_it(
    unix_worker: Callable[..., UnixWorker], named_host: NamedHost
) -> None:
    worker = unix_worker("sample", env=named_host.name())
    pids = worker.call("spawn_tree")
    call = worker.begin("hold_gil", 60)
    eventually(lambda: worker.running() == call.call_id)
    named_host.kill()
    eventually(lambda: not any(alive(pid) for pid in [worker.pid, *pids]), 5)
    assert not worker.path.exists()


def test_a_worker_ends_with_its_host_though_a_fork_of_it_holds_the_channel(
    inherited_worker: Start, named_host: NamedHost
) -> None:
    worker = inherited_worker(env=named_host.name())
    assert worker.call("echo", 1) == 1
    named_host.kill()
    eventually(lambda: not alive(worker.pid), 5)


def test_a_worker_whose_host_has_ended_already_does_not_stay(named_host: NamedHost, tmp_path: Path) -> None:
    # The pid lives, and is another process than the one that was named.
    worker = UnixWorker(tmp_path / "w.sock", env=named_host.name(start=named_host.start - 1))
    try:
        eventually(lambda: not alive(worker.pid), 30)
    finally:
        worker.end()


@pytest.mark.parametrize("change", [{"boot": "another"}, {"namespace": 1}, {"pid": "x"}])
def test_a_host_that_is_out_of_sight_says_nothing(
    unix_worker: Callable[..., UnixWorker], named_host: NamedHost, change: dict[str, object]
) -> None:
    worker = unix_worker("sample", env=named_host.name(**{"start": named_host.start - 1, **change}))
    for _ in range(20):
        worker.ping()
    assert alive(worker.pid)


def test_loss_of_control_alone_ends_the_worker(inherited_worker: Start) -> None:
    worker = inherited_worker()
    worker.relays[1].close()
    assert worker.wait() != 0


def test_loss_of_data_alone_ends_the_worker(inherited_worker: Start) -> None:
    worker = inherited_worker()
    worker.relays[0].close()
    assert worker.wait() != 0


def test_shutdown_ends_everything_the_worker_started(inherited_worker: Start) -> None:
    worker = inherited_worker()
    pids = worker.call("spawn_tree")
    worker.shutdown()
    assert worker.wait() == 0
    eventually(lambda: not any(alive(pid) for pid in pids), 5)


def test_shutdown_lets_the_running_call_finish(inherited_worker: Start) -> None:
    worker = inherited_worker()
    call = worker.begin("sleep", 0.5)
    eventually(lambda: worker.running() == call.call_id)
    worker.shutdown(grace=10)
    assert worker.finish(call) == "slept"
    assert worker.wait() == 0


def test_shutdown_completes_though_the_data_connection_is_closed(
    inherited_worker: Start, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    worker = inherited_worker(("hooked",), env={"JOURNAL": str(journal)})
    worker.shutdown()
    worker.relays[0].close()
    assert worker.wait() == 0
    assert "atexit" in journal.read_text()


def test_slow_stop_hook_is_waited_for(inherited_worker: Start, tmp_path: Path) -> None:
    worker = inherited_worker()
    target = tmp_path / "stopped"
    hook = f"lambda: (__import__('time').sleep(1.5), open({str(target)!r}, 'w'))"
    code = f"import snakepit; snakepit.on_stop({hook})"
    worker.call("builtins:exec", code)
    worker.shutdown()
    assert worker.wait() == 0
    assert target.exists()


def test_shutdown_cancels_the_call_after_its_grace(inherited_worker: Start) -> None:
    worker = inherited_worker()
    call = worker.begin("sleep", 60)
    eventually(lambda: worker.running() == call.call_id)
    worker.shutdown(grace=0.1)
    with pytest.raises(CallFailed) as raised:
        worker.finish(call)
    assert raised.value.kind == "CANCELLED"
    assert worker.wait() == 0


def test_shutdown_forces_what_does_not_stop(inherited_worker: Start) -> None:
    worker = inherited_worker()
    call = worker.begin("ignore_cancel")
    eventually(lambda: worker.running() == call.call_id)
    worker.shutdown(grace=0)
    assert worker.wait(5) == 70
    assert "did not stop" in worker.stderr_text


def test_shutdown_refuses_new_calls(unix_worker: Callable[..., UnixWorker]) -> None:
    worker = unix_worker("sample")
    stream = worker.stream("count", 2, credit=1)
    stream.take()
    worker.shutdown(grace=10)
    assert worker.failure("echo", 1).kind == "SHUTTING_DOWN"
    stream.grant(5)
    assert list(stream.rpc)
    assert worker.wait() == 0
    assert not worker.path.exists()


def test_sigterm_is_an_orderly_end(inherited_worker: Start, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    worker = inherited_worker(("hooked",), env={"JOURNAL": str(journal)})
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "stop" in journal.read_text()


def test_sigint_while_idle_is_ignored_and_raises_in_a_call(inherited_worker: Start) -> None:
    worker = inherited_worker()
    worker.process.send_signal(signal.SIGINT)
    # Nothing can be seen of a signal that is ignored; without this it might come to be handled in the call.
    time.sleep(0.2)
    assert worker.call("echo", 1) == 1
    call = worker.begin("sleep", 60)
    eventually(lambda: worker.running() == call.call_id)
    time.sleep(0.05)
    worker.process.send_signal(signal.SIGINT)
    with pytest.raises(CallFailed) as raised:
        worker.finish(call)
    assert raised.value.error.exceptions[0].type == "KeyboardInterrupt"


def test_signal_handlers_of_user_code_run_while_idle(inherited_worker: Start, tmp_path: Path) -> None:
    worker = inherited_worker()
    target = tmp_path / "signalled"
    worker.call(
        "builtins:exec",
        f"import signal; signal.signal(signal.SIGUSR1, lambda *_: open({str(target)!r}, 'w'))",
    )
    worker.process.send_signal(signal.SIGUSR1)
    eventually(target.exists)
    assert worker.call("echo", 1) == 1


def test_forked_child_that_returns_never_answers(inherited_worker: Start) -> None:
    worker = inherited_worker()
    pid = worker.call("fork_and_return")
    assert pid > 0
    eventually(lambda: not alive(pid))
    assert worker.call("echo", 1) == 1


def test_forked_child_ends_as_a_process_does(inherited_worker: Start) -> None:
    worker = inherited_worker()
    assert worker.call("fork_and_exit", 3) == 3
    assert worker.call("fork_and_terminate") == -signal.SIGTERM
    assert worker.call("fork_and_log") == 7
    assert "from the child" in eventually(lambda: worker.stderr_text)
    assert worker.call("echo", 1) == 1


def test_multiprocessing_works_in_user_code(inherited_worker: Start) -> None:
    worker = inherited_worker()
    assert worker.call("pool_map") == [1, 4, 9]
    assert worker.call("echo", 1) == 1


@pytest.mark.parametrize("first", [3, 0])
@pytest.mark.parametrize("function", ["close_descriptors", "close_descriptors_and_stay"])
def test_worker_whose_descriptors_were_closed_ends_itself(
    inherited_worker: Start, function: str, first: int
) -> None:
    worker = inherited_worker()
    # Kept: a future that is thrown away cancels its call.
    call = worker.begin(function, first)
    assert worker.wait(5) != 0
    assert call.exception() is not None


def test_adopted_orphans_are_reaped_and_own_children_are_not(inherited_worker: Start) -> None:
    worker = inherited_worker()
    pid = worker.call("orphan")
    worker.ping()

    def reaped() -> bool:
        worker.ping()
        return not os.path.exists(f"/proc/{pid}")

    eventually(reaped)
    call = worker.begin("own_child_status")
    while not call.done():
        worker.ping()
        time.sleep(0.02)
    assert worker.finish(call) == 5


def test_descriptors_do_not_leak_into_programs(inherited_worker: Start) -> None:
    worker = inherited_worker()
    listing = worker.call("subprocess:check_output", ["ls", "-l", "/proc/self/fd"], close_fds=False)
    assert b"socket" not in listing.replace(b"/proc/self/fd", b"")


def test_worker_is_alone_with_its_socket(inherited_worker: Start) -> None:
    worker = inherited_worker()
    assert worker.call("os:readlink", "/proc/self/fd/0") == "/dev/null"
    assert worker.call("os:getenv", "SNAKEPIT_CHANNEL") is None


def test_health_follows_the_workers_life(inherited_worker: Start) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    worker = inherited_worker(ready=False)
    worker.open_gate()
    health = health_pb2_grpc.HealthStub(worker.channels[1])

    def status() -> int:
        return health.Check(
            health_pb2.HealthCheckRequest(service="snakepit.worker.v1.Worker"), timeout=5
        ).status

    assert status() == health_pb2.HealthCheckResponse.NOT_SERVING
    worker.handshake()
    worker.ready()
    eventually(lambda: status() == health_pb2.HealthCheckResponse.SERVING)


def test_each_connection_serves_its_own_services(inherited_worker: Start) -> None:
    worker = inherited_worker()
    wrong = worker.channels[1].unary_unary("/snakepit.worker.v1.Worker/Call")
    with pytest.raises(grpc.RpcError) as raised:
        wrong(b"", timeout=5)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_standard_input_that_is_no_channel_is_explained() -> None:
    from host import Worker

    worker = Worker()
    worker.spawn([], None, stdin=subprocess.DEVNULL)
    assert worker.wait() == 2
    assert "standard input is not a socket" in worker.stderr_text
    assert "SNAKEPIT_CHANNEL=unix:PATH" in worker.stderr_text


def test_socketpair_of_a_dead_host_is_a_quiet_end() -> None:
    from host import Worker

    near, far = socket.socketpair()
    near.close()
    worker = Worker()
    worker.spawn([], "fd:0", stdin=far)
    far.close()
    assert worker.wait() == 0


def test_proto_is_the_one_this_test_knows() -> None:
    assert pb.CallError.Kind.Value("KIND_CANCELLED") == 6
