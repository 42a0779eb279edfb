# shellcheck shell=bash
# An issuer of OpenID Connect tokens: its keys are made and its tokens signed by openssl, its documents served over HTTPS.

issuer=https://localhost:8443
issuer_home=$work/issuer

start_issuer() {
    mkdir -p "$issuer_home"
    issue_certificate "$issuer_home/server" localhost
    issuer_key first
    issuer_publishes first
    start issuer python3 "$here/issuer.py" "${issuer##*:}" "$issuer_home/server.crt" "$issuer_home/server.key" "$issuer_home"
    wait_for issuer curl -sf --cacert "$work/authority/ca.crt" "$issuer/keys"
}

# issuer_key NAME: a new key, and its public half as a JSON Web Key
issuer_key() {
    local modulus
    openssl genrsa -out "$issuer_home/$1.pem" 2048 2>/dev/null
    modulus=$(openssl rsa -in "$issuer_home/$1.pem" -noout -modulus | sed 's/^Modulus=//' | from_hexadecimal | base64url)
    jq -n --arg kid "$1" --arg n "$modulus" '{kty: "RSA", use: "sig", alg: "RS256", e: "AQAB", $kid, $n}' >"$issuer_home/$1.jwk"
}

# issuer_publishes NAME...: these are its keys
issuer_publishes() {
    local name
    for name in "$@"; do cat "$issuer_home/$name.jwk"; done | jq -s '{keys: .}' >"$issuer_home/keys.new"
    mv "$issuer_home/keys.new" "$issuer_home/keys.json"
}

# workload_token KEY [FILTER]: a token, after jq has changed what it says
workload_token() {
    local signed
    signed=$(jq -ncj --arg kid "$1" '{alg: "RS256", typ: "JWT", $kid}' | base64url).$(
        jq -ncj --arg iss "$issuer" --argjson now "$(date +%s)" \
            '{$iss, aud: "entrepot", sub: "repo:acme/app:ref:refs/heads/main", repository_owner: "acme", iat: $now, exp: ($now + 600)}
             | '"${2:-.}" | base64url
    )
    printf '%s.%s' "$signed" "$(printf '%s' "$signed" | openssl dgst -sha256 -sign "$issuer_home/$1.pem" -binary | base64url)"
}

from_hexadecimal() { python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex(sys.stdin.read()))'; }
base64url() { base64 --wrap=0 | tr '+/' '-_' | tr -d '='; }

times_asked_for_keys() { grep -c 'GET /keys ' "$work/logs/issuer.log"; }
