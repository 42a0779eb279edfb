# shellcheck shell=bash
# A server whose users a directory knows, whose workloads an issuer vouches for, and where certificates count; and what clients do there.

vouched=127.0.0.1:5020
certified=localhost:5021

# vouched_configuration URL [SETTING]: with the directory there
vouched_configuration() {
    cat <<YAML
server: { listen: "$vouched" }
storage: { path: $work/vouched/store }
auth:
  ldap:
    url: $1
    ${2:-}
    ca: $work/authority/ca.crt
    user_dn: uid={user},ou=people,dc=acme
    group_filter: (&(objectClass=groupOfNames)(member={dn}))
    timeout: 2s
  oidc:
    issuer: $issuer
    audience: entrepot
    ca: $work/authority/ca.crt
    claims: { repository_owner: acme, sub: "repo:acme/*:ref:refs/heads/main" }
    groups: ci
  policies:
    - { who: ["@builders", "@ci"], may: [pull, push], on: "local/**" }
    - { who: joan, may: pull, on: "local/pushed/**" }
repositories:
  local: { type: local }
default: local
YAML
}

start_vouched_entrepot() {
    mkdir -p "$work/vouched"
    vouched_configuration "ldaps://$directory" >"$work/vouched/repositories.yml"
    start vouched "$ENTREPOT_BIN" serve -c "$work/vouched/repositories.yml"
    wait_for vouched curl -sf "http://$vouched/readyz"
}

# --- with the directory -----------------------------------------------------------------------------------------------------------------

directory_push() {
    local name=$vouched/pushed/$1-directory:1 digest
    "$1_login" "$vouched" grace hopper
    digest=$("$1_push" "$name")
    "$1_logout" "$vouched"
    refused "$1_pull" "$name" "$digest"
    "$1_login" "$vouched" grace hopper
    "$1_pull" "$name" "$digest"
    "$1_logout" "$vouched"
}

directory_refuses() {
    refused "$1_login" "$vouched" grace clarke
    refused "$1_login" "$vouched" nobody hopper
    refused "$1_login" "$vouched" 'grace,ou=people,dc=acme' hopper
}

as() { status_of --user "$1" "http://$vouched/v2/"; }

# Whoever is in no group may what they may by name.
curl_directory_groups() {
    same 200 "$(as joan:clarke)" 'a user without a group'
    same 403 "$(status_of --user joan:clarke --request POST "http://$vouched/v2/pushed/joan/blobs/uploads/")" 'a push of one'
    same 202 "$(status_of --user grace:hopper --request POST "http://$vouched/v2/pushed/grace/blobs/uploads/")" 'a push of a builder'
}

# A directory that is away has not said no; what it said lately goes on.
curl_directory_away() {
    same 200 "$(as grace:hopper)" 'remembered'
    same 503 "$(as joan:other)" 'not to be asked'
    same 200 "$(as "ci:$(workload_token second)")" "a workload"
}

curl_directory_back() { same 200 "$(as joan:clarke)" 'known again'; }

# The same over StartTLS, after a reload; never in the clear.
curl_directory_start_tls() {
    local before
    before=$(grep -c STARTTLS "$work/logs/slapd.log" || true)
    vouched_configuration "ldap://$directory_plain" 'start_tls: true' >"$work/vouched/repositories.yml"
    kill -HUP "${pid_of[vouched]}"
    patiently 20 more_start_tls "$before"
}

more_start_tls() {
    same 200 "$(as grace:hopper)" 'by StartTLS'
    (($(grep -c STARTTLS "$work/logs/slapd.log") > $1))
}

# --- with the issuer --------------------------------------------------------------------------------------------------------------------

workload_push() {
    local name=$vouched/pushed/$1-workload:1 digest
    "$1_login" "$vouched" ci "$(workload_token first)"
    digest=$("$1_push" "$name")
    "$1_pull" "$name" "$digest"
    "$1_logout" "$vouched"
}

workload_refused() {
    refused "$1_login" "$vouched" ci "$(workload_token first '.repository_owner = "umbrella"')"
    refused "$1_login" "$vouched" ci "$(workload_token first '.aud = "another"')"
    refused "$1_login" "$vouched" ci "$(workload_token first '.exp = .iat - 120')"
}

curl_workload() {
    same 200 "$(status_of --oauth2-bearer "$(workload_token first)" "http://$vouched/v2/")" 'a bearer'
    same 401 "$(status_of --oauth2-bearer "$(workload_token first 'del(.exp)')" "http://$vouched/v2/")" 'one without an end'
    same 401 "$(status_of --oauth2-bearer "$(workload_token first '.sub = "repo:acme/app:ref:refs/heads/other"')" "http://$vouched/v2/")" \
        'another branch'
}

# A new key is taken within a minute, an old one not any more, and the issuer is not asked more often than that.
curl_workload_keys_exchanged() {
    local asked
    issuer_key second
    issuer_publishes second
    asked=$(times_asked_for_keys)
    patiently 75 bearer_is_taken "$(workload_token second)"
    same 401 "$(status_of --oauth2-bearer "$(workload_token first)" "http://$vouched/v2/")" 'the old key'
    (($(times_asked_for_keys) <= asked + 2))
}

bearer_is_taken() { same 200 "$(status_of --oauth2-bearer "$1" "http://$vouched/v2/")" 'the new key'; }

# --- with a certificate -----------------------------------------------------------------------------------------------------------------

curl_certificates() {
    local url=https://$certified/v2/ ca=(--cacert "$work/authority/ca.crt")
    mkdir -p "$work/certified"
    issue_certificate "$work/certified/server" localhost
    issue_certificate "$work/certified/grace" grace
    openssl req -x509 -newkey rsa:2048 -noenc -days 2 -subj /CN=grace -keyout "$work/certified/strange.key" \
        -out "$work/certified/strange.crt" 2>/dev/null
    cat >"$work/certified/repositories.yml" <<YAML
server:
  listen: "127.0.0.1:${certified##*:}"
  tls: { cert: server.crt, key: server.key, client_ca: $work/authority/ca.crt }
storage: { path: $work/certified/store }
auth:
  policies:
    - { who: grace, may: [pull, push], on: "**" }
repositories:
  local: { type: local }
YAML
    start certified "$ENTREPOT_BIN" serve -c "$work/certified/repositories.yml"
    wait_for certified curl -sf "${ca[@]}" "https://$certified/readyz"
    same 401 "$(status_of "${ca[@]}" "$url")" 'no certificate'
    same 200 "$(status_of "${ca[@]}" --cert "$work/certified/grace.crt" --key "$work/certified/grace.key" "$url")" 'a certificate'
    refused curl --silent "${ca[@]}" --cert "$work/certified/strange.crt" --key "$work/certified/strange.key" "$url"
    stop certified
}
