"""The peer: a grpc.aio server for the very `snakepit.worker.v1.Worker/Call` that our workers serve.

Usage: grpcio_aio_server.py SOCKET STUBS LIBRARY. Prints `ready` when it serves and ends at end-of-file on
stdin, so it cannot outlive the benchmark.
"""

import asyncio
import os
import sys
import threading

sys.path.insert(0, sys.argv[2])

import grpc  # noqa: E402
from echo_adapter import echo  # noqa: E402
from snakepit.worker.v1 import worker_pb2, worker_pb2_grpc  # noqa: E402
from worker_side import bring  # noqa: E402


class Echo(worker_pb2_grpc.WorkerServicer):
    """Answers the encoded arguments as they came, on the event loop: it pays for no decoding, no thread."""

    async def Call(self, request, context):  # noqa: N802 - the name is the protocol's
        """Answers the arguments of the request."""
        return worker_pb2.CallResponse(call_id=request.call_id, value=echo(request.args))


def end_with_stdin() -> None:
    """Ends the process when the benchmark closes its input."""
    sys.stdin.buffer.read()
    os._exit(0)


async def main() -> None:
    """Serves for ever."""
    bring(sys.argv[3])
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.aio.server(options=options)
    worker_pb2_grpc.add_WorkerServicer_to_server(Echo(), server)
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    await server.start()
    print("ready", flush=True)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
