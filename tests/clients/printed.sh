# shellcheck shell=bash
# What `entrepot clients` prints, given to the clients as it is.

# printed CLIENT FILE [WHICH]: what goes into that file, by the first or the WHICHth of its forms
printed() {
    UPSTREAM_PASSWORD=glass "$ENTREPOT_BIN" clients -c "$work/entrepot.yml" --json --for "$1" |
        jq -er --arg file "$2" --argjson which "${3:-0}" '[.[] | select(.file == $file)][$which].text'
}

as_printed() { "$1_as_printed"; }

docker_as_printed() {
    # The daemon is the cell's own, and ends with it.
    trap 'stop dockerd' EXIT
    docker_empty
    printed docker /etc/docker/daemon.json | tee "$docker_home/daemon.json"
    docker_start
    pull_hub_names docker
    docker_pull "$entrepot/docker/team/tool:1" "${digest_of[team/tool:1]}"
}

podman_as_printed() {
    printed podman /etc/containers/registries.conf.d/entrepot.conf | tee "$podman_home/registries.conf"
    pull_hub_names podman
    podman_pull "$entrepot/docker/team/tool:1" "${digest_of[team/tool:1]}"
}

skopeo_as_printed() {
    printed crio /etc/containers/registries.conf.d/entrepot.conf | tee "$skopeo_home/registries.conf"
    pull_hub_names skopeo
    skopeo_pull "$entrepot/docker/team/tool:1" "${digest_of[team/tool:1]}"
}

# One mirror for all, then Docker Hub's in both forms: each with an image that is not there yet, and with nothing of the others left.
containerd_as_printed() {
    local folder=/etc/containerd/certs.d
    rm -r "$containerd_home/hosts"
    containerd_file "$folder/_default/hosts.toml" 0
    containerd_pull docker.io/library/alpine:latest "${digest_of[library/alpine:latest]}"
    rm -r "$containerd_home/hosts"
    containerd_file "$folder/docker.io/hosts.toml" 0
    containerd_pull docker.io/library/busybox:latest "${digest_of[library/busybox:latest]}"
    containerd_file "$folder/docker.io/hosts.toml" 1
    containerd_pull docker.io/team/tool:1 "${digest_of[team/tool:1]}"
    rm -r "$containerd_home/hosts"
    containerd_file "$folder/$entrepot/hosts.toml" 0
    containerd_pull "$entrepot/docker/team/debian:12" "${digest_of[team/debian:12]}"
}

# containerd_file FILE WHICH: as it is printed, but below a folder of ours
containerd_file() {
    local file=$containerd_home/hosts/${1#/etc/containerd/certs.d/}
    mkdir -p "${file%/*}"
    printed containerd "$1" "$2" | tee "$file"
}
