#!/usr/bin/env bash
# Shows the runs in a browser until Ctrl-C:
#
#     bash scripts/mlflow_ui.sh [PORT]
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source scripts/serve.sh
store=${MLFLOW_TRACKING_URI:-sqlite:///$logs/mlruns/mlflow.db}

case $store in
    "sqlite:///$logs/"*) [ -f "${store#sqlite:///}" ] || fail "no runs yet: bash scripts/run.sh makes the first" ;;
esac
[ -x "$bin/mlflow" ] || fail "MLflow is not installed here yet: bash scripts/setup.sh does it"
case $store in
    http*) # the page is the server's own: save the views of its experiments, and print the address
        exec "$bin/python" -m src.utils.lab.mlflow_ui ;;
esac
choose_port 5000 "$@"

printf 'Starting MLflow '
serve "" "$bin/python" -m src.utils.lab.mlflow_server "$port"
