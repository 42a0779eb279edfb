# shellcheck shell=bash
# The dockerd of a newer Docker, which keeps images in containerd's store; with the docker command and the containerd that Debian has.

moby_home=$work/moby

moby_docker() {
    DOCKER_HOST=unix://$moby_home/docker.sock DOCKER_CONFIG=$moby_home/config DOCKER_BUILDKIT=0 timeout --kill-after=5 180 docker "$@"
}

# It was not told its version when it was built.
moby_version() { echo "$MOBY"; }

# moby_fresh MIRROR: an empty daemon with that registry mirror
moby_fresh() {
    moby_empty
    printf '{"registry-mirrors": ["http://%s"]}\n' "$1" >"$moby_home/daemon.json"
    moby_start
}

moby_empty() {
    stop moby
    rm -rf "$moby_home"
    mkdir -p "$moby_home/config"
}

# moby_start: a daemon with what daemon.json says
moby_start() {
    # It refuses older commands than its own by itself.
    DOCKER_MIN_API_VERSION=1.40 start moby "$tools/dockerd-$MOBY" --config-file="$moby_home/daemon.json" --data-root="$moby_home/data" \
        --exec-root="$moby_home/exec" --host="unix://$moby_home/docker.sock" --pidfile="$moby_home/pid" --bridge=none --iptables=false --ip6tables=false \
        --userland-proxy=false
    wait_for moby moby_docker info
    moby_docker info | grep -F io.containerd.snapshotter
}

# moby_pull NAME DIGEST [PLATFORM]
moby_pull() {
    moby_docker pull ${3:+--platform "$3"} "$1"
    moby_docker image inspect --format '{{join .RepoDigests "\n"}}' "$1" | grep -F "@$2"
    [[ -z ${3:-} ]] || same "$3" "$(moby_platform "$1" "$3")" platform
}

# moby_platform NAME PLATFORM: what the image for it says of itself. An older docker command cannot ask for another one's than its own.
moby_platform() {
    curl --silent --fail --unix-socket "$moby_home/docker.sock" --get "http://moby/v1.49/images/${1//\//%2F}/json" \
        --data-urlencode "platform={\"os\":\"${2%/*}\",\"architecture\":\"${2#*/}\"}" | jq -r '"\(.Os)/\(.Architecture)"'
}

# moby_push NAME: pushes an image made here, and prints its digest
moby_push() {
    busybox_context "$moby_home/own" >&2
    moby_docker build --quiet --tag own "$moby_home/own" >&2
    moby_docker tag own "$1"
    moby_docker push "$1" | tee /dev/stderr | sed -n 's/.* digest: \(sha256:[0-9a-f]*\) .*/\1/p'
}

# moby_login SERVER USER PASSWORD
moby_login() { printf '%s' "$3" | moby_docker login --username "$2" --password-stdin "$1"; }
moby_logout() { moby_docker logout "$1"; }
