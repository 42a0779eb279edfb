# shellcheck shell=bash
# What belongs to an image and was attached to it at the upstream, which knows no referrers but by a tag, seen through the virtual repository.

# The upstream's store at an address that asks for no login, for as long as a cell lasts: cosign's library believes no token server that is
# another port of this machine.
opened=127.0.0.1:5003

open_upstream() {
    trap 'stop opened' EXIT
    sed "s/^http:.*/http: { addr: $opened, secret: test }/; /^auth:/d" "$work/upstream.yml" >"$work/opened.yml"
    start opened docker-registry serve "$work/opened.yml"
    wait_for opened curl --silent --fail "http://$opened/v2/"
}

# attach_upstream: what somebody has found out about an image, and signatures of both kinds
attach_upstream() {
    echo 'nothing known' >"$work/findings"
    (cd "$work" && oras attach --plain-http --username builder --password brick \
        --artifact-type application/vnd.example.findings "$upstream/team/signed:1" findings:text/plain)
    open_upstream
    cosign_sign "$opened/team/signed@${digest_of[team/signed:1]}"
}

# Clients keep the tag of such an upstream themselves, and not all of them write into it what annotations a referrer has. Here they are told, as the
# API has to.
alike='walk(if type == "object" then del(.annotations) else . end)'

referrers() { "$1_referrers"; }

oras_referrers() {
    oras discover --plain-http --username builder --password brick --format json "$upstream/team/signed:1" |
        sed "s,$upstream/,," | tee "$oras_home/upstream.json"
    oras discover --plain-http --format json "$entrepot/docker/team/signed:1" |
        sed "s,$entrepot/docker/,," | tee "$oras_home/here.json"
    grep -F application/vnd.example.findings "$oras_home/here.json"
    diff <(jq -S "$alike" "$oras_home/upstream.json") <(jq -S "$alike" "$oras_home/here.json")
}

regctl_referrers() {
    regctl_login "$upstream" builder brick
    regctl artifact list --format body "$upstream/team/signed:1" | tee "$regctl_home/upstream.json"
    regctl artifact list --format body "$entrepot/docker/team/signed:1" | tee "$regctl_home/here.json"
    regctl_logout "$upstream"
    grep -F application/vnd.example.findings "$regctl_home/here.json"
    diff <(jq -S "$alike" "$regctl_home/upstream.json") <(jq -S "$alike" "$regctl_home/here.json")
}

cosign_referrers() {
    local bundle image=team/signed@${digest_of[team/signed:1]}
    open_upstream
    for bundle in false true; do
        cosign_verify "$bundle" "$opened/$image" | sed "s,$opened/,," | tee "$cosign_home/upstream.json"
        cosign_verify "$bundle" "$entrepot/docker/$image" | sed "s,$entrepot/docker/,,; s,$opened/,," | tee "$cosign_home/here.json"
        grep -F "${image#*@}" "$cosign_home/here.json"
        diff <(jq -S . "$cosign_home/upstream.json") <(jq -S . "$cosign_home/here.json")
    done
}
