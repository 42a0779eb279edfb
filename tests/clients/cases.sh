# shellcheck shell=bash
# The rows of the table. Each function does one thing with one client; `run` puts them in order.

# Every name that the clients pull through the virtual repository, with and without a repository's key in it.
pulled_names=(team/tool:1 docker/team/debian:12 team/multi:1)

# sample CLIENT: what it pulls
sample() {
    case $1 in
    helm) echo charts/sample:1.0.0 ;;
    cosign) echo team/signed:1 ;;
    *) echo team/tool:1 ;;
    esac
}

# expected NAME: its digest in the upstream, whatever key the name begins with
expected() { echo "${digest_of[${1#docker/}]}"; }

pull_by_tag() {
    local name
    for name in "${pulled_names[@]}"; do "$1_pull" "$entrepot/$name" "$(expected "$name")"; done
}

pull_sample() {
    local name
    name=$(sample "$1")
    "$1_pull" "$entrepot/docker/$name" "${digest_of[$name]}"
}

pull_by_digest() {
    local name
    for name in "${pulled_names[@]}"; do "$1_pull" "$entrepot/${name%:*}@$(expected "$name")" "$(expected "$name")"; done
}

pull_other_platform() { "$1_pull" "$entrepot/docker/team/multi:1" "${digest_of[team/multi:1]}" linux/arm64; }

# By the mirror, under Docker Hub's own names. Nobody else can have given an image with these digests.
pull_hub_names() {
    local name
    for name in library/alpine:latest library/busybox:latest team/tool:1; do "$1_pull" "docker.io/$name" "${digest_of[$name]}"; done
}

pull_hub_digests() {
    local name
    for name in library/alpine:latest library/busybox:latest; do
        "$1_pull" "docker.io/${name%:*}@${digest_of[$name]}" "${digest_of[$name]}"
    done
}

# Pushed by the client, and found byte for byte, under the virtual repository's name and under the local one's
push() {
    local digest name=pushed/$1:1
    digest=$("$1_push" "$entrepot/$name")
    same "$digest" "$(digest_at "$name")" "digest of $name"
    same "$digest" "$(digest_at "local/$name")" "digest of local/$name"
    echo "$digest" >"$work/pushed-$1"
}

push_by_key() {
    local digest name=docker/pushed/$1-by-key:1
    digest=$("$1_push" "$entrepot/$name")
    same "$digest" "$(digest_at "$name")" "digest of $name"
}

push_index() {
    local digest name=pushed/$1-index:1
    digest=$("$1_push_index" "$entrepot/$name")
    same "$digest" "$(digest_at "$name")" "digest of $name"
    "$1_pull" "$entrepot/$name" "$digest" linux/arm64
}

# What each pushed, pulled by all the others.
pull_pushed() {
    local other
    for other in "${clients[@]}"; do
        [[ $other == "$1" ]] || "$1_pull" "$entrepot/pushed/$other:1" "$(cat "$work/pushed-$other")"
    done
}

push_without_upstream() {
    local digest name=pushed/$1-alone:1
    digest=$("$1_push" "$entrepot/$name")
    same "$digest" "$(digest_at "$name")" "digest of $name"
}

pull_moved() { "$1_pull" docker.io/library/busybox:latest "${digest_of[library/busybox:latest]}"; }

# --- with the key in the mirror's own URL ---------------------------------------------------------------------------------------------

key_in_mirror() { "$1_key_in_mirror"; }

podman_key_in_mirror() {
    containers_configuration "$podman_home" "$entrepot/docker"
    pull_hub_names podman
}

buildah_key_in_mirror() {
    containers_configuration "$buildah_home" "$entrepot/docker"
    pull_hub_names buildah
}

buildkit_key_in_mirror() {
    trap 'stop buildkitd' EXIT
    buildkit_empty
    buildkit_mirror "$entrepot/docker"
    buildkit_start
    pull_hub_names buildkit
}

skopeo_key_in_mirror() {
    containers_configuration "$skopeo_home" "$entrepot/docker"
    pull_hub_names skopeo
}

containerd_key_in_mirror() {
    containerd_host docker.io "http://$entrepot/docker"
    containerd_pull docker.io/library/alpine:latest "${digest_of[library/alpine:latest]}"
    containerd_host docker.io "http://$entrepot/v2/docker" 'override_path = true'
    containerd_pull docker.io/library/busybox:latest "${digest_of[library/busybox:latest]}"
}

# --- the guarded server ---------------------------------------------------------------------------------------------------------------

pull_anonymously() {
    local name
    name=$(sample "$1")
    "$1_pull" "$guarded/$name" "${digest_of[$name]}"
}

push_anonymously() { refused "$1_push" "$guarded/pushed/$1-anonymous:1.0.0"; }
login_wrongly() { refused "$1_login" "$guarded" ada byron; }

login_and_push() {
    local name=pushed/$1:1.0.0 digest
    "$1_login" "$guarded" ada lovelace
    digest=$("$1_push" "$guarded/$name")
    "$1_pull" "$guarded/docker/$name" "$digest"
    "$1_logout" "$guarded"
    "$1_pull" "$guarded/local/$name" "$digest"
}

# What is one's own is for nobody else, with a login or without one.
private_image() {
    local name=secret/$1:1.0.0 digest
    "$1_login" "$guarded" ada lovelace
    digest=$("$1_push" "$guarded/$name")
    "$1_logout" "$guarded"
    refused "$1_pull" "$guarded/$name" "$digest"
    refused "$1_pull" "$guarded/local/$name" "$digest"
    "$1_login" "$guarded" bob builder
    refused "$1_pull" "$guarded/$name" "$digest"
    refused "$1_push" "$guarded/$name"
    "$1_login" "$guarded" ada lovelace
    "$1_pull" "$guarded/$name" "$digest"
    "$1_logout" "$guarded"
}

# Docker sends its Docker Hub login to a mirror that asks for one. Nobody here knows it: it is to count as no login at all.
docker_mirror_with_hub_login() {
    printf '{"auths":{"https://index.docker.io/v1/":{"auth":"%s"}}}' "$(printf 'hubuser:hubpassword' | base64)" \
        >"$DOCKER_CONFIG/config.json"
    pull_hub_names docker
    grep -F '"action":"pull"' "$work/guarded/audit.log" | grep -F '"image":"library/alpine"' | grep -F '"kind":"anonymous"'
}
