# shellcheck shell=bash
# crane: go-containerregistry's own command. It stands for kaniko, ko and cosign too, which reach registries by the same library.

crane_home=$work/crane

crane() { DOCKER_CONFIG=$crane_home timeout --kill-after=5 180 "$tools/crane-$CRANE" "$@"; }

crane_version() { echo "$CRANE"; }

crane_fresh() {
    rm -rf "$crane_home"
    mkdir -p "$crane_home"
}

# crane_pull NAME DIGEST: with all that it refers to, which crane checks on the way
crane_pull() {
    same "$2" "$(crane digest "$1")" digest
    rm -rf "$crane_home/pulled"
    crane pull --format=oci "$1" "$crane_home/pulled"
}

# crane_push NAME: copies an image from the open server, and prints its digest
crane_push() {
    crane copy "$entrepot/team/tool:1" "$1" >&2
    crane digest "$entrepot/team/tool:1"
}

# crane_login SERVER USER PASSWORD: crane only writes it down, so it is proved by a question
crane_login() {
    crane auth login "$1" --username "$2" --password "$3"
    crane digest "$1/docker/team/tool:1"
}
crane_logout() { crane auth logout "$1"; }
