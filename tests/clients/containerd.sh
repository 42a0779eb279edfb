# shellcheck shell=bash
# containerd, started by hand with an empty store, and ctr with a hosts.toml for each registry.

containerd_home=$work/containerd

ctr() { timeout --kill-after=5 180 ctr --address "$containerd_home/containerd.sock" "$@"; }

containerd_version() { containerd --version | awk '{ print $3 }'; }

# containerd_fresh MIRROR: an empty daemon with that mirror for docker.io
containerd_fresh() {
    local address
    stop containerd
    rm -rf "$containerd_home"
    mkdir -p "$containerd_home"
    printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$containerd_home/config.toml"
    containerd_host docker.io "http://$1"
    for address in "$entrepot" "$guarded" "$vouched" "$inside" "$cutting" "$upstream"; do containerd_host "$address" "http://$address"; done
    start containerd containerd --config "$containerd_home/config.toml" --root "$containerd_home/root" \
        --state "$containerd_home/state" --address "$containerd_home/containerd.sock"
    wait_for containerd ctr version
    : >"$containerd_home/login"
}

# containerd_host HOST URL [SETTING]: where HOST's images are fetched
containerd_host() {
    mkdir -p "$containerd_home/hosts/$1"
    printf '[host."%s"]\ncapabilities = ["pull", "resolve", "push"]\n%s\n' "$2" "${3:-}" >"$containerd_home/hosts/$1/hosts.toml"
}

# registry_options: how to reach servers, and as whom; one word a line
registry_options() {
    printf '%s\n' --hosts-dir "$containerd_home/hosts"
    cat "$containerd_home/login"
}

# containerd_pull NAME DIGEST [PLATFORM]: and unpacks it
containerd_pull() {
    local options
    mapfile -t options < <(registry_options)
    ctr images pull "${options[@]}" --snapshotter native --platform "${3:-linux/amd64}" "$1"
    same "$2" "$(containerd_digest "$1")" digest
}

containerd_digest() { ctr images list "name==$1" | awk 'NR == 2 { print $3 }'; }

# containerd_push NAME: pushes an image that it pulled before, and prints its digest
containerd_push() {
    local options source=$entrepot/team/tool:1
    mapfile -t options < <(registry_options)
    containerd_pull "$source" "${digest_of[team/tool:1]}" >&2
    ctr images push "${options[@]}" "$1" "$source" >&2
    containerd_digest "$source"
}

# containerd_push_index NAME: the same with an index and both its images
containerd_push_index() {
    local source=$entrepot/team/multi:1
    ctr content fetch --hosts-dir "$containerd_home/hosts" --all-platforms "$source" >&2
    ctr images push --hosts-dir "$containerd_home/hosts" "$1" "$source" >&2
    containerd_digest "$source"
}

# containerd_login SERVER USER PASSWORD: ctr has no login and is told each time. What it is told is proved by a push, for a pull that
# anybody may do never asks for it.
containerd_login() {
    printf '%s\n' --user "$2:$3" >"$containerd_home/login"
    containerd_push "$1/pushed/containerd-login:1"
}
containerd_logout() { : >"$containerd_home/login"; }
