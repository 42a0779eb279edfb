# shellcheck shell=bash
# oras, whose library helm and notation use too.

oras_home=$work/oras

oras() { DOCKER_CONFIG=$oras_home timeout --kill-after=5 180 "$tools/oras-$ORAS" "$@"; }

oras_version() { echo "$ORAS"; }

oras_fresh() {
    rm -rf "$oras_home"
    mkdir -p "$oras_home"
}

# oras_pull NAME DIGEST: with all that it refers to
oras_pull() {
    same "$2" "$(oras manifest fetch --plain-http --descriptor "$1" | jq -r .digest)" digest
    rm -rf "$oras_home/pulled"
    oras copy --from-plain-http "$1" --to-oci-layout "$oras_home/pulled:pulled"
}

# oras_push NAME: copies an image from the open server, and prints its digest
oras_push() {
    oras copy --from-plain-http --to-plain-http "$entrepot/team/tool:1" "$1" >&2
    oras resolve --plain-http "$entrepot/team/tool:1"
}

# oras_login SERVER USER PASSWORD
oras_login() { printf '%s' "$3" | oras login --plain-http --username "$2" --password-stdin "$1"; }
oras_logout() { oras logout "$1"; }
