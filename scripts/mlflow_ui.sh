#!/usr/bin/env bash
# Shows the runs in a browser until Ctrl-C:
#
#     bash scripts/mlflow_ui.sh [PORT]
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source scripts/serve.sh
store=${MLFLOW_TRACKING_URI:-sqlite:///$logs/mlruns/mlflow.db}

case $store in
    http*) fail "MLFLOW_TRACKING_URI names a server: open ${store%/}/#/experiments?workflowType=machine_learning" ;;
    "sqlite:///$logs/"*) [ -f "${store#sqlite:///}" ] || fail "no runs yet: bash scripts/run.sh makes the first" ;;
esac
[ -x "$bin/mlflow" ] || fail "MLflow is not installed here yet: bash scripts/setup.sh does it"
choose_port 5000 "$@"

printf 'Starting MLflow '
# Makes the store if there is none, fixes its paths if this folder was moved, and writes the saved view.
page='#/experiments?workflowType=machine_learning'
[ ! -f src/utils/lab/mlflow_ui.py ] || page=$("$bin/python" -m src.utils.lab.mlflow_ui) || exit

# MLflow's job runner and telemetry are not needed to look at runs.
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
serve "$page" "$bin/python" -m mlflow server \
    --host 127.0.0.1 --port "$port" --workers 1 --backend-store-uri "$store" \
    --no-serve-artifacts --default-artifact-root "$logs/mlruns"
