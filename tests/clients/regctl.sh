# shellcheck shell=bash
# regctl, the command of regclient.

regctl_home=$work/regctl

# It would also take the logins of docker's configuration.
regctl() { DOCKER_CONFIG=$regctl_home REGCTL_CONFIG=$regctl_home/config.json timeout --kill-after=5 180 "$tools/regctl-$REGCTL" "$@"; }

regctl_version() { echo "$REGCTL"; }

# regctl_fresh MIRROR: that mirror for docker.io, asked before it
regctl_fresh() {
    local address
    rm -rf "$regctl_home"
    mkdir -p "$regctl_home"
    for address in "$entrepot" "$guarded" "$cutting" "$upstream"; do regctl registry set --skip-check --tls disabled "$address"; done
    regctl registry set --skip-check --mirror "$1" --priority 1 docker.io
}

# regctl_pull NAME DIGEST: with all that it refers to
regctl_pull() {
    rm -rf "$regctl_home/pulled"
    regctl image copy "$1" "ocidir://$regctl_home/pulled:pulled"
    same "$2" "$(regctl image digest "ocidir://$regctl_home/pulled:pulled")" digest
}

# regctl_push NAME: copies an image from the open server, and prints its digest
regctl_push() {
    regctl image copy "$entrepot/team/tool:1" "$1" >&2
    regctl image digest "$entrepot/team/tool:1"
}

# regctl_login SERVER USER PASSWORD: it asks the server whether it is right
regctl_login() { printf '%s' "$3" | regctl registry login --user "$2" --pass-stdin "$1"; }
regctl_logout() { regctl registry logout "$1"; }
