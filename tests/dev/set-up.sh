#!/bin/sh
# Make .venv in this checkout, with everything that dev, demo and the tests need. A second run finds it made; delete
# .venv to make it with another Python. On a Debian that lacks Python, its venv module or a library of mongod, root
# gets them installed.
set -eu
CDPATH='' cd "$(dirname "$0")/../.."

fail() {
    echo "set-up: $*" >&2
    exit 1
}

# quietly MESSAGE COMMAND...: run the command; when it fails, print its reason in one line and stop.
quietly() {
    message=$1
    shift
    output=$("$@" 2>&1 </dev/null) && return
    reason=$(printf '%s\n' "$output" | grep -E 'connection broken|No space left|^ERROR' | head -n 1)
    [ -n "$reason" ] || reason=$(printf '%s\n' "$output" | grep . | tail -n 1)
    fail "$message: $reason"
}

debian() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "Please install first: $*"
    apt-get update -qq >/dev/null 2>&1 || true # perhaps older lists are there; the next line tells
    quietly "apt-get could not install $*" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qqy --no-install-recommends -o DPkg::Lock::Timeout=60 "$@"
}

# find_python MODULES: print the first Python on PATH that fits; of a virtual environment, the one that it was made with.
find_python() (
    IFS=:
    for folder in $PATH; do
        for name in python3 python3.14 python3.13 python3.12 python3.11; do
            [ -x "$folder/$name" ] && "$folder/$name" -c "import $1
fits = (3, 11) <= sys.version_info[:2] <= (3, 14) and sys.implementation.name == 'cpython'
sys.exit(not fits or print(sys._base_executable))" 2>/dev/null && return
        done
    done
    return 1
)

# Print, to be evaluated, those of pip's settings that say where packages come from and how to get there; for uv, too.
# (`pip config list` would leave out most of them where one of them is `user`.)
package_settings() {
    debug=$(.venv/bin/python -m pip config debug -vvv) && printf '%s\n' "$debug" | .venv/bin/python -c '
import configparser, os, re, shlex, sys
uv_names = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_EXTRA_INDEX_URL", "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST", "proxy": "ALL_PROXY", "cert": "SSL_CERT_FILE", "client-cert": "SSL_CLIENT_CERT",
    "keyring-provider": "UV_KEYRING_PROVIDER", "timeout": "UV_HTTP_TIMEOUT", "default-timeout": "UV_HTTP_TIMEOUT",
    "retries": "UV_HTTP_RETRIES", "cache-dir": None, "no-cache-dir": "UV_NO_CACHE",
}
files = re.findall("^ +(/.*), exists: True$", sys.stdin.read(), re.MULTILINE)
parser = configparser.RawConfigParser()
parser.read(sorted(files, key=lambda path: path == os.environ.get("PIP_CONFIG_FILE")))
sections = [dict(parser[name]) for name in ("global", "install") if name in parser]
settings = {name.replace("_", "-"): value for section in sections for name, value in section.items()}
for name in uv_names:
    value = os.environ.get("PIP_" + name.upper().replace("-", "_")) or settings.get(name)
    for variable in filter(None, ["PIP_" + name.upper().replace("-", "_"), uv_names[name]] if value else []):
        print("export", variable + "=" + shlex.quote(" ".join(value.split())))'
}

# What .venv was made from, for which folder and by which Python.
stamp() {
    cksum docker/requirements/dev.txt docker/requirements/build.txt docker/requirements/uv.txt pyproject.toml &&
        .venv/bin/python -c 'import sys; print(sys.version, sys.prefix)'
}

forget() {
    for name in $(env | sed -nE "s/^($1)=.*/\1/p"); do unset "$name"; done
}

# One run at a time; another one waits, and then finds everything made.
exec 9<pyproject.toml
! command -v flock >/dev/null || flock 9

# Settings of the user's that would lead Python or pip elsewhere are not for this script.
forget 'PYTHON[A-Z0-9_]*|VIRTUAL_ENV|PIP_(PYTHON|QUIET|LOG)'
if ! made=$(stamp 2>/dev/null) || [ "$(cat .venv/set-up 2>/dev/null)" != "$made" ]; then
    if ! python=$(find_python sys,ensurepip,venv); then
        if find_python sys >/dev/null || ! command -v python3 >/dev/null; then debian python3-venv; fi
        python=$(find_python sys,ensurepip,venv) || fail "Python 3.11 to 3.14, with its venv module, is not on PATH."
    fi
    echo "Setting up .venv with $("$python" --version) ..."
    rm -rf .venv
    quietly ".venv could not be made" "$python" -m venv .venv
    settings=$(package_settings) || fail "pip's configuration could not be read."
    forget '(PIP|UV)_[A-Z0-9_]*'
    eval "$settings"
    export PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1
    pip() { quietly "The packages could not be installed" .venv/bin/python -m pip -q "$@"; }
    # The lock files are complete: there is nothing to resolve, and nothing published later can change what is installed.
    locked="--no-deps --require-hashes --only-binary=:all:"
    files="-r docker/requirements/dev.txt -r docker/requirements/build.txt"
    # uv takes a third of pip's time; where it cannot be had, or cannot reach the index in its way, pip does the same.
    (pip install $locked --no-compile --retries 1 -r docker/requirements/uv.txt) 2>/dev/null &&
        .venv/bin/uv pip install -q --no-config --python .venv/bin/python --index-strategy unsafe-best-match \
            $locked $files >/dev/null 2>&1 ||
        pip install $locked --no-compile $files
    pip install --no-deps --no-index --no-build-isolation --editable .
    pip check
    # Compile what each of the broker's processes imports: where PYTHONDONTWRITEBYTECODE is set, each would do so anew.
    .venv/bin/python -c "$(printf 'import %s\n' \
        celery.apps.worker celery.bin.celery celery.concurrency.thread celery.worker.strategy flower.command \
        gunicorn.workers.gthread tests.dev.command tests.dev.demo tests.emulator.app workers.maintenance.check workers.tasks)" \
        >/dev/null 2>&1 || true
    stamp >.venv/set-up || fail "The disk is full."
fi

mongod=$(echo .venv/lib/python3*/site-packages/fiftyone/db/bin/mongod)
if ! command -v mongod >/dev/null && ldd "$mongod" 2>/dev/null | grep -q 'not found'; then
    debian libcurl4 liblzma5 libssl3
fi
echo "Everything is in .venv: $(.venv/bin/python --version)."
