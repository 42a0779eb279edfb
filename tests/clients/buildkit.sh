# shellcheck shell=bash
# BuildKit: a buildkitd that is started by hand with an empty store, and buildctl. What it pulls is what an image begins with.

buildkit_home=$work/buildkit

# In the folder of the logins there is a secret as well, by which buildkitd knows who may use the token of an earlier build: each user has one.
buildctl() {
    DOCKER_CONFIG=$buildkit_home/config/$(cat "$buildkit_home/user") timeout --kill-after=5 180 "$tools/buildctl-$BUILDKIT" --addr "unix://$buildkit_home/socket" "$@"
}

buildkit_version() { echo "$BUILDKIT"; }

# buildkit_fresh MIRROR: an empty daemon with that mirror for docker.io
buildkit_fresh() {
    buildkit_empty
    buildkit_mirror "$1"
    buildkit_start
}

buildkit_empty() {
    stop buildkitd
    rm -rf "$buildkit_home"
    mkdir -p "$buildkit_home"/{config/nobody,context,from}
    echo nobody >"$buildkit_home/user"
}

# buildkit_mirror MIRROR: what is configured
buildkit_mirror() {
    local address
    {
        printf '[registry."docker.io"]\nmirrors = ["%s"]\n' "$1"
        for address in "$entrepot" "$guarded" "$cutting"; do printf '[registry."%s"]\nhttp = true\n' "$address"; done
    } >"$buildkit_home/buildkitd.toml"
}

# buildkit_start: a daemon with what buildkitd.toml says
buildkit_start() {
    start buildkitd "$tools/buildkitd-$BUILDKIT" --config "$buildkit_home/buildkitd.toml" --root "$buildkit_home/root" \
        --addr "unix://$buildkit_home/socket" --oci-worker-snapshotter native --oci-worker-binary runc --containerd-worker=false
    wait_for buildkitd buildctl debug workers
}

# buildkit_build FOLDER ARGUMENT...
buildkit_build() {
    local folder=$1
    shift
    buildctl build --progress plain --frontend dockerfile.v0 --local "context=$folder" --local "dockerfile=$folder" "$@" 2>&1
}

# buildkit_pull NAME DIGEST [PLATFORM]: an image that begins with it and ends there, all of it written out
buildkit_pull() {
    buildctl prune --all >/dev/null
    echo "FROM $1" >"$buildkit_home/from/Dockerfile"
    buildkit_build "$buildkit_home/from" ${3:+--opt "platform=$3"} --output "type=oci,dest=$buildkit_home/built.tar" |
        tee "$buildkit_home/said"
    grep -F "FROM ${1%@*}@$2" "$buildkit_home/said"
    tar --extract --to-stdout --file "$buildkit_home/built.tar" index.json | jq -e '.manifests | length == 1'
}

# buildkit_push NAME: pushes an image made here, and prints its digest
buildkit_push() {
    busybox_context "$buildkit_home/context" >&2
    buildkit_build "$buildkit_home/context" --output "type=image,name=$1,push=true" --metadata-file "$buildkit_home/metadata" >&2
    jq -er '."containerimage.digest"' "$buildkit_home/metadata"
}

# buildkit_login SERVER USER PASSWORD: it has docker's logins, and no command for them. It is proved by a push, for what anybody may pull it does
# not ask as somebody.
buildkit_login() {
    mkdir -p "$buildkit_home/config/$2"
    echo "$2" >"$buildkit_home/user"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "$1" "$(printf '%s:%s' "$2" "$3" | base64)" >"$buildkit_home/config/$2/config.json"
    buildkit_push "$1/pushed/buildkit-login:1"
}
buildkit_logout() { echo nobody >"$buildkit_home/user"; }
