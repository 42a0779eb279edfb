# shellcheck shell=bash
# What `entrepot clients` prints, given to the clients as it is.

# printed CLIENT FILE [WHICH]: what goes into that file, by the first or the WHICHth of its forms
printed() {
    UPSTREAM_PASSWORD=glass "$ENTREPOT_BIN" clients -c "$work/entrepot.yml" --json --for "$1" |
        jq -er --arg file "$2" --argjson which "${3:-0}" '[.[] | select(.file == $file)][$which].text'
}

# typed CLIENT BEGINNING: the line that is to be typed and begins so
typed() {
    UPSTREAM_PASSWORD=glass "$ENTREPOT_BIN" clients -c "$work/entrepot.yml" --json --for "$1" |
        jq -er --arg beginning "$2" '.[] | select(.file == null).text | split("\n")[] | select(startswith($beginning))' |
        grep .
}

# type_line CLIENT BEGINNING [MORE]: types it, and more
type_line() {
    local line
    line=$(typed "$1" "$2")
    eval "$line ${3:-}"
}

as_printed() { "$1_as_printed"; }

# type_names CLIENT: what is printed for whole names, with a login that this server does not ask for
type_names() {
    type_line "$1" "$1 login" '--username ada --password lovelace'
    type_line "$1" "$1 pull"
    "$1" tag "$entrepot/docker/library/alpine" "$entrepot/docker/team/app"
    type_line "$1" "$1 push"
    "$1" logout "$entrepot"
}

docker_as_printed() {
    # The daemon is the cell's own, and ends with it.
    trap 'stop dockerd' EXIT
    docker_empty
    printed docker /etc/docker/daemon.json | tee "$docker_home/daemon.json"
    docker_start
    pull_hub_names docker
    type_names docker
}

moby_as_printed() {
    trap 'stop moby' EXIT
    moby_empty
    printed docker /etc/docker/daemon.json | tee "$moby_home/daemon.json"
    moby_start
    pull_hub_names moby
    DOCKER_HOST=unix://$moby_home/docker.sock DOCKER_CONFIG=$moby_home/config type_names docker
}

podman_as_printed() {
    printed podman /etc/containers/registries.conf.d/entrepot.conf | tee "$podman_home/registries.conf"
    pull_hub_names podman
    type_names podman
}

buildah_as_printed() {
    printed podman /etc/containers/registries.conf.d/entrepot.conf | tee "$buildah_home/registries.conf"
    pull_hub_names buildah
    buildah_pull "$entrepot/docker/team/tool:1" "${digest_of[team/tool:1]}"
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

regctl_as_printed() {
    # shellcheck disable=SC2088 # it is printed so
    printed regclient '~/.regctl/config.json' | tee "$regctl_home/config.json"
    pull_hub_names regctl
    regctl_pull "$entrepot/docker/team/tool:1" "${digest_of[team/tool:1]}"
}

crane_as_printed() { same "${digest_of[library/alpine:latest]}" "$(type_line tools crane)" digest; }

oras_as_printed() {
    cd "$oras_home"
    echo thing >file.txt
    type_line tools oras
}

helm_as_printed() {
    mkdir -p "$helm_home/printed/chart"
    cd "$helm_home/printed"
    printf 'apiVersion: v2\nname: chart\nversion: 1.0.0\n' >chart/Chart.yaml
    helm package chart
    type_line tools helm
}

cosign_as_printed() {
    local line digest=${digest_of[library/alpine:latest]}
    crane copy "$entrepot/docker/library/alpine" "$entrepot/docker/team/app"
    line=$(typed tools cosign)
    eval "${line/sha256:…/$digest} ${cosign_alone[*]@Q}"
    cosign_verify true "$entrepot/docker/team/app@$digest"
}

buildkit_as_printed() {
    trap 'stop buildkitd' EXIT
    buildkit_empty
    printed buildkit /etc/buildkit/buildkitd.toml | tee "$buildkit_home/buildkitd.toml"
    buildkit_start
    pull_hub_names buildkit
    buildkit_pull "$entrepot/docker/team/tool:1" "${digest_of[team/tool:1]}"
}

# k3s makes a hosts.toml of its registries.yaml, in which an address with a path is taken as it is: containerd is given what it makes.
k3s_as_printed() {
    local endpoint
    endpoint=$(printed k3s /etc/rancher/k3s/registries.yaml | grep -A1 '"docker.io":' | sed -n 's/.*endpoint: \["\(.*\)"\]/\1/p')
    rm -r "$containerd_home/hosts"
    containerd_host docker.io "$endpoint" 'override_path = true'
    containerd_pull docker.io/library/alpine:latest "${digest_of[library/alpine:latest]}"
}

# kaniko asks for what is in the mirror below its path, by crane's library.
kaniko_as_printed() {
    local mirror
    mirror=$(typed kaniko --registry-mirror= | sed 's/^--registry-mirror=//')
    same "${digest_of[library/alpine:latest]}" "$(crane digest "$mirror/library/alpine:latest")" digest
    crane copy "$mirror/library/alpine:latest" "$(typed kaniko --destination= | sed 's/^--destination=//')"
}
