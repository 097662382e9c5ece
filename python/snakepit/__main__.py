"""``python -m snakepit``: serves as a worker."""

from __future__ import annotations

import os
import sys

USAGE = """\
usage: python -m snakepit [ADAPTER ...] [--path DIR ...] [--threads N | --asyncio N]

Serves Python functions as a Snakepit worker. A host starts workers itself; by hand, say where to listen:

    SNAKEPIT_CHANNEL=unix:/tmp/worker.sock python -m snakepit my_adapter --path .

  ADAPTER      a module to import first; its functions can be called by bare name
  --path DIR   a directory to put in front of the module search path; may be repeated
  --threads N  run up to N calls at the same time, each on a thread of its own
  --asyncio N  run up to N calls at the same time: async functions on one event loop, others on threads
  --help       this text

environment:
  SNAKEPIT_CHANNEL   fd:0 (the default: a socket from a host), unix:PATH or tcp:HOST:PORT
"""


def main(arguments: list[str]) -> int:
    """Runs the worker; returns only when there is nothing to serve."""
    if arguments == ["--template"]:
        from snakepit import _template

        forked = _template.main()
        return forked if isinstance(forked, int) else main(forked)
    adapters: list[str] = []
    paths: list[str] = []
    concurrency = {"--threads": 0, "--asyncio": 0}
    rest = iter(arguments)
    for argument in rest:
        if argument in ("-h", "--help"):
            print(USAGE, end="")
            return 0
        if argument == "--path" or argument.startswith("--path="):
            directory = argument[7:] if argument != "--path" else next(rest, "")
            if not os.path.isdir(directory):
                return refuse(f"--path must be followed by a directory, and {directory!r} is none")
            paths.append(os.path.abspath(directory))
        elif (option := argument.partition("=")[0]) in concurrency:
            count = argument.partition("=")[2] if "=" in argument else next(rest, "")
            if not (count.isascii() and count.isdigit()) or int(count) < 1:
                return refuse(f"{option} must be followed by a number of at least 1, not {count!r}")
            concurrency[option] = min(int(count), 2**32 - 1)
        elif argument.startswith("-"):
            options = "--path DIR, --threads N, --asyncio N and --help"
            return refuse(f"unknown option {argument!r}; the options are {options}")
        elif not all(part.isidentifier() for part in argument.split(".")):
            return refuse(
                f"an adapter is a module's dotted name, as in 'package.module', and {argument!r} is none"
            )
        else:
            adapters.append(argument)

    if all(concurrency.values()):
        return refuse("--threads and --asyncio exclude each other")
    # Taken out of the environment: it describes this process's channel, not that of its children.
    channel = os.environ.pop("SNAKEPIT_CHANNEL", "fd:0")
    try:
        from snakepit import _native
    except ImportError as error:
        return refuse(f"the native module of the package cannot be loaded: {error}")
    try:
        _native.serve(channel, adapters, paths, concurrency["--threads"], concurrency["--asyncio"])
    except (ValueError, OSError) as error:
        return refuse(str(error))
    return 0


def refuse(message: str) -> int:
    """Says what is wrong with the input; the status of bad usage."""
    print(f"snakepit: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
