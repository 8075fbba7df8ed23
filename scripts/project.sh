#!/usr/bin/env bash
# Called by MLproject: turns MLflow's `--name value` into Hydra's `name=value`.
#
#     bash scripts/project.sh PROGRAM [-m] [--NAME VALUE]…
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# MLflow sets its own run in the environment, and a store: mlflow.db in its working directory, unless another is set.
unset MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID
case ${MLFLOW_TRACKING_URI:-} in *mlflow.db) unset MLFLOW_TRACKING_URI ;; esac

python=${JIKKEN_VENV:-.venv}/bin/python
[ -x "$python" ] || python=python # another environment is active
command=("$python" "$1")
shift
while [ $# -gt 0 ]; do
    case $1 in
        --note) command+=("note='${2//\'/\\\'}'") && shift 2 ;; # free text: Hydra needs it in quotes
        --*) command+=("${1#--}=$2") && shift 2 ;;
        *) command+=("$1") && shift ;;
    esac
done
export PYTHONPATH=$PWD
exec "${command[@]}"
