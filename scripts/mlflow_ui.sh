#!/usr/bin/env bash
# Shows the runs in a browser until Ctrl-C:
#
#     bash scripts/mlflow_ui.sh [PORT]
set -u
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
log=logs/mlflow_ui.log
store=${MLFLOW_TRACKING_URI:-sqlite:///$PWD/logs/mlruns/mlflow.db}

fail() {
    echo "mlflow_ui: $*" >&2
    exit 1
}
answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

case $store in
    http*) fail "MLFLOW_TRACKING_URI is a server already: open $store" ;;
    "sqlite:///$PWD/"*) [ -f "${store#sqlite:///}" ] || fail "no runs yet: bash scripts/run.sh makes the first" ;;
esac
[ -x .venv/bin/mlflow ] || fail "MLflow is not installed here yet: bash scripts/setup.sh does it"

port=${1:-5000}
[[ $port =~ ^[1-9][0-9]{0,4}$ && $port -lt 65536 ]] || fail "'$port' is no port: a number such as 5000 is"
while answers "$port"; do
    [ $# = 0 ] || fail "port $port is in use: name another, or none to have a free one found"
    port=$((port + 1))
done

printf 'Starting MLflow '
# Makes the store if need be, and mends its paths if this folder was moved.
[ ! -f src/utils/store/client.py ] || .venv/bin/python -m src.utils.store.client || exit

# MLflow's job runner and its telemetry are of no use to someone who looks at runs.
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
set -m # a process group of its own, which can be ended whole
.venv/bin/python -m mlflow server --host 127.0.0.1 --port "$port" --workers 1 --backend-store-uri "$store" \
    --no-serve-artifacts --default-artifact-root "$PWD/logs/mlruns" >"$log" 2>&1 </dev/null &
set +m
server=$!
trap 'kill -- "-$server" 2>/dev/null && wait "$server" 2>/dev/null' EXIT
trap exit INT TERM HUP

ended() {
    echo
    fail "it ended: $(tail -n 1 "$log") (see $PWD/$log)"
}
until answers "$port"; do
    kill -0 "$server" 2>/dev/null || ended
    printf .
    sleep 0.5
done
# Straight to the experiments: MLflow's start page is about language models.
printf '\nhttp://127.0.0.1:%s/#/experiments?workflowType=machine_learning (Ctrl-C ends it)\n' "$port"
wait "$server"
ended
