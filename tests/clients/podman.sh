# shellcheck shell=bash
# podman, with a store of its own. It stands for buildah and CRI-O too, which reach registries by the same library.

podman_home=$work/podman

podman() {
    CONTAINERS_REGISTRIES_CONF=$podman_home/registries.conf REGISTRY_AUTH_FILE=$podman_home/auth.json HOME=$podman_home \
        timeout --kill-after=5 180 podman --root "$podman_home/root" --runroot "$podman_home/run" --tmpdir "$podman_home/tmp" \
        --storage-driver vfs --cgroup-manager cgroupfs --events-backend none "$@"
}

podman_version() { podman --version | awk '{ print $3 }'; }

# podman_fresh MIRROR: an empty store, and that mirror for docker.io
podman_fresh() {
    rm -rf "$podman_home"
    mkdir -p "$podman_home/tmp"
    containers_configuration "$podman_home" "$1"
}

# containers_configuration DIR MIRROR: registries.conf and policy.json, for podman and for skopeo
containers_configuration() {
    local address
    mkdir -p "$1/.config/containers"
    echo '{}' >"$1/auth.json"
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$1/.config/containers/policy.json"
    {
        printf '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
        printf '[[registry.mirror]]\nlocation = "%s"\ninsecure = true\n' "$2"
        for address in "$entrepot" "$guarded" "$vouched" "$inside" "$cutting" "$upstream"; do
            printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' "$address"
        done
    } >"$1/registries.conf"
}

# podman_pull NAME DIGEST [PLATFORM]
podman_pull() {
    podman pull ${3:+--platform "$3"} "$1"
    podman image inspect --format '{{join .RepoDigests "\n"}}' "$1" | grep -F "@$2"
    [[ -z ${3:-} ]] || same "$3" "$(podman image inspect --format '{{.Os}}/{{.Architecture}}' "$1")" platform
}

# podman_push NAME: pushes an image made here, and prints its digest
podman_push() {
    busybox_context "$podman_home/own" >&2
    podman build --tag own "$podman_home/own" >&2
    podman push --digestfile "$podman_home/digest" own "docker://$1" >&2
    cat "$podman_home/digest"
}

# podman_login SERVER USER PASSWORD
podman_login() { printf '%s' "$3" | podman login --username "$2" --password-stdin "$1"; }
podman_logout() { podman logout "$1"; }

# podman_push_index NAME: pushes an index of two images made here, and prints the index's digest
podman_push_index() {
    build_multi own-index >&2
    podman manifest push --all --digestfile "$podman_home/digest" own-index "docker://$1" >&2
    cat "$podman_home/digest"
}

