#!/usr/bin/env bash
# Makes this checkout ready: the packages of poetry.lock in .venv, and the MLflow store in logs/mlruns.
#
#     bash scripts/setup.sh
#
# The other scripts call it first: when nothing has changed since the last time, it returns at once.
# In a linked git worktree, .venv has the packages of the main checkout's (scripts/share.py).
set -u
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# In an image (Dockerfile) the packages are there already, and a .venv here is that of another system.
if [ -n "${JIKKEN_VENV:-}" ]; then
    cmp -s poetry.lock "$JIKKEN_VENV/../poetry.lock" && exit 0
    echo "setup: poetry.lock is not the one that this image was built from: build the image again" >&2
    exit 1
fi

private_poetry=(poetry==2.5.1 poetry-plugin-pypi-mirror==0.6.5)
stamp=.venv/.jikken-ready        # what .venv was made from; written last
poetry=.poetry                   # a private one
unfinished=logs/setup.unfinished # lies there while packages are written
log=logs/setup.log
shared=.venv/shared-from # names the packages that a linked git worktree shares

signature() {
    {
        cat poetry.lock pyproject.toml scripts/setup.sh scripts/relocate.py .venv/pyvenv.cfg
        [ ! -f "$shared" ] || cat "$(cat "$shared")/../../../.jikken-ready"
    } 2>/dev/null | cksum
    pwd
}
# Without PYTHONPATH and the working directory: what any program that runs in .venv imports.
imports_this_folder() {
    .venv/bin/python -I -c 'import os, sys, src; sys.exit(not os.path.samefile(src.__path__[0], "src"))' 2>/dev/null
}
ready() { [ "$(cat "$stamp" 2>/dev/null)" = "$(signature)" ] && imports_this_folder; }
ready && exit 0

fail() {
    echo "setup: $*" >&2
    exit 1
}

# The path of the first suitable Python, seen through pyenv's shims and active environments.
find_python() {
    local name answer found=""
    for name in python3 python python3.13 python3.12 python3.11; do
        answer=$("$name" -c '
import sys
print("%d.%d.%d" % sys.version_info[:3])
print(getattr(sys, "_base_executable", sys.executable))
sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null) && python=${answer#*$'\n'} && return
        [ -n "$answer" ] && found="$found, $name is ${answer%%$'\n'*}"
    done
    found=${found#, }
    fail "Python 3.11, 3.12 or 3.13 is needed, but ${found:-there is none on the PATH}: install one and call again"
}

# The main checkout, where this is a linked git worktree; else this folder.
find_main_checkout() {
    main=$("$python" -c 'from src.utils.paths import MAIN_CHECKOUT; print(MAIN_CHECKOUT)' 2>/dev/null) || main=$PWD
    [ "$(cat "$main/.poetry/.jikken-ready" 2>/dev/null)" != "${private_poetry[*]}" ] || poetry=$main/.poetry
}

# The log is also the lock: the system lets go of it whatever ends us.
take_lock() {
    mkdir -p logs 2>/dev/null
    { exec 9>>"$log"; } 2>/dev/null || fail "can't write to $PWD/$log"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null && return
    echo "Another setup is at work here: waiting for it …"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
}

# step WHAT COMMAND…: runs the command with its output in the log, and shows what takes how long.
step() {
    local what=$1 started=$SECONDS status=0
    shift
    [ -t 1 ] || echo "$what …"
    echo >>"$log"
    set -m # a process group of its own, which can be ended whole
    "$@" >>"$log" 2>&1 </dev/null &
    set +m
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        [ -t 1 ] && printf '\r\033[K%s … %d s %.50s' "$what" $((SECONDS - started)) "$(tail -n 1 "$log")"
        sleep 0.5
    done
    wait "$job" || status=$?
    [ -t 1 ] && printf '\r\033[K'
    [ "$status" -gt 128 ] && fail "$what: killed from outside, for want of memory perhaps; call again"
    [ "$status" = 0 ] && echo "$what: $((SECONDS - started)) s"
    return "$status"
}

interrupted() {
    [ -n "${job:-}" ] && kill -- "-$job" 2>/dev/null && wait "$job" 2>/dev/null
    grep -q '^  - ' "$log" || rm -f "$unfinished" # Poetry had not begun to write
    [ -t 1 ] && printf '\r\033[K'
    echo "setup: interrupted; call again to go on" >&2
    exit 130
}

# After an interruption a package may look installed and lack files: only a new .venv is sure to be whole.
clear_half_made() {
    if [ -d .venv ] && [ -e "$unfinished" ]; then
        echo "The last setup was cut short: making .venv anew"
    elif [ -d .venv ] && ! .venv/bin/python -c '' 2>/dev/null; then
        echo "The Python of .venv is gone: making .venv anew"
    elif [ -f "$shared" ] && [ ! -d "$(cat "$shared")" ]; then
        echo "The packages that .venv shares are gone: making .venv anew"
    else
        return
    fi
    rm -rf .venv
}

# A project that has .venv as a link shares it with the original, and would take it over.
refuse_shared() {
    local owner
    owner=$(sed -n 2p "$stamp" 2>/dev/null)
    [ "$main" = "$PWD" ] || owner=$main
    [ ! -L .venv ] || [ -z "$owner" ] || [ "$owner" = "$PWD" ] || [ ! .venv -ef "$owner/.venv" ] ||
        fail ".venv is a link to that of $owner: remove the link (rm .venv) and call again"
}

# A linked git worktree gets an environment of its own with the packages of the main checkout, if that has any.
share_packages() {
    [ "$main" != "$PWD" ] && [ ! -e .venv ] && "$main/.venv/bin/python" -c '' 2>/dev/null || return 0
    [ ! -e "$main/$unfinished" ] || fail "the setup of $main is not finished: wait for it, or call it again there"
    "$main/.venv/bin/python" -I scripts/share.py >>"$log" 2>&1 && echo "Packages are those of $main/.venv" && return
    rm -rf .venv
    fail "can't share the packages of $main/.venv: $(tail -n 1 "$log") (see $PWD/$log)"
}

# A moved or copied .venv belongs to another folder.
relocate() {
    .venv/bin/python -I scripts/relocate.py >>"$log" 2>&1 ||
        fail "the paths in .venv can't be brought up to date: $(tail -n 1 "$log") (see $PWD/$log)"
}

make_private_poetry() {
    [ "$(cat "$poetry/.jikken-ready" 2>/dev/null)" = "${private_poetry[*]}" ] && "$poetry/bin/python" -c '' && return
    rm -rf "$poetry"
    "$python" -m venv "$poetry" &&
        "$poetry/bin/python" -m pip install --no-input --retries 2 "${private_poetry[@]}" &&
        echo "${private_poetry[*]}" >"$poetry/.jikken-ready"
}

# Where pip looks for packages.
pip_index() {
    echo "${PIP_INDEX_URL:-$("$poetry/bin/python" -m pip config get global.index-url 2>/dev/null ||
        "$poetry/bin/python" -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)')}"
}

# install_packages POETRY…
install_packages() {
    : >"$unfinished"
    [ -d .venv ] || "$@" env use "$python" || return
    "$@" install --no-interaction && rm "$unfinished"
}

with_installed_poetry() {
    [[ "$(poetry --version 2>/dev/null)" == *"version 2."* ]] || return
    echo "[1/4] Poetry: the one on the PATH"
    step "[2/4] Packages" install_packages poetry && return
    { lock_outdated || disk_full; } && give_up
    echo "The Poetry on the PATH failed: trying again with a private one"
    return 1
}

# Plain Poetry asks for files that many index mirrors don't serve; with this plugin it asks for what pip asks for.
with_private_poetry() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module: install it (Debian, Ubuntu: apt install python3-venv) and call again"
    step "[1/4] Poetry" make_private_poetry || give_up
    POETRY_PYPI_MIRROR_URL=${POETRY_PYPI_MIRROR_URL:-$(pip_index)}
    export POETRY_PYPI_MIRROR_URL
    step "[2/4] Packages" install_packages "$poetry/bin/python" -m poetry || give_up
}

# Where Python is told to write no bytecode, every start would compile anew.
compile_bytecode() {
    .venv/bin/python -m compileall -qq -j 0 .venv/lib || true # some packages bring files for Python 2
}

says() { grep -qiE "$1" "$log"; }
lock_outdated() { says 'poetry.lock was last generated'; }
disk_full() { says 'no space left|quota exceeded' || [ "$(df -Pk . | awk 'NR == 2 { print $4 }')" -lt 10000 ]; }

no_compiler() {
    says "(directory:|execute) '[^']*(cc|clang|[+]{2})'|command '.*' failed: no such file|unknown compiler|CMAKE_C|Python\.h"
}

diagnosis() {
    if disk_full; then
        echo "the disk is full: with GPU libraries .venv takes 7 GB, and Poetry's cache 4 GB"
    elif lock_outdated; then
        echo "poetry.lock is older than pyproject.toml: bring it up to date with 'poetry lock'"
    elif no_compiler; then
        echo "a package must be compiled: install a C compiler (Debian, Ubuntu: apt install build-essential python3-dev)"
    elif says 'all attempts to connect|no matching distribution found for poetry'; then
        echo "no package index answers at $(pip_index | sed 's#//[^/@]*@#//#'): check the network and pip's index-url"
    else
        { grep -v '^  - ' "$log" | grep -iE 'error|unable|failed' || tail -n 1 "$log"; } | sed -n '1s/^[ |]*//p'
    fi
}

give_up() {
    disk_full || rm -f "$unfinished" # nothing was cut short
    fail "$(diagnosis) (see $PWD/$log)"
}

find_python
find_main_checkout
take_lock
ready && exit 0
trap interrupted INT TERM HUP
refuse_shared
clear_half_made
rm -f "$stamp"
: >"$log"
share_packages
[ ! -d .venv ] || relocate # before Poetry removes what other folders' paths name
unset VIRTUAL_ENV CONDA_PREFIX # Poetry would install there
export POETRY_VIRTUALENVS_CREATE=true POETRY_VIRTUALENVS_IN_PROJECT=true
with_installed_poetry || with_private_poetry
relocate
imports_this_folder || fail "this project can't be imported from .venv: does pyproject.toml still say that src is a package?"
step "[3/4] Bytecode" compile_bytecode
[ ! -f src/utils/store/mlflow.py ] || step "[4/4] MLflow store" .venv/bin/python -m src.utils.store.mlflow ||
    fail "$(tail -n 1 "$log") (see $PWD/$log)"
[ ! -f src/utils/lab/schema.py ] || .venv/bin/python -m src.utils.lab.cli schema >>"$log" 2>&1 || true # for editors
signature >"$stamp"
echo "Ready: $(.venv/bin/python --version) in .venv"
