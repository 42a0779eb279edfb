# shellcheck shell=bash
# What no client shows: bare answers, seen by curl.

accept='application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json'

curl_version() { curl --version | awk 'NR == 1 { print $2 }'; }

status_of() { curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}' --header "Accept: $accept" "$@"; }

# digest_at NAME:TAG: of what the server under test answers there, computed here
digest_at() {
    curl --silent --fail --max-time 30 --header "Accept: $accept" "http://$entrepot/v2/${1%:*}/manifests/${1##*:}" |
        sha256sum | sed 's/\(.*\)  -/sha256:\1/'
}

curl_status_is() { same "$1" "$(status_of "$2")" "$2"; }

# curl_namespace: ?ns= is honoured for a host that a repository serves, and answered with OCI-Namespace; no other host is dialled
curl_namespace() {
    local url=http://$entrepot/v2/library/alpine/manifests/latest
    curl --silent --fail --dump-header - --output /dev/null --header "Accept: $accept" "$url?ns=docker.io" |
        tr -d '\r' | grep -ix 'oci-namespace: docker.io'
    curl_status_is 404 "$url?ns=registry.example.org"
}

# curl_challenge: who shows nothing is asked who they are, in one line that all clients read; a login is taken as it is
curl_challenge() {
    local asked
    asked=$(curl --silent --dump-header - --output /dev/null "http://$guarded/v2/" | tr -d '\r' | grep -i '^www-authenticate:')
    same "www-authenticate: Bearer realm=\"http://$guarded/token\",service=\"${guarded%:*}\"" "$asked" challenge
    curl_status_is 401 "http://$guarded/v2/"
    same 200 "$(status_of --user ada:lovelace "http://$guarded/v2/")" 'a password'
    same 401 "$(status_of --user ada:byron "http://$guarded/v2/")" 'a wrong password'
    same 401 "$(status_of --user : "http://$guarded/v2/")" 'neither user nor password'
    same 401 "$(status_of --user ada:byron "http://$guarded/token")" 'a wrong password for a token'
    same 401 "$(status_of "http://$guarded/v2/secret/none/manifests/1")" 'a private image'
    same 403 "$(status_of --user bob:builder "http://$guarded/v2/secret/none/manifests/1")" "somebody else's image"
}

# curl_never_seen: a name that nobody could ask for is 503, and not 404, while its only source is away
curl_never_seen() {
    local path
    for path in team/late/manifests/1 docker/team/late/manifests/1 mirror/team/late/manifests/1 \
        team/never/manifests/latest "team/never/manifests/sha256:$(printf '%064d' 7)"; do
        curl_status_is 503 "http://$entrepot/v2/$path"
    done
}

# curl_seen_again: and is there again soon after
curl_seen_again() {
    patiently 60 curl_status_is 200 "http://$entrepot/v2/team/late/manifests/1"
    same "${digest_of[team/late:1]}" "$(digest_at team/late:1)" digest
    curl_status_is 404 "http://$entrepot/v2/team/never/manifests/latest"
}
