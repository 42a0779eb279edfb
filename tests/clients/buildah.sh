# shellcheck shell=bash
# buildah, with a store of its own and podman's library.

buildah_home=$work/buildah

buildah() {
    CONTAINERS_REGISTRIES_CONF=$buildah_home/registries.conf REGISTRY_AUTH_FILE=$buildah_home/auth.json HOME=$buildah_home \
        timeout --kill-after=5 180 buildah --root "$buildah_home/root" --runroot "$buildah_home/run" --storage-driver vfs "$@"
}

buildah_version() { buildah --version | awk '{ print $3 }'; }

# buildah_fresh MIRROR: an empty store, and that mirror for docker.io
buildah_fresh() {
    rm -rf "$buildah_home"
    mkdir -p "$buildah_home"
    containers_configuration "$buildah_home" "$1"
}

# buildah_pull NAME DIGEST [PLATFORM]: then it has what it knows by that digest
buildah_pull() {
    local name=${1%@*}
    [[ $1 == *@* ]] || name=${1%:*}
    buildah pull ${3:+--platform "$3"} "$1"
    if [[ -z ${3:-} ]]; then
        buildah pull --policy never "$name@$2"
    else
        same "$3" "$(buildah inspect --type image --format '{{.OCIv1.OS}}/{{.OCIv1.Architecture}}' "$1")" platform
    fi
}

# buildah_push NAME: pushes an image made here, and prints its digest
buildah_push() {
    busybox_context "$buildah_home/own" >&2
    buildah build --tag own "$buildah_home/own" >&2
    buildah push --digestfile "$buildah_home/digest" own "docker://$1" >&2
    cat "$buildah_home/digest"
}

# buildah_login SERVER USER PASSWORD
buildah_login() { printf '%s' "$3" | buildah login --tls-verify=false --username "$2" --password-stdin "$1"; }
buildah_logout() { buildah logout "$1"; }
