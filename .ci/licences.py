#!/usr/bin/env python3
"""Fails when a dependency has a licence outside the list, or comes from elsewhere than the registry; lists duplicates.

A licence expression passes when one of its alternatives consists of listed licences only.
"""

import json
import re
import subprocess
import sys

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}

# Compiling two versions of these is paid for by every build; any other duplicate is only told.
SINGLE = {"bytes", "http", "hyper", "prost", "pyo3", "rustix", "serde", "tokio", "tonic", "tracing"}


def passes(expression: str) -> bool:
    """Evaluates an SPDX expression over the list: AND binds closer than OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))
    position = 0

    def peek() -> str:
        return tokens[position] if position < len(tokens) else ""

    def take() -> str:
        nonlocal position
        position += 1
        return tokens[position - 1]

    def term() -> bool:
        if peek() == "(":
            take()
            inside = either()
            take()
            return inside
        name = take()
        if peek() == "WITH":
            name = f"{name} {take()} {take()}"
        return name in ALLOWED

    def both() -> bool:
        result = term()
        while peek() == "AND":
            take()
            result = term() and result
        return result

    def either() -> bool:
        result = both()
        while peek() == "OR":
            take()
            result = both() or result
        return result

    return either()


def main() -> int:
    """Judges every package of the lock file that can be built here."""
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    metadata = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    members = set(metadata["workspace_members"])
    problems = []
    versions: dict[str, set[str]] = {}
    for package in metadata["packages"]:
        name, version = package["name"], package["version"]
        versions.setdefault(name, set()).add(version)
        licence = package["license"]
        if not licence:
            problems.append(f"{name} {version} states no licence expression")
        elif not passes(licence):
            problems.append(f"{name} {version} is licensed {licence}, which is not on the list")
        source = package["source"]
        if package["id"] not in members and not (source or "").startswith("registry+"):
            problems.append(f"{name} {version} comes from {source or 'a path outside the workspace'}")
    duplicates = {name: sorted(found) for name, found in sorted(versions.items()) if len(found) > 1}
    for name, found in duplicates.items():
        if name in SINGLE:
            problems.append(f"{name} is there in versions {', '.join(found)}; one must do")
    print(f"{len(metadata['packages'])} packages, {len(duplicates)} in several versions:")
    for name, found in duplicates.items():
        print(f"  {name} {', '.join(found)}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
