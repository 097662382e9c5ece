"""The template of the zygote backend: an interpreter that has imported everything, and forks workers.

It has one thread and serves no calls. Standard input is its lifeline: nothing comes over it but one message
at the start, and when the host is gone the kernel kills the template at once, also in the middle of an
import. Everything else goes over the socket that comes with that message; the form of the messages is
described in ``snakepit-backend-zygote``, ``wire.rs``.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import select
import signal
import socket
import sys
from _thread import get_native_id
from struct import Struct

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What a worker imports at its start, so that all of it is shared. `_native` starts no thread by itself.
_OWN_MODULES = ("_native", "_runtime", "_logs", "_resolve", "_errors", "_values", "_context", "_handler")

_VERSION = b"1"
_LENGTH = Struct("=I")
_INT = Struct("=i")
_MOST_DESCRIPTORS = 4
_REPLY = Struct("=BxHiQ")
_LONGEST_TEXT = 16_000

_READY, _UNFIT, _HELD, _REFUSED, _EXITED = range(1, 6)

# Names and marks as in the proto crate's `env`.
_WORKER_ID = "SNAKEPIT_WORKER_ID"
_ROOM = "SNAKEPIT_ROOM"


class _Fields:
    """A message: byte strings with NULs between them, which are in none of them."""

    def __init__(self, body: bytes) -> None:
        self._fields: Iterator[bytes] = iter(body.split(b"\0"))

    def next(self) -> bytes:
        """The next field."""
        return next(self._fields)

    def number(self) -> int:
        """The next field, which is a number."""
        return int(next(self._fields))

    def list(self) -> list[bytes]:
        """A number, and as many fields."""
        return [next(self._fields) for _ in range(self.number())]


class _Fork:
    """A request for a worker."""

    def __init__(self, fields: _Fields, descriptors: list[int]) -> None:
        self.id = fields.number()
        self.cwd = fields.next()
        self.program = fields.next()
        self.arguments = fields.list()
        self.environment = fields.list()
        self.descriptors = descriptors


class Gone(Exception):
    """The host has closed the connection."""


def main() -> list[str] | int:
    """Serves until the host is gone: a status. In a process that is to be a worker, its arguments."""
    try:
        lifeline = socket.socket(fileno=os.dup(0))
    except OSError:
        print("snakepit: a template is started by a Snakepit host, over standard input", file=sys.stderr)
        return 2
    lifeline.setblocking(True)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    try:
        fields, [descriptor] = _receive(lifeline)
    except (Gone, ValueError):
        return 0
    if fields.next() != _VERSION:
        print("snakepit: the host and its worker package are of different versions", file=sys.stderr)
        return 2
    _die_with(lifeline)
    template = _Template(socket.socket(fileno=descriptor), safe={os.fsdecode(name) for name in fields.list()})
    paths = [os.fsdecode(path) for path in fields.list()]
    failure = _preload(paths, [name.decode() for name in fields.list()])
    if failure:
        template.tell(_UNFIT, text=failure)
        return 0
    # As the documentation of `gc` has it: what is there now is never looked at again, so that its pages stay
    # shared.
    gc.disable()
    gc.collect()
    gc.freeze()
    template.tell(_READY)
    try:
        fork = template.serve()
    except Gone:
        return 0
    lifeline.close()
    return [os.fsdecode(argument) for argument in fork.arguments]


def _receive(connection: socket.socket) -> tuple[_Fields, list[int]]:
    """One message, and the descriptors that came with it."""
    # Nothing that is executed shall have them; `socket.recv_fds` does not pass its flags on.
    size = socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT.size)
    head, ancillary, _, _ = connection.recvmsg(_LENGTH.size, size, socket.MSG_CMSG_CLOEXEC)
    descriptors = [
        descriptor
        for level, kind, data in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        for (descriptor,) in _INT.iter_unpack(data[: len(data) // _INT.size * _INT.size])
    ]
    while 0 < len(head) < _LENGTH.size:
        more = connection.recv(_LENGTH.size - len(head))
        head += more
        if not more:
            break
    if len(head) < _LENGTH.size:
        raise Gone
    (length,) = _LENGTH.unpack(head)
    body = bytearray()
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            raise Gone
        body += part
    return _Fields(bytes(body)), descriptors


def _die_with(lifeline: socket.socket) -> None:
    """Has the kernel kill this process when the other end closes: no thread could, as there may be none."""
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, 10, signal.SIGKILL)  # F_SETSIG, fcntl(2)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    # It may have closed before anybody listened.
    if select.select([lifeline], [], [], 0)[0]:
        os._exit(0)


def _preload(paths: list[str], modules: list[str]) -> str:
    """Imports modules; what is wrong with one of them, or nothing."""
    import importlib

    for name in _OWN_MODULES:
        importlib.import_module(f"snakepit.{name}")
    sys.path[:] = [*paths, *(path for path in sys.path if path not in paths)]
    for name in modules:
        try:
            importlib.import_module(name)
        except BaseException as error:
            from snakepit import _errors

            return f"module {name!r} failed to import\n{_errors.format_one(error)}"
    return ""


class _Template:
    """The one process that forks all others."""

    def __init__(self, connection: socket.socket, safe: set[str]) -> None:
        self._connection = connection
        self._connection.setblocking(True)
        self._safe = safe
        self._children: dict[int, int] = {}
        self._marks = _Marks()
        self._woken, self._wakes = socket.socketpair()
        for end in (self._woken, self._wakes):
            end.setblocking(False)

    def tell(
        self, kind: int, fork: int = 0, value: int = 0, text: str = "", descriptor: int | None = None
    ) -> None:
        """One message in one piece, since the forked processes use the same connection."""
        encoded = text.encode(errors="replace")[-_LONGEST_TEXT:]
        head = _REPLY.pack(kind, len(encoded), value, fork)
        socket.send_fds(self._connection, [head, encoded], [] if descriptor is None else [descriptor])

    def serve(self) -> _Fork:
        """Forks on request, reaps, and tells of both. Returns in each process that is to serve calls."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._woken.fileno():
                    self._woken.recv(4096)
                    self._reap()
                    continue
                fork = _Fork(*_receive(self._connection))
                if self._fork(fork):
                    return fork

    def _reap(self) -> None:
        # What a module started while it was imported is reaped as well: nobody else is there to do it.
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            fork = self._children.pop(pid, None)
            if fork is not None:
                self.tell(_EXITED, fork, status)

    def _fork(self, fork: _Fork) -> bool:
        """``True`` in the process that is to serve calls."""
        try:
            threads = self._threads()
            if threads:
                self.tell(_REFUSED, fork.id, text=", ".join(threads))
                return False
            try:
                pid = os.fork()
            except OSError as error:
                self.tell(_REFUSED, fork.id, error.errno or errno.EAGAIN, "fork")
                return False
            if pid == 0:
                self._become(fork)
                return True
            self._children[pid] = fork.id
            return False
        finally:
            for descriptor in fork.descriptors:
                os.close(descriptor)

    def _threads(self) -> list[str]:
        """Threads that a fork would leave behind in the middle of whatever they do."""
        tasks = os.listdir("/proc/self/task")
        if len(tasks) == 1:
            return []
        threading = sys.modules.get("threading")
        known = {} if threading is None else {each.native_id: each.name for each in threading.enumerate()}
        found = []
        for task in map(int, tasks):
            if task == get_native_id():
                continue
            try:
                with open(f"/proc/self/task/{task}/comm") as file:
                    name = file.read().rstrip("\n")
            except OSError:
                # It has just ended.
                continue
            if name not in self._safe:
                found.append(known.get(task, name))
        return found

    def _become(self, fork: _Fork) -> None:
        """Makes this forked process the one that was asked for; another program is held at its gate."""
        step = "set up"
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            for number, descriptor in enumerate(fork.descriptors[:3]):
                os.dup2(descriptor, number)
            if fork.cwd:
                step = "change the directory"
                os.chdir(fork.cwd)
            step = "set the environment"
            environment = dict(variable.split(b"=", 1) for variable in fork.environment)
            self._marks.write(environment)
            held = os.pidfd_open(os.getpid())
            self.tell(_HELD, fork.id, descriptor=held)
            os.close(held)
        except BaseException as error:
            code = error.errno if isinstance(error, OSError) else None
            self.tell(_REFUSED, fork.id, code or errno.EINVAL, f"{step}: {error}")
            os._exit(1)
        if fork.program:
            _execute(fork, environment)
        for end in (self._connection, self._woken, self._wakes):
            end.close()
        _replace_environment(environment)
        # The module `random` sees to itself after a fork, NumPy's does not: all workers would draw the same.
        random = sys.modules.get("numpy.random")
        if random is not None:
            random.seed()
        gc.enable()


def _execute(fork: _Fork, environment: dict[bytes, bytes]) -> None:
    """Executes a program once the gate opens, and never returns."""
    gate = socket.socket(fileno=os.dup(fork.descriptors[3]))
    try:
        if not gate.recv(1):
            os._exit(0)
        # Which Python ignores; and what is ignored stays so.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(fork.program, fork.arguments, environment)
    except OSError as error:
        gate.sendall(_LENGTH.pack(error.errno or 0))
    finally:
        os._exit(127)


def _replace_environment(environment: dict[bytes, bytes]) -> None:
    for name in set(os.environb) - set(environment):
        del os.environb[name]
    for name, value in environment.items():
        if os.environb.get(name) != value:
            os.environb[name] = value


class _Marks:
    """Where this process's environment lies in its memory, as ``/proc/PID/environ`` shows it.

    What a worker leaves behind is found by the worker id that stands there, and a forked process has that of
    its template. Its own is written into room that the template was given for it.
    """

    def __init__(self) -> None:
        with open("/proc/self/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        # Fields 50 and 51 of proc_pid_stat(5); the first one here is the third.
        start, end = int(fields[47]), int(fields[48])
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            block = os.pread(memory.fileno(), end - start, start)
        self._own = start + _find(block, _WORKER_ID)
        self._room = start + _find(block, _ROOM)
        self._size = block.index(b"\0", self._room - start) - (self._room - start)

    def write(self, environment: dict[bytes, bytes]) -> None:
        """Writes the worker id of this environment."""
        name = _WORKER_ID.encode()
        mark = name + b"=" + environment[name]
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            os.pwrite(memory.fileno(), b"_", self._own)
            os.pwrite(memory.fileno(), mark.ljust(self._size, b"\0"), self._room)


def _find(block: bytes, name: str) -> int:
    """Where a variable begins."""
    return (b"\0" + block).index(f"\0{name}=".encode())
