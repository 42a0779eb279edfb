# shellcheck shell=bash
# cosign, with one key and no transparency log. It has two kinds of signatures: an older one under a tag, `sha256-….sig`, and a bundle
# that refers to the image. What it pulls is signatures, and what it pushes is an image with signatures.

cosign_home=$work/cosign
cosign_keys=$work/cosign-keys

cosign() { DOCKER_CONFIG=$cosign_home HOME=$cosign_home COSIGN_PASSWORD='' timeout --kill-after=5 180 "$tools/cosign-$COSIGN" "$@"; }

cosign_version() { echo "$COSIGN"; }

cosign_fresh() {
    rm -rf "$cosign_home"
    mkdir -p "$cosign_home" "$cosign_keys"
    [[ -s $cosign_keys/cosign.key ]] || (cd "$cosign_keys" && cosign generate-key-pair)
}

# Without what would be asked elsewhere: logs, authorities, times.
cosign_alone=(--key "$cosign_keys/cosign.key" --yes --tlog-upload=false --use-signing-config=false)

# cosign_sign NAME@DIGEST [OPTION...]: both kinds
cosign_sign() {
    local bundle image=$1
    shift
    for bundle in false true; do
        cosign sign "${cosign_alone[@]}" --new-bundle-format="$bundle" --allow-http-registry "$@" "$image"
    done
}

# cosign_verify BUNDLE NAME@DIGEST [OPTION...]: prints what was signed; BUNDLE says of which kind
cosign_verify() {
    local bundle=$1 image=$2
    shift 2
    cosign verify --key "$cosign_keys/cosign.pub" --insecure-ignore-tlog --new-bundle-format="$bundle" --allow-http-registry "$@" "$image"
}

# cosign_pull NAME DIGEST: its signatures
cosign_pull() {
    local bundle name=${1%@*}
    [[ $1 == *@* ]] || name=${1%:*}
    for bundle in false true; do cosign_verify "$bundle" "$name@$2" | grep -F "$2"; done
}

# cosign_push NAME:TAG: copies an image from the open server, signs it there, and prints its digest
cosign_push() {
    local digest=${digest_of[team/tool:1]}
    cosign copy --allow-http-registry "$entrepot/team/tool:1" "$1" >&2
    cosign_sign "${1%:*}@$digest" >&2
    echo "$digest"
}

# cosign_login SERVER USER PASSWORD: it only writes it down, so it is proved by a question
cosign_login() {
    printf '%s' "$3" | cosign login --username "$2" --password-stdin "$1"
    cosign_verify true "$1/docker/team/signed@${digest_of[team/signed:1]}"
}
cosign_logout() { rm "$cosign_home/config.json"; }

# What it deletes is signatures.
cosign_cleans() {
    local digest name=$entrepot/pushed/cosign-cleaned tag
    digest=$(cosign_push "$name:1")
    tag=http://$entrepot/v2/pushed/cosign-cleaned/manifests/${digest/:/-}.sig
    curl_status_is 200 "$tag"
    cosign clean --type all --force --allow-http-registry "$name@$digest"
    curl_status_is 404 "$tag"
    refused cosign_verify true "$name@$digest"
    curl_status_is 200 "http://$entrepot/v2/pushed/cosign-cleaned/manifests/$digest"
}
