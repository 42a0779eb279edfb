# shellcheck shell=bash
# The upstream: Docker's own registry, private, behind a Bearer token server on another port. It can be stopped and started again.

upstream=127.0.0.1:5001
realm=127.0.0.1:5002

prepare_upstream() {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout "$work/token.key" -out "$work/token.crt" 2>/dev/null
    cat >"$work/upstream.yml" <<YAML
version: 0.1
log: { level: warn, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $work/upstream } }
http: { addr: $upstream, secret: test }
auth: { token: { realm: "http://$realm/token", service: upstream, issuer: test, rootcertbundle: $work/token.crt } }
YAML
}

start_upstream() {
    start token-server python3 "$here/token-server.py" "$realm" "$work/token.key" "$work/token.crt" upstream \
        builder:brick:pull,push mirror:glass:pull
    start upstream docker-registry serve "$work/upstream.yml"
    wait_for token-server curl -s "http://$realm/token"
    wait_for upstream curl -s "http://$upstream/v2/"
}

stop_upstream() {
    stop upstream
    stop token-server
}
