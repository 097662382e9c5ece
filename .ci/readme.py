#!/usr/bin/env python3
"""Fails when README.md shows a command that does not exist.

Looks at every line of its shell blocks: `cargo run ... -- SUB` and `snakepit SUB` must name a subcommand of the
built program, `cargo bench --bench NAME` a bench target, and the two commands a fresh machine needs must be there.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

REQUIRED = ("cargo run --release -- demo", "cargo test --workspace")
SHELL = re.compile(r"^```(?:sh|shell|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def subcommand(line: str) -> str | None:
    """The subcommand of our program that a line calls."""
    found = re.match(r"(?:cargo run\b[^#]*? -- |(?:\S*/)?snakepit )(?:-{2}\S+ )*([a-z][a-z-]*)", line)
    return found.group(1) if found else None


def main() -> int:
    """Tries each distinct subcommand with --help."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], check=True, stdout=subprocess.PIPE
    )
    facts = json.loads(metadata.stdout)
    program = Path(facts["target_directory"]) / "debug" / "snakepit"
    benches = {
        target["name"] for package in facts["packages"] for target in package["targets"] if "bench" in target["kind"]
    }
    text = Path("README.md").read_text(encoding="utf-8")
    lines = [line.strip().removeprefix("$ ") for block in SHELL.findall(text) for line in block.splitlines()]
    problems = [f"README.md does not show `{command}`" for command in REQUIRED if command not in lines]
    for name in re.findall(r"cargo bench\b.*?--bench (\S+)", "\n".join(lines)):
        if name not in benches:
            problems.append(f"README.md shows a bench target that does not exist: {name}")
    for name in sorted({name for name in map(subcommand, lines) if name}):
        answer = subprocess.run([program, name, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"{name}: {'there' if answer.returncode == 0 else 'MISSING'}")
        if answer.returncode:
            problems.append(f"README.md shows a subcommand that does not exist: {name}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
