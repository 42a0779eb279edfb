# shellcheck shell=bash
# Real images, made by docker and podman, and pushed to the upstream:
#
#   library/busybox, team/tool     from a static busybox, four layers, Docker's media types
#   team/debian                    from a debootstrapped Debian, three layers, Docker's media types
#   library/alpine, team/multi     an OCI index for linux/amd64 and linux/arm64
#   team/late, team/cut            like team/tool; nobody asks for the first before the upstream is stopped, and for the second before it is cut off
#   team/signed                    like team/tool, with what is attached to it
#   charts/sample                  a chart, made by helm
#
# Each has random bytes of its own, so that no other registry can have an image with its digest.

declare -A digest_of=()

random_file() { head -c "$1" /dev/urandom >"$2"; }

# busybox_context DIR: what `docker build` needs for an image from a static busybox
busybox_context() {
    mkdir -p "$1/root/bin" "$1/root/etc" "$1/root/tmp"
    cp "$(command -v busybox)" "$1/root/bin/busybox"
    ln -sf busybox "$1/root/bin/sh"
    echo 'root:x:0:0:root:/:/bin/sh' >"$1/root/etc/passwd"
    random_file 3000000 "$1/large"
    random_file 100 "$1/small"
    : >"$1/empty"
    printf '%s\n' 'FROM scratch' 'COPY root /' 'COPY large /opt/large' 'COPY small /opt/small' 'COPY empty /opt/empty' \
        'CMD ["/bin/sh"]' >"$1/Dockerfile"
}

build_busybox() {
    busybox_context "$work/context/$1"
    docker_build "$work/context/$1" "$1"
}

build_debian() {
    local context=$work/context/debian
    mkdir -p "$context"
    docker import "$debian_tar" debian-root
    random_file 2000000 "$context/data"
    random_file 100 "$context/stamp"
    printf '%s\n' 'FROM debian-root' 'COPY data /opt/data' 'COPY stamp /opt/stamp' 'CMD ["/bin/bash"]' >"$context/Dockerfile"
    docker_build "$context" debian
}

# build_multi NAME: an index of two images, in podman's store
build_multi() {
    local architecture context
    podman manifest create "$1"
    for architecture in amd64 arm64; do
        context=$work/context/$1-$architecture
        mkdir -p "$context"
        echo "for linux/$architecture" >"$context/platform"
        random_file 1000000 "$context/data"
        printf '%s\n' 'FROM scratch' 'COPY platform /platform' 'COPY data /data' >"$context/Dockerfile"
        podman build --platform "linux/$architecture" --manifest "$1" "$context"
    done
}

# to_upstream IMAGE NAME:TAG...: pushes docker's IMAGE under these names
to_upstream() {
    local image=$1 name
    shift
    for name in "$@"; do
        docker tag "$image" "$upstream/$name"
        docker push "$upstream/$name"
    done
}

# upstream_digest NAME:TAG: what the upstream itself says
upstream_digest() {
    skopeo inspect --raw --tls-verify=false --creds builder:brick "docker://$upstream/$1" | sha256sum | sed 's/\(.*\)  -/sha256:\1/'
}

fill_upstream() {
    docker login -u builder -p brick "$upstream"
    build_busybox tool
    to_upstream tool library/busybox:latest team/tool:1 team/late:1 team/signed:1
    build_debian
    to_upstream debian team/debian:12
    build_multi multi
    build_busybox cut
    to_upstream cut team/cut:1
    helm_login "$upstream" builder brick
    helm_push "$upstream/charts/sample:1.0.0"
    helm_logout "$upstream"
    local name
    for name in library/alpine:latest team/multi:1; do
        podman manifest push --all --tls-verify=false --creds builder:brick multi "docker://$upstream/$name"
    done
}

# move_busybox: the upstream's busybox becomes another image
move_busybox() {
    docker login -u builder -p brick "$upstream"
    build_busybox moved
    to_upstream moved library/busybox:latest
}

note_digests() {
    local name
    for name in library/{busybox,alpine}:latest team/{tool:1,late:1,cut:1,signed:1,debian:12,multi:1} charts/sample:1.0.0; do
        digest_of[$name]=$(upstream_digest "$name")
    done
}
