#!/usr/bin/env python3
"""Counts the instructions that the host spends on a call, and fails when they are over 5% more than they were.

Needs valgrind; on Debian it is installed where that is allowed. Two runs that differ only in their number of calls give the
share of a single one, whatever else the program does. `--write` records what is counted as the new measure.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "snakepit-core/benches/callpath/baseline.json"
# A count is repeated to about 1%: how often the host waits for the worker is not always the same.
TOLERANCE = 0.05
# Calls of the shorter and the longer run, of each kind.
KINDS = {"small": (500, 1500), "kilobyte": (500, 1500), "callers": (800, 2400), "stream": (2000, 6000)}


def find_valgrind() -> str:
    """The path of valgrind, which is installed if it has to be."""
    if shutil.which("valgrind") is None and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(["apt-get", "update", "-q"], check=True)
        install = ["apt-get", "install", "-qy", "--no-install-recommends", "valgrind"]
        subprocess.run(install, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    path = shutil.which("valgrind")
    if path is None:
        sys.exit("there is no valgrind; on Debian: apt-get install valgrind")
    return path


def build() -> str:
    """Builds the program that is counted, as `cargo build --release` would; its path."""
    command = ["cargo", "bench", "--locked", "--profile", "release", "-p", "snakepit-core", "--bench", "callpath"]
    command += ["--no-run", "--message-format=json"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE)
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "callpath":
            return message["executable"]
    sys.exit("cargo named no program for the bench callpath")


def count(valgrind: str, program: str, kind: str, calls: int) -> int:
    """Instructions of a whole run."""
    with tempfile.TemporaryDirectory() as directory:
        out = f"--callgrind-out-file={directory}/out"
        command = [valgrind, "--tool=callgrind", out, program, kind, str(calls)]
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    counted = re.search(r"Collected : (\d+)", run.stderr)
    if run.returncode != 0 or counted is None:
        sys.exit(f"{' '.join(command)} failed:\n{run.stdout}{run.stderr}")
    return int(counted[1])


def per_call(valgrind: str, program: str, kind: str) -> int:
    """Instructions of one call, or of one item of a stream."""
    few, many = KINDS[kind]
    return round((count(valgrind, program, kind, many) - count(valgrind, program, kind, few)) / (many - few))


def main() -> None:
    """Counts, and compares or records."""
    valgrind, program = find_valgrind(), build()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = dict(zip(KINDS, pool.map(lambda kind: per_call(valgrind, program, kind), KINDS), strict=True))
    rustc = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.strip()
    if "--write" in sys.argv[1:]:
        BASELINE.write_text(json.dumps({"rustc": rustc, "instructions": counts}, indent=2) + "\n")
        print(f"recorded {counts}")
        return
    baseline = json.loads(BASELINE.read_text())
    worse = False
    for kind, now in counts.items():
        before = baseline["instructions"][kind]
        ratio = now / before
        verdict = "MORE" if ratio > 1 + TOLERANCE else "fewer: record it" if ratio < 1 - TOLERANCE else "ok"
        worse |= verdict == "MORE"
        print(f"{kind:>10}: {now:>7} instructions, {before:>7} recorded, {ratio:.3f}x  {verdict}")
    if worse and baseline["rustc"] != rustc:
        print(f"recorded with {baseline['rustc']}, counted with {rustc}: not comparable; run .ci/callpath.py --write")
    elif worse:
        sys.exit("the host spends more on a call than it did; if that is meant: .ci/callpath.py --write")


if __name__ == "__main__":
    main()
