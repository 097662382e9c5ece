"""The template of the zygote backend, asked by hand: what it says, what it refuses, and what ends it."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from host import FIXTURES, PYTHON, alive, eventually

HEAD = struct.Struct("=BxHiQ")
READY, UNFIT, HELD, REFUSED, EXITED, UNNESTED = range(1, 7)


class Template:
    """One template, its lifeline and the socket for everything else."""

    def __init__(
        self,
        modules: tuple[str, ...] = (),
        safe: tuple[str, ...] = (),
        version: str = "3",
        nested: bool = False,
        host: int | None = None,
    ) -> None:
        self.lifeline, theirs = socket.socketpair()
        environment = {
            **os.environ,
            "SNAKEPIT_WORKER_ID": "7",
            "SNAKEPIT_RUN_ID": "0" * 32,
            "SNAKEPIT_ROOM": "0" * 25,
        }
        self.process = subprocess.Popen(
            [PYTHON, "-m", "snakepit", "--template"],
            env=environment,
            stdin=theirs,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=tempfile.gettempdir(),
        )
        theirs.close()
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(30)
        self.workers: list[int] = []
        lists = [list(safe), [str(FIXTURES)], list(modules)]
        isolation = "nested" if nested else "shared"
        fields = [version, isolation, *(text for each in lists for text in (str(len(each)), *each))]
        body = "\0".join(fields).encode()
        pidfd = os.pidfd_open(host or os.getpid())
        message = struct.pack("=I", len(body)) + body
        socket.send_fds(self.lifeline, [message], [theirs.fileno(), pidfd])
        os.close(pidfd)
        theirs.close()

    def reply(self) -> tuple[int, int, int, str, list[int]]:
        """Kind, fork, value, text and descriptors of what it says next."""
        head, descriptors, _, _ = socket.recv_fds(self.socket, HEAD.size, 4)
        if not head:
            raise EOFError
        kind, length, value, fork = HEAD.unpack(head)
        text = b""
        while len(text) < length:
            text += self.socket.recv(length - len(text))
        self.workers.extend(descriptors)
        return kind, fork, value, text.decode(), descriptors

    def fork(self, number: int, *program: str, cwd: str = "", **environment: str) -> list[socket.socket]:
        """Asks for a process; our ends of its channel, standard output and gate."""
        channel, output, gate = (socket.socketpair() for _ in range(3))
        variables = [f"{name}={value}" for name, value in {"SNAKEPIT_WORKER_ID": "12", **environment}.items()]
        path = program[0] if program else ""
        fields = [str(number), cwd, path, str(len(program)), *program, str(len(variables)), *variables]
        body = "\0".join(fields).encode()
        theirs = [channel[1], output[1], output[1], *([gate[1]] if program else [])]
        message = struct.pack("=I", len(body)) + body
        socket.send_fds(self.socket, [message], [each.fileno() for each in theirs])
        for each in (channel[1], output[1], gate[1]):
            each.close()
        return [channel[0], output[0], gate[0]]

    def end(self) -> None:
        """Ends it and what it forked, by what it handed out."""
        for pidfd in self.workers:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            os.close(pidfd)
        self.process.kill()
        self.process.wait(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.lifeline.close()
        self.socket.close()


@pytest.fixture
def template() -> Iterator[Callable[..., Template]]:
    """Starts templates."""
    templates: list[Template] = []

    def start(*modules: str, **options: object) -> Template:
        templates.append(Template(modules, **options))
        return templates[-1]

    yield start
    for each in templates:
        each.end()


def pid_of(pidfd: int) -> int:
    with open(f"/proc/self/fdinfo/{pidfd}") as info:
        return int(next(line for line in info if line.startswith("Pid:")).split()[1])


def test_a_program_is_held_until_its_gate_opens_and_its_exit_is_told(
    template: Callable[..., Template],
) -> None:
    started = template()
    assert started.reply()[0] == READY
    channel, output, gate = started.fork(5, "/bin/sh", "-c", "echo $$ $SNAKEPIT_WORKER_ID; exit 9")
    kind, fork, _, _, (pidfd,) = started.reply()
    assert (kind, fork) == (HELD, 5)
    pid = pid_of(pidfd)
    assert os.getpgid(pid) == pid
    # What is found by its environment is found before it has executed anything.
    shown = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert b"SNAKEPIT_WORKER_ID=12" in shown
    assert not any(part.startswith((b"SNAKEPIT_WORKER_ID=7", b"SNAKEPIT_ROOM")) for part in shown)
    gate.send(b"x")
    assert gate.recv(4) == b""
    kind, fork, status, _, _ = started.reply()
    assert (kind, fork, os.waitstatus_to_exitcode(status)) == (EXITED, 5, 9)
    assert output.recv(100).decode().split() == [str(pid), "12"]
    channel.close()


def test_a_program_that_is_missing_is_told_at_its_gate(template: Callable[..., Template]) -> None:
    started = template()
    assert started.reply()[0] == READY
    _, _, gate = started.fork(1, "/no/such/program")
    assert started.reply()[0] == HELD
    gate.send(b"x")
    assert struct.unpack("=I", gate.recv(4)) == (2,)
    kind, _, status, _, _ = started.reply()
    assert (kind, os.waitstatus_to_exitcode(status)) == (EXITED, 127)


def test_what_cannot_be_set_up_is_refused_and_the_next_fork_works(
    template: Callable[..., Template],
) -> None:
    started = template()
    assert started.reply()[0] == READY
    started.fork(1, "/bin/true", cwd="/no/such/directory")
    told = [started.reply()[:3], started.reply()[:3]]
    assert told[0] == (REFUSED, 1, 2)
    assert told[1][:2] == (EXITED, 1)
    _, _, gate = started.fork(2, "/bin/true")
    assert started.reply()[:2] == (HELD, 2)
    gate.send(b"x")
    kind, fork, status, _, _ = started.reply()
    assert (kind, fork, status) == (EXITED, 2, 0)


def test_a_closed_gate_and_a_closed_channel_end_what_waits(template: Callable[..., Template]) -> None:
    started = template()
    assert started.reply()[0] == READY
    _, _, gate = started.fork(1, "/bin/true")
    assert started.reply()[0] == HELD
    gate.close()
    kind, fork, status, _, _ = started.reply()
    assert (kind, fork, status) == (EXITED, 1, 0)
    # A worker of the runtime waits for the preamble.
    channel, _, _ = started.fork(2)
    assert started.reply()[:2] == (HELD, 2)
    channel.close()
    kind, fork, status, _, _ = started.reply()
    assert (kind, fork, status) == (EXITED, 2, 0)


def test_a_thread_keeps_it_from_forking_unless_it_is_known_to_be_safe(
    template: Callable[..., Template],
) -> None:
    started = template("has_a_thread")
    assert started.reply()[0] == READY
    started.fork(1, "/bin/true")
    kind, fork, value, text, _ = started.reply()
    assert (kind, fork, value) == (REFUSED, 1, 0)
    assert text == "the one that waits"
    with open(f"/proc/{started.process.pid}/comm") as file:
        name = file.read().strip()
    safe = template("has_a_thread", safe=(name,))
    assert safe.reply()[0] == READY
    safe.fork(1, "/bin/true")
    assert safe.reply()[0] == HELD


def test_a_module_that_does_not_import_is_told_with_its_traceback(
    template: Callable[..., Template],
) -> None:
    started = template("json", "broken_import")
    kind, _, _, text, _ = started.reply()
    assert kind == UNFIT
    assert "broken_import" in text
    assert "ZeroDivisionError" in text
    assert started.process.wait(10) == 0


def test_the_kernel_ends_it_with_its_lifeline_also_in_the_middle_of_an_import(
    template: Callable[..., Template],
) -> None:
    idle = template()
    assert idle.reply()[0] == READY
    importing = template("never_imported")
    # It holds the GIL and never gives it back.
    eventually(lambda: busy(importing.process.pid), 30)
    for started in (idle, importing):
        started.lifeline.shutdown(socket.SHUT_RDWR)
        started.lifeline.close()
        assert started.process.wait(10) == -signal.SIGKILL
        assert not alive(started.process.pid)


def busy(pid: int) -> bool:
    """Whether a process has computed for a while."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK") > 0.5


def test_another_version_and_a_host_that_says_nothing_end_it(template: Callable[..., Template]) -> None:
    other = template(version="99")
    assert other.process.wait(10) == 2
    assert other.process.stderr is not None
    assert "different versions" in other.process.stderr.read()
    silent = subprocess.run(
        [PYTHON, "-m", "snakepit", "--template"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tempfile.gettempdir(),
        check=False,
    )
    assert silent.returncode == 2
    assert "started by a Snakepit host" in silent.stderr


def test_many_forks_leave_no_zombie_and_no_descriptor(template: Callable[..., Template]) -> None:
    started = template()
    assert started.reply()[0] == READY
    directory = f"/proc/{started.process.pid}/fd"
    before = len(os.listdir(directory))
    for number in range(100):
        ends = started.fork(number, "/bin/true")
        assert started.reply()[0] == HELD
        ends[2].send(b"x")
        kind, fork, status, _, _ = started.reply()
        assert (kind, fork, status) == (EXITED, number, 0)
        for end in ends:
            end.close()
    assert len(os.listdir(directory)) == before
    children = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children").read_text()
    assert children == ""


def test_holes_of_the_heap_are_filled() -> None:
    code = """
import ctypes
from snakepit import _native

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
Info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_int) for name in names.split()]})
libc.mallinfo.restype = Info

def holes():
    info = libc.mallinfo()
    return info.fordblks - info.keepcost

pieces = [libc.malloc(size) for size in range(1100, 9000, 8)]
for piece in pieces[::2]:
    libc.free(ctypes.c_void_p(piece))
before = holes()
_native.fill_holes()
print(before, holes())
"""
    # Of glibc, which is what it is for.
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("another allocator than glibc's")
    # Not here: the source package would be found, which has no native module.
    cwd = tempfile.gettempdir()
    said = subprocess.run([PYTHON, "-c", code], check=True, stdout=subprocess.PIPE, timeout=60, cwd=cwd)
    before, after = map(int, said.stdout.split())
    assert before > 1_000_000
    assert after * 100 < before


def ended(pidfd: int) -> bool:
    """Whether a process has ended: its pidfd is readable then."""
    return bool(select.select([pidfd], [], [], 0)[0])


@pytest.fixture
def nested(template: Callable[..., Template]) -> Template:
    """A template whose processes have namespaces, where that is possible."""
    started = template(nested=True)
    kind, _, _, text, _ = started.reply()
    if kind == UNNESTED:
        pytest.skip(f"NOT TESTED: {text}")
    assert kind == READY
    return started


def test_a_nested_process_is_the_second_of_its_namespace_and_its_exit_is_told_exactly(
    nested: Template,
) -> None:
    _, output, gate = nested.fork(1, "/bin/sh", "-c", "echo $$ $PPID /proc/[0-9]*; kill -9 $$")
    kind, fork, count, _, (pidfd, first) = nested.reply()
    assert (kind, fork, count) == (HELD, 1, 2)
    pid = pid_of(pidfd)
    assert os.getpgid(pid) == pid
    assert os.getpgid(pid_of(first)) == pid_of(first)
    # By its parent's name a worker knows that it is looked after; its own is as ever.
    own, template = (Path(f"/proc/{each}/comm").read_text() for each in (pid, nested.process.pid))
    assert own == template
    above = Path(f"/proc/{pid_of(first)}/comm")
    eventually(lambda: above.read_text() == "snakepit-nest\n")
    gate.send(b"x")
    assert nested.reply()[:3] == (EXITED, 1, 9)
    assert output.recv(100).decode().split() == ["2", "1", "/proc/1", "/proc/2"]
    eventually(lambda: ended(first))


def test_what_a_nested_process_leaves_stays_until_its_namespace_is_ended(nested: Template) -> None:
    _, output, gate = nested.fork(1, "/bin/sh", "-c", "env -i setsid sleep 60 & exit 3")
    pidfd, first = nested.reply()[4]
    gate.send(b"x")
    kind, _, status, _, _ = nested.reply()
    assert (kind, os.waitstatus_to_exitcode(status)) == (EXITED, 3)
    assert ended(pidfd)
    assert not ended(first)
    # It holds the output, which is how we know that it is there, and when not.
    output.settimeout(0.05)
    with pytest.raises(TimeoutError):
        output.recv(1)
    signal.pidfd_send_signal(first, signal.SIGKILL)
    output.settimeout(30)
    assert output.recv(1) == b""


def test_a_namespace_ends_with_its_host_and_not_with_its_template(nested: Template) -> None:
    _, output, gate = nested.fork(1, "/bin/sh", "-c", "trap '' TERM HUP INT; echo ready; sleep 60; sleep 60")
    _, first = nested.reply()[4]
    gate.send(b"x")
    assert output.recv(100) == b"ready\n"
    nested.process.kill()
    nested.process.wait(10)
    output.settimeout(0.05)
    with pytest.raises(TimeoutError):
        output.recv(1)
    assert not ended(first)
    nested.socket.shutdown(socket.SHUT_RDWR)
    output.settimeout(30)
    assert output.recv(1) == b""
    eventually(lambda: ended(first))


def test_a_namespace_ends_with_its_host_also_where_somebody_keeps_the_hosts_end_open(
    template: Callable[..., Template],
) -> None:
    with subprocess.Popen(["sleep", "60"]) as host:
        started = template(nested=True, host=host.pid)
        kind, _, _, text, _ = started.reply()
        if kind == UNNESTED:
            host.kill()
            pytest.skip(f"NOT TESTED: {text}")
        _, output, gate = started.fork(1, "/bin/sh", "-c", "trap '' TERM HUP; sleep 60; sleep 60")
        _, first = started.reply()[4]
        gate.send(b"x")
        host.kill()
        output.settimeout(30)
        assert output.recv(1) == b""
        eventually(lambda: ended(first))


def test_many_nested_processes_leave_no_zombie_and_no_descriptor(nested: Template) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{nested.process.pid}/fd"))

    before = descriptors()
    for number in range(30):
        channel, output, gate = nested.fork(number, "/bin/true")
        assert nested.reply()[:2] == (HELD, number)
        gate.send(b"x")
        assert nested.reply()[:3] == (EXITED, number, 0)
        # Once by the first process of the namespace, and once by the template, which reaps that.
        assert nested.reply()[:3] == (EXITED, number, 0)
        for each in (channel, output, gate):
            each.close()
    assert descriptors() == before
    children = Path(f"/proc/{nested.process.pid}/task/{nested.process.pid}/children")
    assert children.read_text() == ""
