#!/usr/bin/env python3
"""Fails when README.md shows a command or a file that does not exist.

Looks at every line of its shell blocks: `cargo run ... -- SUB` and `snakepit SUB` must name a subcommand of the
built program and options of it, `cargo bench --bench NAME` a bench target, and the two commands a fresh machine
needs must be there. Links to files of this repository must lead somewhere.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

REQUIRED = ("cargo run --release -- demo", "cargo test --workspace --all-features")
SHELL = re.compile(r"^```(?:sh|shell|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown(lines: list[str]) -> dict[str, set[str]]:
    """The subcommands of our program that lines call, each with the long options given to it."""
    found: dict[str, set[str]] = {}
    for line in lines:
        call = re.match(r"(?:cargo run\b.*? -- |(?:\S*/)?snakepit )([a-z][a-z-]*)(.*)", line)
        if call:
            found.setdefault(call.group(1), set()).update(re.findall(r"(?<=\s)--[a-z][a-z-]*", call.group(2)))
    return found


def main() -> int:
    """Tries each distinct subcommand with --help, then the links."""
    metadata = subprocess.run(
        ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"], check=True, stdout=subprocess.PIPE
    )
    facts = json.loads(metadata.stdout)
    program = Path(facts["target_directory"]) / "debug" / "snakepit"
    benches = {
        target["name"] for package in facts["packages"] for target in package["targets"] if "bench" in target["kind"]
    }
    text = Path("README.md").read_text(encoding="utf-8")
    blocks = (block.splitlines() for block in SHELL.findall(text))
    lines = [re.split(r"\s#\s", line)[0].strip().removeprefix("$ ") for block in blocks for line in block]
    problems = [f"README.md does not show `{command}`" for command in REQUIRED if command not in lines]
    for name in re.findall(r"cargo bench\b.*?--bench (\S+)", "\n".join(lines)):
        if name not in benches:
            problems.append(f"README.md shows a bench target that does not exist: {name}")
    for name, options in sorted(shown(lines).items()):
        answer = subprocess.run([program, name, "--help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if answer.returncode:
            problems.append(f"README.md shows a subcommand that does not exist: {name}")
            continue
        missing = {option for option in options if not re.search(rf"{option}\b", answer.stdout)}
        problems.extend(f"README.md shows an option that `{name}` does not have: {option}" for option in missing)
        print(f"{name} {' '.join(sorted(options))}".rstrip())
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        if not Path(link).exists():
            problems.append(f"README.md links to a file that does not exist: {link}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
