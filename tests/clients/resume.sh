# shellcheck shell=bash
# A connection that breaks in the middle of a layer, and what clients make of it.

cutting=127.0.0.1:5040

# cut_in_the_middle CLIENT: between the client and the server is one who breaks off, until the cell ends
cut_in_the_middle() {
    trap 'stop "cutter-$client"' EXIT
    start "cutter-$1" python3 "$here/cutter.py" "$cutting" "$entrepot"
    wait_for "cutter-$1" curl --silent --fail "http://$cutting/v2/"
}

# resume CLIENT: one pull, of which the rest is fetched by its range
resume() {
    local client=$1
    cut_in_the_middle "$client"
    "${client}_pull" "$cutting/team/cut:1" "${digest_of[team/cut:1]}"
    grep '^CUT ' "$work/logs/cutter-$client.log"
    grep -E '^WHOLE .* bytes=[1-9][0-9]*-' "$work/logs/cutter-$client.log"
}

# begin_anew CLIENT: it fetches all of the layer again, by itself or when it is run again
begin_anew() {
    local client=$1
    cut_in_the_middle "$client"
    set +e
    (set -e && "${client}_pull" "$cutting/team/cut:1" "${digest_of[team/cut:1]}")
    set -e
    "${client}_pull" "$cutting/team/cut:1" "${digest_of[team/cut:1]}"
    grep '^CUT ' "$work/logs/cutter-$client.log"
}
