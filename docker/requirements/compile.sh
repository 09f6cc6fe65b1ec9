#!/bin/sh
# Makes the four requirement files anew; needs pip-tools and Python 3.11, the images' Python.
# Pins that still fit are kept; `docker/requirements/compile.sh --upgrade` moves all of them.
# The order matters: worker.txt decides the versions that api.txt and dev.txt repeat.
set -eu
cd "$(dirname "$0")/../.."
export CUSTOM_COMPILE_COMMAND="docker/requirements/compile.sh"
# No index, host or path of whoever runs this goes into the files.
lock() {
    pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host "$@"
}
lock --output-file docker/requirements/worker.txt "$@" pyproject.toml
lock --output-file docker/requirements/api.txt "$@" --constraint docker/requirements/worker.txt docker/requirements/api.in
lock --output-file docker/requirements/dev.txt "$@" --extra dev --constraint docker/requirements/worker.txt pyproject.toml
lock --output-file docker/requirements/build.txt "$@" --only-build-deps --build-deps-for wheel pyproject.toml
