# shellcheck shell=bash
# Images that clients delete: gone by tag and by digest, at once.

delete() {
    local digest name=pushed/$1-deleted:1
    digest=$("$1_push" "$entrepot/$name")
    curl_status_is 200 "http://$entrepot/v2/${name%:*}/manifests/$digest"
    "$1_delete" "$entrepot/$name" "$digest"
    curl_status_is 404 "http://$entrepot/v2/${name%:*}/manifests/1"
    curl_status_is 404 "http://$entrepot/v2/${name%:*}/manifests/$digest"
}

# Each gets NAME:TAG DIGEST.
skopeo_delete() { skopeo delete "docker://$1"; }
regctl_delete() { regctl manifest delete "${1%:*}@$2"; }
crane_delete() { crane delete "${1%:*}@$2"; }
oras_delete() { oras manifest delete --plain-http --force "$1"; }
