# shellcheck shell=bash
# Watchtower, beside a dockerd and a container that runs: it asks a registry, by https only, whether a tag still means what the container was
# made of. Its successor, whose module cannot be had everywhere, is replayed: the requests of both lines, with their lists of types.

WATCHTOWERS=(
    'application/vnd.docker.distribution.manifest.v2+json|application/vnd.docker.distribution.manifest.list.v2+json|application/vnd.docker.distribution.manifest.v1+json|application/vnd.oci.image.index.v1+json'
    'application/vnd.docker.distribution.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json'
)

watched=localhost:5050
# What containers with networks of their own can reach, too.
watched_address=10.77.0.1
watchtower_home=$work/watchtower

watchtower_version() { echo "$WATCHTOWER"; }

start_watched_entrepot() {
    mkdir -p "$watchtower_home/config"
    ip address add "$watched_address/32" dev lo
    issue_certificate "$watchtower_home/server" localhost "$watched_address"
    printf 'lovelace' | "$ENTREPOT_BIN" passwd ada >"$watchtower_home/users"
    cat >"$watchtower_home/repositories.yml" <<YAML
server: { listen: "0.0.0.0:${watched##*:}", tls: { cert: server.crt, key: server.key } }
storage: { path: $watchtower_home/store }
auth:
  anonymous: pull
  htpasswd: users
  policies:
    - { who: "*", may: pull, on: ["docker/watched/**", "docker/team/**"] }
    - { who: ada, may: [pull, push], on: "**" }
repositories:
  local: { type: local }
  mirror: { type: remote, url: "http://$upstream", insecure: true, credentials: { username: mirror, password: glass }, token_realms: ["$realm"], tag_ttl: 1s }
  docker: { type: virtual, members: [{ repository: local, priority: true }, mirror], push_to: local, serves: [docker.io] }
default: docker
YAML
    start watched "$ENTREPOT_BIN" serve -c "$watchtower_home/repositories.yml"
    wait_for watched curl --silent --fail --cacert "$work/authority/ca.crt" "https://$watched/readyz"
}

# watch CONTAINER: one look at it; what it says stays in a file
watch() {
    DOCKER_CONFIG=$watchtower_home/config SSL_CERT_FILE=$work/authority/ca.crt \
        DOCKER_API_VERSION=$(docker version --format '{{.Server.APIVersion}}') \
        timeout --kill-after=5 120 "$tools/watchtower-$WATCHTOWER-static" --run-once --no-startup-message --debug --stop-timeout 1s "$1" 2>&1 |
        tee "$watchtower_home/said"
}

# push_watched NAME: an index of two images, new ones each time
push_watched() {
    local architecture context
    podman manifest rm watched || true
    podman manifest create watched
    for architecture in amd64 arm64; do
        context=$work/context/watched-$architecture
        busybox_context "$context"
        podman build --platform "linux/$architecture" --manifest watched "$context"
    done
    podman manifest push --all --tls-verify=false --creds ada:lovelace --digestfile "$watchtower_home/pushed" watched "docker://$watched/$1"
}

# run_watched CONTAINER NAME
run_watched() {
    docker pull "$watched/$2"
    docker run --detach --name "$1" --network none "$watched/$2" /bin/busybox sleep 1000
}

image_of() { docker inspect --format '{{.Image}}' "$1"; }

# sees_no_update CONTAINER: it asked, found the same, and pulled nothing
sees_no_update() {
    local before
    before=$(image_of "$1")
    watch "$1"
    grep -F 'Found a match' "$watchtower_home/said"
    grep -F 'Failed=0 Scanned=1 Updated=0' "$watchtower_home/said"
    refused grep -F 'Pulling image' "$watchtower_home/said"
    same "$before" "$(image_of "$1")" image
}

# sees_update CONTAINER
sees_update() {
    local before
    before=$(image_of "$1")
    watch "$1"
    grep -F 'Failed=0 Scanned=1 Updated=1' "$watchtower_home/said"
    [[ $before != "$(image_of "$1")" ]]
}

watchtower_unchanged() {
    push_watched watched/app:1
    run_watched app watched/app:1
    sees_no_update app
}

watchtower_changed() {
    local digest
    digest=$(running_digest app)
    push_watched watched/app:1
    [[ $digest != "$(cat "$watchtower_home/pushed")" ]]
    both_lines_are_told "$(cat "$watchtower_home/pushed")"
    sees_update app
    sees_no_update app
}

both_lines_see_no_update() { both_lines_are_told "$(running_digest app)"; }

# running_digest CONTAINER: by which digest what it is made of was pulled
running_digest() { docker inspect --format '{{join .RepoDigests "\n"}}' "$(image_of "$1")" | sed -n 's/.*@//p' | head -n 1; }

# An image that not everybody may pull: with a login, and without one it pulls each time, in vain.
watchtower_private() {
    printf 'lovelace' | docker login --username ada --password-stdin "$watched"
    push_watched private/app:1
    run_watched private private/app:1
    docker logout "$watched"
    watch private
    grep -F 'Failed=0 Scanned=1 Updated=0' "$watchtower_home/said"
    refused grep -F 'Found a match' "$watchtower_home/said"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "$watched" "$(printf 'ada:lovelace' | base64)" >"$watchtower_home/config/config.json"
    sees_no_update private
    rm "$watchtower_home/config/config.json"
}

# watchtower_as_printed: in a container, beside one that it looks at, as compose makes them of what is printed. Nobody may pull either image without
# a login. In /run and /root/.docker is what the file expects there, and for this daemon only.
watchtower_as_printed() {
    local address=$watched_address:${watched##*:} context=$work/context/watchtower before
    trap 'stop dockerd' EXIT
    docker_empty
    echo '{}' >"$docker_home/daemon.json"
    mkdir -p /root/.docker "$context"
    printf '{"auths":{"%s":{"auth":"%s"}}}' "$address" "$(printf 'ada:lovelace' | base64)" >"$docker_home/config/config.json"
    # shellcheck disable=SC2016 # for the other shell
    SSL_CERT_FILE=$work/authority/ca.crt docker_start unshare --mount bash -ec '
        mount -t tmpfs tmpfs /run
        mount --bind "$DOCKER_CONFIG" /root/.docker
        exec "$@" --host=unix:///var/run/docker.sock' watchtower
    cp "$tools/watchtower-$WATCHTOWER-static" "$context/watchtower"
    cp "$work/authority/ca.crt" "$context/ca.crt"
    printf '%s\n' 'FROM scratch' 'COPY ca.crt /etc/ssl/certs/ca-certificates.crt' 'COPY watchtower /watchtower' 'ENTRYPOINT ["/watchtower"]' >"$context/Dockerfile"
    docker_build "$context" "$address/docker/containrrr/watchtower"
    docker push "$address/docker/containrrr/watchtower"
    push_sleeping "$address/docker/library/nginx:1"
    "$ENTREPOT_BIN" clients -c "$watchtower_home/repositories.yml" --url "https://$address" --json --for watchtower |
        jq -er '.[] | select(.file == "compose.yaml").text' | tee "$docker_home/compose.yaml"
    composed up --detach app
    before=$(image_of "$(composed ps --quiet app)")
    watch_composed
    grep -F 'Found a match' "$watchtower_home/said"
    grep -F 'Failed=0 Scanned=2 Updated=0' "$watchtower_home/said"
    push_sleeping "$address/docker/library/nginx:1"
    watch_composed
    grep -F 'Failed=0 Scanned=2 Updated=1' "$watchtower_home/said"
    [[ $before != "$(image_of "$(composed ps --quiet app)")" ]]
}

composed() { timeout --kill-after=5 180 docker-compose --project-directory "$docker_home" --file "$docker_home/compose.yaml" "$@"; }

# watch_composed: one look at both containers; what it says stays in a file
watch_composed() {
    composed run --rm watchtower --run-once --no-startup-message --debug --stop-timeout 1s 2>&1 | tee "$watchtower_home/said"
}

# push_sleeping NAME: an image whose container goes on running, another one each time; the daemon keeps no such name
push_sleeping() {
    busybox_context "$work/context/sleeping"
    echo 'CMD ["/bin/busybox", "sleep", "1000"]' >>"$work/context/sleeping/Dockerfile"
    docker_build "$work/context/sleeping" "$1"
    docker push "$1"
    docker rmi "$1"
}

# What comes from an upstream that is away, and was seen before.
watchtower_upstream_down() {
    stop_upstream
    sees_no_update remote
    start_upstream
}

# both_lines_are_told DIGEST: it is the answer to the recorded requests of both lines: the challenge, whose words they take in lower case, a token for
# it, and a HEAD
both_lines_are_told() {
    local types challenge realm service token ca=(--silent --cacert "$work/authority/ca.crt") image=watched/app
    local -a headers
    for types in "${WATCHTOWERS[@]}"; do
        challenge=$(curl "${ca[@]}" --dump-header - --output /dev/null --header 'Accept: */*' "https://$watched/v2/" |
            tr -d '\r' | sed -n 's/^www-authenticate: //Ip' | tr '[:upper:]' '[:lower:]')
        realm=$(sed -n 's/.*realm="\([^"]*\)".*/\1/p' <<<"$challenge")
        service=$(sed -n 's/.*service="\([^"]*\)".*/\1/p' <<<"$challenge")
        token=$(curl "${ca[@]}" --get --data-urlencode "service=$service" --data-urlencode "scope=repository:$image:pull" "$realm" | jq -er .token)
        mapfile -t headers < <(tr '|' '\n' <<<"$types" | sed 's/^/--header\nAccept: /')
        same "$1" \
            "$(curl "${ca[@]}" --fail --head --header "Authorization: Bearer $token" "${headers[@]}" \
                "https://$watched/v2/$image/manifests/1" | tr -d '\r' | sed -n 's/^docker-content-digest: //Ip')" digest
    done
}
