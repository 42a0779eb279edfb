# shellcheck shell=bash
# The other side of an air gap: a server that has never heard of the upstream, and files that go there. What we write is read by other tools, and
# what they write is taken in by us.

inside=127.0.0.1:5030
airgap=$work/airgap

start_inside_entrepot() {
    mkdir -p "$airgap"
    cat >"$airgap/repositories.yml" <<YAML
server: { listen: "$inside" }
storage: { path: $airgap/store }
repositories:
  docker: { type: local }
default: docker
YAML
    start inside "$ENTREPOT_BIN" serve -c "$airgap/repositories.yml"
    wait_for inside curl -sf "http://$inside/readyz"
}

# digest_inside NAME:TAG: of what is answered there
digest_inside() {
    curl --silent --fail --max-time 30 --header "Accept: $accept" "http://$inside/v2/${1%:*}/manifests/${1##*:}" |
        sha256sum | sed 's/\(.*\)  -/sha256:\1/'
}

export_all() { "$ENTREPOT_BIN" export --server "http://$entrepot" --output "$airgap/images.tar" docker/team/tool:1 docker/team/multi:1; }

curl_moves_images() {
    local name
    export_all
    "$ENTREPOT_BIN" import --server "http://$inside" "$airgap/images.tar"
    for name in team/tool:1 team/multi:1; do same "${digest_of[$name]}" "$(digest_inside "docker/$name")" "$name"; done
}

# --- what we write --------------------------------------------------------------------------------------------------------------------

read_ours() { "$1_reads" "$airgap/images.tar"; }

skopeo_reads() {
    skopeo copy --all "oci-archive:$1:docker/team/multi:1" "dir:$airgap/skopeo"
    same "${digest_of[team/multi:1]}" "sha256:$(sha256sum <"$airgap/skopeo/manifest.json" | cut -d' ' -f1)" digest
    # Old ones find what has Docker's own types only where no name is needed.
    "$ENTREPOT_BIN" export --server "http://$entrepot" --output "$airgap/tool.tar" docker/team/tool:1
    skopeo copy "oci-archive:$airgap/tool.tar" "dir:$airgap/skopeo-tool"
    same "${digest_of[team/tool:1]}" "sha256:$(sha256sum <"$airgap/skopeo-tool/manifest.json" | cut -d' ' -f1)" digest
}

podman_reads() {
    podman pull "oci-archive:$1:docker/team/multi:1"
    # An archive with one image needs no name, as `podman save` writes it.
    "$ENTREPOT_BIN" export --server "http://$entrepot" -o "$airgap/one.tar" docker/team/multi:1
    podman load --input "$airgap/one.tar" | tee /dev/stderr | grep -F docker/team/multi:1
}

containerd_reads() {
    ctr images import --all-platforms --no-unpack "$1"
    same "${digest_of[team/multi:1]}" "$(containerd_digest "$entrepot/docker/team/multi:1")" digest
    same "${digest_of[team/tool:1]}" "$(containerd_digest "$entrepot/docker/team/tool:1")" digest
}

oras_reads() {
    local digest=${digest_of[team/multi:1]}
    oras copy --from-oci-layout "$1@$digest" --to-oci-layout "$airgap/oras:multi"
    same "$digest" "$(oras resolve --oci-layout "$airgap/oras:multi")" digest
}

# --- what they write ------------------------------------------------------------------------------------------------------------------

read_theirs() { "$1_writes"; }

take_in() { "$ENTREPOT_BIN" import --server "http://$inside" "$@"; }

skopeo_writes() {
    skopeo copy --all "docker://$entrepot/docker/team/multi:1" "oci-archive:$airgap/skopeo.tar:skopeo/multi:1"
    take_in "$airgap/skopeo.tar" --into docker
    same "${digest_of[team/multi:1]}" "$(digest_inside docker/skopeo/multi:1)" digest
}

podman_writes() {
    podman pull "$entrepot/docker/team/tool:1"
    podman save --format oci-archive --output "$airgap/podman.tar" "$entrepot/docker/team/tool:1"
    take_in "$airgap/podman.tar" --into docker=docker/podman
    # It writes another manifest, with other types: the same layers.
    podman pull "$inside/docker/podman/team/tool:1"
    same "$(podman image inspect --format '{{json .RootFS.Layers}}' "$entrepot/docker/team/tool:1")" \
        "$(podman image inspect --format '{{json .RootFS.Layers}}' "$inside/docker/podman/team/tool:1")" layers
}

# docker_writes: before Docker 25 no OCI layout, and what to do is said
docker_writes() {
    docker pull "$entrepot/docker/team/tool:1"
    docker save --output "$airgap/docker.tar" "$entrepot/docker/team/tool:1"
    if ! take_in "$airgap/docker.tar" --into docker/team=docker/saved 2>"$airgap/said"; then
        grep -F 'skopeo copy docker-archive:' "$airgap/said"
        skopeo copy "docker-archive:$airgap/docker.tar" "oci-archive:$airgap/converted.tar:docker/saved/tool:1"
        take_in "$airgap/converted.tar"
    fi
    docker pull "$inside/docker/saved/tool:1"
    same "$(docker image inspect --format '{{json .RootFS.Layers}}' "$entrepot/docker/team/tool:1")" \
        "$(docker image inspect --format '{{json .RootFS.Layers}}' "$inside/docker/saved/tool:1")" layers
}

containerd_writes() {
    local name=$entrepot/docker/team/multi:1
    ctr content fetch --hosts-dir "$containerd_home/hosts" --all-platforms "$name"
    ctr images export --all-platforms "$airgap/containerd.tar" "$name"
    take_in "$airgap/containerd.tar" --into docker/team=docker/exported
    same "${digest_of[team/multi:1]}" "$(digest_inside docker/exported/multi:1)" digest
}

crane_writes() {
    crane pull --format=oci "$entrepot/docker/team/multi:1" "$airgap/crane"
    take_in "$airgap/crane" --into docker/crane/multi:1
    same "${digest_of[team/multi:1]}" "$(digest_inside docker/crane/multi:1)" digest
}

# oras_writes: with what it has attached, which comes along in its layout, and in ours
oras_writes() {
    local name=$entrepot/pushed/oras-attached:1 inside_too
    oras copy --from-plain-http --to-plain-http "$entrepot/team/tool:1" "$name"
    echo 'nothing known' >"$airgap/findings"
    (cd "$airgap" && oras attach --plain-http --artifact-type application/vnd.example.findings "$name" findings:text/plain)
    oras copy --recursive --from-plain-http "$name" --to-oci-layout "$airgap/oras-attached:1"
    take_in "$airgap/oras-attached" --into docker/oras/attached
    "$ENTREPOT_BIN" export --server "http://$entrepot" --output "$airgap/attached.tar" docker/pushed/oras-attached:1
    take_in "$airgap/attached.tar"
    for inside_too in docker/oras/attached:1 docker/pushed/oras-attached:1; do
        oras discover --plain-http --format json "$inside/$inside_too" | tee /dev/stderr | grep -F application/vnd.example.findings
    done
    # oras finds it in our file, too.
    oras discover --oci-layout "$airgap/attached.tar@$(oras resolve --plain-http "$name")" | tee /dev/stderr |
        grep -F application/vnd.example.findings
}
