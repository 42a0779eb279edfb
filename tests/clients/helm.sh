# shellcheck shell=bash
# helm, with charts in a registry. The last part of a name is the chart's, and its tag the chart's version.

helm_home=$work/helm

helm() {
    HELM_CACHE_HOME=$helm_home/cache HELM_CONFIG_HOME=$helm_home/config HELM_DATA_HOME=$helm_home/data KUBECONFIG=/dev/null \
        DOCKER_CONFIG=$helm_home/docker timeout --kill-after=5 180 "$(type -P helm)" "$@"
}

helm_version() { helm version --short; }

helm_fresh() {
    rm -rf "$helm_home"
    mkdir -p "$helm_home/docker"
}

# helm_pull NAME:VERSION DIGEST
helm_pull() {
    rm -rf "$helm_home/pulled"
    mkdir -p "$helm_home/pulled"
    helm pull --plain-http --destination "$helm_home/pulled" "oci://${1%:*}" --version "${1##*:}" 2>&1 | tee "$helm_home/said"
    same "$2" "$(sed -n 's/^Digest: //p' "$helm_home/said")" digest
    ls "$helm_home"/pulled/*.tgz
}

# helm_push NAME:VERSION: pushes a chart made here, and prints its manifest's digest
helm_push() {
    local name=${1%:*} chart
    chart=$helm_home/own/${name##*/}
    mkdir -p "$chart/templates"
    printf 'apiVersion: v2\nname: %s\nversion: %s\n' "${name##*/}" "${1##*:}" >"$chart/Chart.yaml"
    head -c 1000 /dev/urandom | base64 >"$chart/templates/NOTES.txt"
    helm package --destination "$helm_home/own" "$chart" >&2
    helm push --plain-http "$chart-${1##*:}.tgz" "oci://${name%/*}" 2>&1 | tee /dev/stderr | sed -n 's/^Digest: //p'
}

# helm_login SERVER USER PASSWORD
helm_login() { printf '%s' "$3" | helm registry login --plain-http --username "$2" --password-stdin "$1"; }
helm_logout() { helm registry logout "$1"; }
