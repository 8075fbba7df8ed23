# Runs a server until Ctrl-C. Sourced by mlflow_ui.sh and optuna_dashboard.sh.
set -u
name=$(basename "$0" .sh)
mkdir -p logs
log=logs/$name.log
bin=${JIKKEN_VENV:-.venv}/bin
# Where runs and studies are: in a linked git worktree, in the main checkout.
logs=$("$bin/python" -c 'from src.utils.paths import LOGS; print(LOGS)' 2>/dev/null) || logs=$PWD/logs

fail() {
    echo "$name: $*" >&2
    exit 1
}

is_open() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# choose_port DEFAULT [PORT]: sets $port to PORT, or to the first free port from DEFAULT on.
choose_port() {
    port=${2:-$1}
    [[ $port =~ ^[1-9][0-9]{0,4}$ && $port -lt 65536 ]] || fail "'$port' is no port: use a number such as $1"
    while is_open "$port"; do
        [ $# = 1 ] || fail "port $port is in use: name another, or none to use a free one"
        port=$((port + 1))
    done
}

# serve PAGE COMMAND…: runs the server in a process group of its own, which ends with this script, and prints the
# address of the page.
serve() {
    local page=$1
    shift
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    set +m
    server=$!
    trap 'kill -- "-$server" 2>/dev/null && wait "$server" 2>/dev/null' EXIT
    trap exit INT TERM HUP
    until is_open "$port"; do
        kill -0 "$server" 2>/dev/null || ended
        printf .
        sleep 0.5
    done
    printf '\nhttp://127.0.0.1:%s/%s (Ctrl-C ends it)\n' "$port" "$page"
    wait "$server"
    ended
}

ended() {
    echo
    fail "the server ended: $(tail -n 1 "$log") (see $PWD/$log)"
}
