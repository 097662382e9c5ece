"""The peer: an ordinary grpcio server for the very `snakepit.worker.v1.Worker/Call` that our workers serve.

Usage: grpcio_server.py SOCKET STUBS LIBRARY. Prints `ready` when it serves and ends at end-of-file on stdin,
so it cannot outlive the benchmark.
"""

import os
import sys
from concurrent import futures

sys.path.insert(0, sys.argv[2])

import grpc  # noqa: E402
from echo_adapter import echo  # noqa: E402
from snakepit.worker.v1 import worker_pb2, worker_pb2_grpc  # noqa: E402
from worker_side import bring  # noqa: E402

# One call at a time, as our worker does it. Four and sixteen threads were tried and served it worse or no
# better, since they wait for each other's GIL.
THREADS = 1


class Echo(worker_pb2_grpc.WorkerServicer):
    """Answers the encoded arguments as they came: this peer pays for no decoding."""

    def Call(self, request, context):  # noqa: N802 - the name is the protocol's
        """Answers the arguments of the request."""
        return worker_pb2.CallResponse(call_id=request.call_id, value=echo(request.args))


def main() -> None:
    """Serves until stdin closes."""
    bring(sys.argv[3])
    server = grpc.server(
        futures.ThreadPoolExecutor(max_workers=THREADS),
        options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
    )
    worker_pb2_grpc.add_WorkerServicer_to_server(Echo(), server)
    server.add_insecure_port(f"unix:{sys.argv[1]}")
    server.start()
    print("ready", flush=True)
    sys.stdin.buffer.read()
    # The pool's threads would be joined by a normal exit.
    os._exit(0)


if __name__ == "__main__":
    main()
