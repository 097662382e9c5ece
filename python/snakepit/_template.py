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
import socket
import sys
from _thread import get_native_id
from struct import Struct

from snakepit import _native

# Written out rather than imported: `typing` takes longer to import than the rest of a worker's start.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator
else:
    # What `signal` is made of, without the enums around it, whose pages each forked process would copy.
    import _signal as signal

# What a worker imports at its start, so that all of it is shared. `logging` is none of it: it has forked
# processes run code of `threading`, for which 110 pages more are copied. Where a preloaded module has
# imported it, our handler is imported as well.
_OWN_MODULES = ("_runtime", "_logs", "_resolve", "_errors", "_values", "_context")

# Fills the holes between all that was imported; and what a worker has no need of, but would write to if it
# gave it back.
_KEPT: list[object] = []

_VERSION = b"3"
_LENGTH = Struct("=I")
_REPLY = Struct("=BxHiQ")
_LONGEST_TEXT = 16_000

# The third is native: that a forked process is held.
_READY, _UNFIT, _, _REFUSED, _EXITED, _UNNESTED = range(1, 7)

# Names and marks as in the proto crate's `env`.
_WORKER_ID = "SNAKEPIT_WORKER_ID"
_ROOM = "SNAKEPIT_ROOM"


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
    setup = _native.receive_setup(lifeline.fileno())
    if setup is None or len(setup[1]) != 2:
        return 0
    fields, [descriptor, host] = iter(setup[0]), setup[1]
    if next(fields) != _VERSION:
        print("snakepit: the host and its worker package are of different versions", file=sys.stderr)
        return 2
    _die_with(lifeline)
    nested = next(fields) == b"nested"
    safe, paths, modules = (_list(fields) for _ in range(3))
    template = _Template(socket.socket(fileno=descriptor), set(safe))
    if nested:
        # A host may ignore it, and what is ignored stays so.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            template.nests = _native.Nests(host)
        except OSError as error:
            template.tell(_UNNESTED, text=str(error.strerror))
            return 0
    os.close(host)
    failure = _preload(paths, modules)
    if failure:
        template.tell(_UNFIT, text=failure)
        return 0
    # As the documentation of `gc` has it: what is there now is never looked at again, so that its pages stay
    # shared.
    gc.disable()
    gc.collect()
    gc.freeze()
    _fill_holes()
    _KEPT.append(template)
    try:
        fork = template.serve()
    except Gone:
        return 0
    lifeline.close()
    return [os.fsdecode(argument) for argument in fork.arguments]


def _list(fields: Iterator[bytes]) -> list[str]:
    """A number, and as many fields."""
    return [os.fsdecode(next(fields)) for _ in range(int(next(fields)))]


def _fill_holes() -> None:
    """Allocates what is free between things that are in use, and keeps it.

    What a forked process allocates lies together then. On pages of its template it would have each of them
    copied: a fourth of what a worker has for itself.
    """
    _native.fill_holes()
    # Python's own allocator: two of its pools for each of its sizes, from that of a float on.
    pools = 2 * 16384
    _KEPT.extend(float(number) for number in range(pools // 32))
    _KEPT.extend(bytes(size - 33) for size in range(48, 513, 16) for _ in range(pools // size))


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
    if "logging" in sys.modules:
        importlib.import_module("snakepit._handler")
    return ""


class _Template:
    """The one process that forks all others."""

    def __init__(self, connection: socket.socket, safe: set[str]) -> None:
        self._connection = connection
        self._connection.setblocking(True)
        self._safe = safe
        self.nests: _native.Nests | None = None
        # Which of them is for which request; of one in a namespace of its own, the namespace's first process.
        self._children: dict[int, int] = {}
        self._marks = _marks()
        self._woken, self._wakes = socket.socketpair()
        for end in (self._woken, self._wakes):
            end.setblocking(False)

    def tell(self, kind: int, fork: int = 0, value: int = 0, text: str = "") -> None:
        """One message in one piece, since the forked processes use the same connection."""
        encoded = text.encode(errors="replace")[-_LONGEST_TEXT:]
        head = _REPLY.pack(kind, len(encoded), value, fork)
        self._connection.sendmsg([head, encoded])

    def serve(self) -> _native.Fork:
        """Says that it is ready, forks on request, reaps, and tells of both. Returns in each worker."""
        self._forks = _native.Forks(self._connection.fileno(), dict(os.environb), *self._marks)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        self.tell(_READY)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._woken.fileno():
                    self._woken.recv(4096)
                    self._reap()
                    continue
                fork = self._forks.receive()
                if fork is None:
                    raise Gone
                if self._fork(fork):
                    return fork

    def _reap(self) -> None:
        # What a module started while it was imported is reaped as well: nobody else is there to do it.
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            fork = self._children.pop(pid, None)
            if fork is not None:
                self.tell(_EXITED, fork, status)

    def _fork(self, fork: _native.Fork) -> bool:
        """``True`` in the process that is to serve calls."""
        try:
            threads = self._threads()
            if threads:
                self.tell(_REFUSED, fork.id, text=", ".join(threads))
                return False
            try:
                pid = os.fork() if self.nests is None else self.nests.fork(self._forks, fork)
            except OSError as error:
                self.tell(_REFUSED, fork.id, error.errno or errno.EAGAIN, "fork")
                return False
            if pid == 0:
                self._become(fork)
                return True
            if pid is not None:
                self._children[pid] = fork.id
            return False
        finally:
            fork.close()

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

    def _become(self, fork: _native.Fork) -> None:
        """Makes this forked process the one that was asked for; another program is held at its gate."""
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._forks.hold(fork, self.nests is not None)
        except BaseException as error:
            code, text = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
            self.tell(_REFUSED, fork.id, code or errno.EINVAL, text or str(error))
            os._exit(1)
        if fork.program:
            _execute(fork)
        removed, changed = self._forks.changes(fork)
        for end in (self._connection, self._woken, self._wakes, self._forks):
            end.close()
        for name in removed:
            del os.environb[name]
        for name, value in changed:
            os.environb[name] = value
        # The module `random` sees to itself after a fork, NumPy's does not: all workers would draw the same.
        random = sys.modules.get("numpy.random")
        if random is not None:
            random.seed()
        gc.enable()


def _execute(fork: _native.Fork) -> None:
    """Executes a program once the gate opens, and never returns."""
    gate = socket.socket(fileno=fork.gate)
    try:
        if not gate.recv(1):
            os._exit(0)
        # Which Python ignores; and what is ignored stays so.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execve(fork.program, fork.arguments, fork.environment)
    except OSError as error:
        gate.sendall(_LENGTH.pack(error.errno or 0))
    finally:
        os._exit(127)


def _marks() -> tuple[int, int, int]:
    """Where the environment has the worker id of this process, and where room for another, and how much.

    As ``/proc/PID/environ`` shows it, which is where it lies in the memory of the process.
    """
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    # Fields 50 and 51 of proc_pid_stat(5); the first one here is the third.
    start, end = int(fields[47]), int(fields[48])
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        block = os.pread(memory.fileno(), end - start, start)
    room = _find(block, _ROOM)
    return start + _find(block, _WORKER_ID), start + room, block.index(b"\0", room) - room


def _find(block: bytes, name: str) -> int:
    """Where a variable begins."""
    return (b"\0" + block).index(f"\0{name}=".encode())
