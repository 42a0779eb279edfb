# shellcheck shell=bash
# skopeo: copies between registries and folders, and keeps nothing.

skopeo_home=$work/skopeo

skopeo() {
    HOME=$skopeo_home REGISTRY_AUTH_FILE=$skopeo_home/auth.json \
        timeout --kill-after=5 180 skopeo --registries-conf "$skopeo_home/registries.conf" "$@"
}

skopeo_version() { skopeo --version | awk '{ print $3 }'; }

skopeo_fresh() {
    rm -rf "$skopeo_home"
    mkdir -p "$skopeo_home"
    containers_configuration "$skopeo_home" "$1"
}

# skopeo_pull NAME DIGEST [PLATFORM]: into a folder; skopeo checks every digest on the way
skopeo_pull() {
    local folder=$skopeo_home/pulled
    rm -rf "$folder"
    if [[ -n ${3:-} ]]; then
        skopeo --override-os "${3%/*}" --override-arch "${3#*/}" copy "docker://$1" "dir:$folder"
        same "${3#*/}" "$(jq -r .architecture "$folder/$(jq -r .config.digest "$folder/manifest.json" | cut -d: -f2)")" platform
        # The folder then has one platform's manifest: that the index names it is proof enough of which index it was.
        skopeo inspect --raw "docker://$1" | tee "$folder/index.json" | sha256sum | grep -F "${2#*:}"
        grep -F "$(sha256sum <"$folder/manifest.json" | cut -d' ' -f1)" "$folder/index.json"
    else
        skopeo copy --all "docker://$1" "dir:$folder"
        same "$2" "sha256:$(sha256sum <"$folder/manifest.json" | cut -d' ' -f1)" digest
    fi
}

# skopeo_push NAME: pushes an image that it pulled into a folder before, and prints its digest
skopeo_push() {
    skopeo_pull "$entrepot/team/tool:1" "${digest_of[team/tool:1]}" >&2
    skopeo copy --digestfile "$skopeo_home/digest" "dir:$skopeo_home/pulled" "docker://$1" >&2
    cat "$skopeo_home/digest"
}

# skopeo_login SERVER USER PASSWORD
skopeo_login() { printf '%s' "$3" | skopeo login --tls-verify=false --username "$2" --password-stdin "$1"; }
skopeo_logout() { skopeo logout "$1"; }

# skopeo_push_index NAME: pushes an index straight from the upstream, and prints its digest
skopeo_push_index() {
    skopeo copy --all --src-creds builder:brick --digestfile "$skopeo_home/digest" "docker://$upstream/team/multi:1" "docker://$1" >&2
    cat "$skopeo_home/digest"
}

