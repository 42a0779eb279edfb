# shellcheck shell=bash
# What every part of tests/clients uses: daemons that are stopped again, waiting, and the table of results.

say() { printf '\n== %s  (%s s)\n' "$*" "$SECONDS"; }
die() {
    printf 'tests/clients: %s\n' "$*" >&2
    exit 1
}

# --- daemons -----------------------------------------------------------------------------------------------------------------------

declare -A pid_of=()

# start NAME COMMAND...: in the background, its output in logs/NAME.log
start() {
    local name=$1
    shift
    "$@" >>"$work/logs/$name.log" 2>&1 &
    pid_of[$name]=$!
}

# stop NAME: the daemon that `start NAME` started, and nothing else; waits until it is gone
stop() {
    local name=$1 pid=${pid_of[$1]:-}
    [[ -n $pid ]] || return 0
    unset "pid_of[$name]"
    kill -TERM "$pid" 2>/dev/null || true
    for _ in {1..150}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

stop_all() {
    local name
    for name in "${!pid_of[@]}"; do stop "$name"; done
}

# wait_for NAME COMMAND...: until COMMAND succeeds; not longer than 30 s, nor than the daemon NAME lives
wait_for() {
    local name=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS > deadline)) || ! kill -0 "${pid_of[$name]}" 2>/dev/null; then
            tail -n 40 "$work/logs/$name.log" >&2
            die "$name did not come up: $*"
        fi
        sleep 0.05
    done
}

# --- assertions, for use in cells ----------------------------------------------------------------------------------------------------

# same EXPECTED FOUND WHAT
same() {
    [[ -n $1 && $1 == "$2" ]] || {
        printf '%s: expected %s, got %s\n' "$3" "${1:-something}" "${2:-nothing}"
        return 1
    }
}

refused() {
    local end
    set +e
    (set -e && "$@")
    end=$?
    set -e
    ((end != 0)) || {
        printf 'this was to be refused: %s\n' "$*"
        return 1
    }
}

# --- the table -----------------------------------------------------------------------------------------------------------------------

declare -a clients=() cases=()
declare -A result=() version_of=()
passed=0
failed=0
status=0
server=entrepot # the daemon whose log explains a failure

# checked LOG COMMAND...: COMMAND is a function here, run in a subshell that stops at the first error. LOG gets all it says, and $status its
# end: not this function's own, because bash forgets to stop at errors in whatever is asked `if` it succeeds.
checked() {
    local log=$work/logs/$1.log
    shift
    set +e
    (
        set -euo pipefail
        set -x
        "$@"
    ) >"$log" 2>&1
    status=$?
    set -e
}

# needed COMMAND: without which nothing that follows makes sense
needed() {
    checked "$1" "$@"
    ((status == 0)) || { tail -n 30 "$work/logs/$1.log" && die "$1 failed"; }
}

# cell CLIENT CASE COMMAND...: one field of the table
cell() {
    local client=$1 case=$2 log before
    shift 2
    [[ " ${cases[*]@Q} " == *" ${case@Q} "* ]] || cases+=("$case")
    log="$client: ${case//\//_}"
    before=$(wc -l <"$work/logs/$server.log")
    checked "$log" "$@"
    if ((status == 0)); then
        result[$case|$client]=ok
        passed=$((passed + 1))
        return
    fi
    result[$case|$client]=FAILED
    failed=$((failed + 1))
    printf '\nFAILED %s: %s\n' "$client" "$case"
    tail -n 25 "$work/logs/$log.log" | sed 's/^/    /'
    printf '  what the server logged meanwhile:\n'
    tail -n "+$((before + 1))" "$work/logs/$server.log" | tail -n 15 | sed 's/^/    /'
}

# for_all CASE COMMAND...: a row of the table; COMMAND gets the client as its last argument
for_all() {
    local client case=$1
    shift
    for client in "${clients[@]}"; do cell "$client" "$case" "$@" "$client"; done
}

# for_some CASE COMMAND CLIENT...: the same with these clients only
for_some() {
    local client case=$1 command=$2
    shift 2
    for client in "$@"; do cell "$client" "$case" "$command" "$client"; done
}

print_table() {
    local client case width=0
    for case in "${cases[@]}"; do ((${#case} > width)) && width=${#case}; done
    printf '\n'
    for client in "${clients[@]}" curl; do printf '%s %s\n' "$client" "${version_of[$client]}"; done
    printf "\n%-${width}s" ''
    for client in "${clients[@]}" curl; do printf '  %-10s' "$client"; done
    printf '\n'
    for case in "${cases[@]}"; do
        printf "%-${width}s" "$case"
        for client in "${clients[@]}" curl; do printf '  %-10s' "${result[$case|$client]:--}"; done
        printf '\n'
    done
    printf '\n'
    cat "$work/matrix.md"
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
}
