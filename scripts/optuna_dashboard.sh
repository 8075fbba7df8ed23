#!/usr/bin/env bash
# Shows the studies of all sweeps in a browser until Ctrl-C:
#
#     bash scripts/optuna_dashboard.sh [PORT]
#
# OPTUNA_STORAGE=URL shows another store, as of a sweep with hydra.sweeper.storage=URL.
set -u
cd -P "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
log=logs/optuna_dashboard.log
store=${OPTUNA_STORAGE:-sqlite:///$PWD/logs/optuna/optuna.db}

fail() {
    echo "optuna_dashboard: $*" >&2
    exit 1
}
answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

case $store in
    sqlite:///*) [ -f "${store#sqlite:///}" ] || fail "no studies yet: a program with -m 'learning_rate=interval(0.001,0.002)' makes the first" ;;
esac
[ -x .venv/bin/optuna-dashboard ] || fail "optuna-dashboard is not installed here yet: bash scripts/setup.sh does it"

port=${1:-8080}
[[ $port =~ ^[1-9][0-9]{0,4}$ && $port -lt 65536 ]] || fail "'$port' is no port: a number such as 8080 is"
while answers "$port"; do
    [ $# = 0 ] || fail "port $port is in use: name another, or none to have a free one found"
    port=$((port + 1))
done

printf 'Starting the dashboard '
set -m # a process group of its own, which can be ended whole
.venv/bin/optuna-dashboard --host 127.0.0.1 --port "$port" "$store" >"$log" 2>&1 </dev/null &
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
printf '\nhttp://127.0.0.1:%s/dashboard (Ctrl-C ends it)\n' "$port"
wait "$server"
ended
