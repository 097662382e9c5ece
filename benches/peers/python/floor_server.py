"""The floor: an echo loop over one Unix socket connection, with nothing around it.

Messages are a 4-byte big-endian length and that many bytes. The loop ends with its connection, so it cannot
outlive the benchmark.
"""

import socket
import sys

from echo_adapter import echo

HEADER = 4


def serve(connection: socket.socket) -> None:
    """Answers messages until the peer closes the connection."""
    buffer = bytearray(64 * 1024)
    while True:
        # One recv usually brings a small message whole, as a careful hand-written loop would have it.
        have = connection.recv_into(buffer)
        if not have:
            return
        while have < HEADER:
            have += connection.recv_into(memoryview(buffer)[have:])
        need = HEADER + int.from_bytes(buffer[:HEADER], "big")
        if need > len(buffer):
            buffer.extend(bytes(need - len(buffer)))
        view = memoryview(buffer)
        while have < need:
            have += connection.recv_into(view[have:need])
        connection.sendall(echo(view[:need]))
        view.release()


def main() -> None:
    """Listens on the path given, tells so, serves one connection."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(sys.argv[1])
    listener.listen(1)
    listener.settimeout(30)
    print("ready", flush=True)
    connection, _ = listener.accept()
    connection.settimeout(None)
    serve(connection)


if __name__ == "__main__":
    main()
