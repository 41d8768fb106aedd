#!/bin/sh
# Bring .venv up to date with a requirements file: ops/venv.sh requirements-local.txt
# Does nothing, fast, when that has been done. PYTHON names the interpreter to build it from.
set -eu
requirements=$1
python=${PYTHON:-python3}
venv=.venv
stamp=$venv/installed-$requirements

fail() {
    echo "make: $*" >&2
    exit 1
}

fingerprint() {
    cksum < "$requirements"
}

# Two makes at once on a fresh checkout: the second waits for the first. (Where flock is missing, they may collide.)
if command -v flock >/dev/null 2>&1 && [ "${WALLET_VENV_LOCKED:-}" != yes ]; then
    WALLET_VENV_LOCKED=yes exec flock .venv.lock sh "$0" "$@"
fi

# An environment whose interpreter has been upgraded or removed is built anew.
if [ -d "$venv" ] && ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    rm -rf "$venv"
fi
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
    exit 0
fi

if [ ! -x "$venv/bin/pip" ]; then
    command -v "$python" >/dev/null 2>&1 || fail "$python was not found: install Python 3.11 or newer, or set PYTHON to one"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version 2>&1) is too old: install Python 3.11 or newer, or set PYTHON to one"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt install python3-venv)"
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "the virtual environment could not be made"
fi
echo "installing $requirements into $venv (once; takes about a minute)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r "$requirements" ||
    fail "the packages could not be installed"
fingerprint > "$stamp"
