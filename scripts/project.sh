#!/usr/bin/env bash
# What MLproject calls: MLflow's `--name value` becomes Hydra's `name=value`.
#
#     bash scripts/project.sh PROGRAM [-m] [--NAME VALUE]…
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# MLflow hands down its own run, and a store: mlflow.db of the folder it was started in, unless told of another.
unset MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID
case ${MLFLOW_TRACKING_URI:-} in *mlflow.db) unset MLFLOW_TRACKING_URI ;; esac

python=.venv/bin/python
[ -x "$python" ] || python=python # as in an environment of one's own
command=("$python" "$1")
shift
while [ $# -gt 0 ]; do
    case $1 in
        --note) command+=("note='${2//\'/\\\'}'") && shift 2 ;; # prose, which Hydra wants in quotes
        --*) command+=("${1#--}=$2") && shift 2 ;;
        *) command+=("$1") && shift ;;
    esac
done
export PYTHONPATH=$PWD
exec "${command[@]}"
