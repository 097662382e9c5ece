# Sourced by .ci/run: finds a Python that can make virtual environments, which Debian's cannot until a package is
# added. Sets PYTHON.

# Whether an interpreter is new enough and has what `python -m venv` needs. Prints the real one, never a version
# manager's shim.
suitable_python() {
    "$1" -c 'import ensurepip, os, sys, venv
assert sys.version_info >= (3, 11)
print(os.path.realpath(sys.executable))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11 \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
        if PYTHON=$(suitable_python "$candidate"); then
            printf 'using %s\n' "$PYTHON"
            return
        fi
    done
    if command -v apt-get >/dev/null && ((EUID == 0)); then
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3-venv
        if PYTHON=$(suitable_python /usr/bin/python3); then
            printf 'using %s\n' "$PYTHON"
            return
        fi
    fi
    printf 'no python3 of version 3.11 or newer that can make virtual environments; on Debian: apt-get install python3-venv\n' >&2
    return 1
}
