# shellcheck shell=bash
# dockerd, started by hand with an empty store, and the docker command.

docker_home=$work/docker

docker() { timeout --kill-after=5 180 docker "$@"; }

docker_version() { docker version --format '{{.Server.Version}}'; }

# docker_fresh MIRROR: an empty daemon with that registry mirror
docker_fresh() {
    docker_empty
    printf '{"registry-mirrors": ["http://%s"]}\n' "$1" >"$docker_home/daemon.json"
    docker_start
}

docker_empty() {
    stop dockerd
    rm -rf "$docker_home"
    mkdir -p "$docker_home/config"
}

# docker_start [COMMAND...]: a daemon with what daemon.json says, started by that command
docker_start() {
    export DOCKER_HOST=unix://$docker_home/docker.sock DOCKER_CONFIG=$docker_home/config
    # The builder that needs no plug-in: docker.io brings no other.
    export DOCKER_BUILDKIT=0
    start dockerd "$@" dockerd --config-file="$docker_home/daemon.json" --storage-driver=vfs --data-root="$docker_home/data" --exec-root="$docker_home/exec" \
        --host="$DOCKER_HOST" --pidfile="$docker_home/pid" --bridge=none --iptables=false --ip6tables=false
    wait_for dockerd docker info
}

docker_build() { docker build --quiet --tag "$2" "$1"; }

# docker_pull NAME DIGEST [PLATFORM]
docker_pull() {
    docker pull ${3:+--platform "$3"} "$1"
    docker image inspect --format '{{join .RepoDigests "\n"}}' "$1" | grep -F "@$2"
    [[ -z ${3:-} ]] || same "$3" "$(docker image inspect --format '{{.Os}}/{{.Architecture}}' "$1")" platform
}

# docker_push NAME: pushes an image made here, and prints its digest
docker_push() {
    busybox_context "$docker_home/own" >&2
    docker_build "$docker_home/own" own >&2
    docker tag own "$1"
    docker push "$1" | tee /dev/stderr | sed -n 's/.* digest: \(sha256:[0-9a-f]*\) .*/\1/p'
}

# docker_login SERVER USER PASSWORD
docker_login() { printf '%s' "$3" | docker login --username "$2" --password-stdin "$1"; }
docker_logout() { docker logout "$1"; }

