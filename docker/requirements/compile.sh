#!/bin/sh
# Compile the lock files anew with the uv that tests/dev/set-up.sh has put into .venv.
# Pins that still fit are kept; `docker/requirements/compile.sh --upgrade` moves all of them.
# Each lock is complete, with markers, for every Python from 3.11.0 on: it is installed with --no-deps.
# The order matters: worker.txt sets the versions, and api.txt and dev.txt repeat them.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PWD/.venv/bin:$PATH
export UV_CUSTOM_COMPILE_COMMAND="docker/requirements/compile.sh"
lock() {
    file="docker/requirements/$1"
    shift
    # No index, host or path of the machine that runs this goes into the files.
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-config \
        --no-emit-index-url --no-emit-find-links --output-file "$file" "$@"
}
lock worker.txt "$@" pyproject.toml
lock api.txt "$@" --constraint docker/requirements/worker.txt docker/requirements/api.in
# cyclonedx-bom asks for the IRIs of jsonschema, whose grammar would be compiled at the start of each process: 2 s.
lock dev.txt "$@" --extra dev --extra tracing --constraint docker/requirements/worker.txt \
    --no-emit-package rfc3987-syntax --no-emit-package lark pyproject.toml
python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' |
    lock build.txt "$@" -
echo uv | lock uv.txt "$@" -
echo pip-audit | lock audit.txt "$@" --constraint docker/requirements/dev.txt -
