# Shows a page until Ctrl-C, for the scripts that begin with `source scripts/serve.sh`.
set -u
name=$(basename "$0" .sh)
log=logs/$name.log

fail() {
    echo "$name: $*" >&2
    exit 1
}

answers() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# choose_port DEFAULT [PORT]: $port is the one that was asked for, or the first free one from DEFAULT on.
choose_port() {
    port=${2:-$1}
    [[ $port =~ ^[1-9][0-9]{0,4}$ && $port -lt 65536 ]] || fail "'$port' is no port: a number such as $1 is"
    while answers "$port"; do
        [ $# = 1 ] || fail "port $port is in use: name another, or none to have a free one found"
        port=$((port + 1))
    done
}

# serve PAGE COMMAND…: runs the server in a process group of its own, which ends with this script.
serve() {
    local page=$1
    shift
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    set +m
    server=$!
    trap 'kill -- "-$server" 2>/dev/null && wait "$server" 2>/dev/null' EXIT
    trap exit INT TERM HUP
    until answers "$port"; do
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
    fail "it ended: $(tail -n 1 "$log") (see $PWD/$log)"
}
