# shellcheck shell=bash
# zstd:chunked: podman looks into a layer before it fetches it, and asks for the files that it does not have, several ranges in one request.

chunked_home=$work/chunked

# chunked_podman ...: a podman that puts layers together of files, for which its store has to be an overlay's
chunked_podman() {
    CONTAINERS_STORAGE_CONF=$chunked_home/storage.conf CONTAINERS_REGISTRIES_CONF=$podman_home/registries.conf \
        REGISTRY_AUTH_FILE=$podman_home/auth.json HOME=$podman_home \
        timeout --kill-after=5 180 podman --tmpdir "$chunked_home/tmp" --cgroup-manager cgroupfs --events-backend none "$@"
}

chunked_fresh() {
    mkdir -p "$chunked_home"/{root,run,tmp,context/files}
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/root"\nrunroot = "%s/run"\n[storage.options]\npull_options = %s\n' \
        "$chunked_home" "$chunked_home" '{ enable_partial_images = "true", use_hard_links = "false", ostree_repos = "" }' \
        >"$chunked_home/storage.conf"
}

# push_chunked NAME: what is in the context now
push_chunked() {
    podman build --tag chunked "$chunked_home/context"
    podman push --compression-format zstd:chunked chunked "docker://$entrepot/$1"
}

# has_files NAME: whether that image is what is in the context now
has_files() {
    local folder end=0
    folder=$(chunked_podman image mount "$1")
    diff -r "$chunked_home/context/files" "$folder/files" || end=$?
    chunked_podman image unmount "$1"
    return "$end"
}

# podman_chunked: of the second image only what the first one did not have, and that from several places
podman_chunked() {
    local number client=podman name=$cutting/chunked/app
    cut_in_the_middle podman
    chunked_fresh
    printf '%s\n' 'FROM scratch' 'COPY files /files' >"$chunked_home/context/Dockerfile"
    for number in {10..49}; do random_file 20000 "$chunked_home/context/files/$number"; done
    push_chunked chunked/app:1
    chunked_podman pull "$name:1"
    has_files "$name:1"
    for number in 11 22 33 44; do random_file 20000 "$chunked_home/context/files/$number"; done
    push_chunked chunked/app:2
    : >"$work/logs/cutter-podman.log"
    chunked_podman pull "$name:2"
    has_files "$name:2"
    grep -E '^WHOLE .* bytes=[0-9]+-[0-9]+(,[0-9]+-[0-9]+)+$' "$work/logs/cutter-podman.log"
}
