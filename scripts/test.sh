#!/usr/bin/env bash
# All checks, the quickest first; stops at the first failure. Arguments go to pytest:
#
#     bash scripts/test.sh
#     bash scripts/test.sh -k sweep
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh

check() {
    echo "== $*"
    "${JIKKEN_VENV:-.venv}/bin/$1" "${@:2}"
}
check ruff format --check
check ruff check
check mypy --strict src/utils
check pytest -n auto --maxprocesses 4 --dist loadfile "$@"
