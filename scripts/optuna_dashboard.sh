#!/usr/bin/env bash
# Shows the studies of all sweeps in a browser until Ctrl-C:
#
#     bash scripts/optuna_dashboard.sh [PORT]
#
# OPTUNA_STORAGE=URL shows another store, such as that of a sweep with hydra.sweeper.storage=URL.
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
source scripts/serve.sh
store=${OPTUNA_STORAGE:-sqlite:///$logs/optuna/optuna.db}

case $store in
    sqlite:///*) [ -f "${store#sqlite:///}" ] || fail "no studies yet: a program with -m 'learning_rate=interval(0.001,0.002)' makes the first" ;;
esac
[ -x "$bin/optuna-dashboard" ] || fail "optuna-dashboard is not installed here yet: bash scripts/setup.sh does it"
choose_port 8080 "$@"

printf 'Starting the dashboard '
serve dashboard "$bin/optuna-dashboard" --host 127.0.0.1 --port "$port" "$store"
