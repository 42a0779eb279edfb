# shellcheck shell=bash
# The registry under test: one server that is open to everyone on loopback, and one on whose only address everybody may pull some images,
# and users more.

entrepot=127.0.0.1:5000
guarded=127.0.0.1:5010

start_entrepot() {
    cat >"$work/entrepot.yml" <<YAML
server: { listen: "$entrepot" }
storage: { path: $work/entrepot }
repositories:
  local: { type: local }
  mirror:
    type: remote
    url: http://$upstream
    insecure: true
    credentials: { username: mirror, password: "\${UPSTREAM_PASSWORD}" }
    token_realms: ["$realm"]
    tag_ttl: 1s
  docker:
    type: virtual
    members: [{ repository: local, priority: true }, mirror]
    push_to: local
    serves: [docker.io]
default: docker
YAML
    UPSTREAM_PASSWORD=glass start entrepot "$ENTREPOT_BIN" serve -c "$work/entrepot.yml"
    wait_for entrepot curl -sf "http://$entrepot/readyz"
}

start_guarded_entrepot() {
    mkdir -p "$work/guarded"
    {
        printf 'lovelace' | "$ENTREPOT_BIN" passwd ada
        printf 'builder' | "$ENTREPOT_BIN" passwd bob
    } >"$work/guarded/users"
    cat >"$work/guarded/repositories.yml" <<YAML
server: { listen: "$guarded" }
storage: { path: $work/guarded/store }
auth:
  anonymous: pull
  htpasswd: users
  policies:
    - { who: "*", may: pull, on: ["docker/team/**", "docker/library/**", "docker/charts/**", "docker/pushed/**", "local/pushed/**"] }
    - { who: bob, may: [pull, push], on: "docker/pushed/**" }
    - { who: ada, may: [pull, push], on: "**" }
audit: { to: audit.log, pulls: true }
repositories:
  local: { type: local }
  mirror: { type: remote, url: "http://$upstream", insecure: true, credentials: { username: mirror, password: glass }, token_realms: ["$realm"] }
  docker: { type: virtual, members: [{ repository: local, priority: true }, mirror], push_to: local, serves: [docker.io] }
default: docker
YAML
    start guarded "$ENTREPOT_BIN" serve -c "$work/guarded/repositories.yml"
    wait_for guarded curl -sf "http://$guarded/readyz"
}
