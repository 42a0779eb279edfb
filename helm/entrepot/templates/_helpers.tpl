{{- define "entrepot.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "entrepot.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "entrepot.selectorLabels" -}}
app.kubernetes.io/name: {{ include "entrepot.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "entrepot.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "entrepot.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "entrepot.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "entrepot.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "entrepot.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "entrepot.claimName" -}}
{{- default (printf "%s-data" (include "entrepot.fullname" .)) .Values.persistence.existingClaim }}
{{- end }}

{{/*
What would install and then not work is refused here, with what to do about it.
*/}}
{{- define "entrepot.validate" -}}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount is %d: one process owns the store, so there is one pod. What must survive the loss of a node is the volume, not a second pod." (int .Values.replicaCount)) }}
{{- end }}
{{- if not .Values.config.repositories }}
{{- fail "config.repositories is empty: a registry without a repository has nothing to answer." }}
{{- end }}
{{- $path := dig "storage" "path" "" .Values.config }}
{{- if not (hasPrefix "/" $path) }}
{{- fail (printf "config.storage.path is %q: it is where the volume is mounted, so it has to begin with a slash." $path) }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.enabled without ingress.hosts: name at least one host." }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (dig "server" "metrics" "" .Values.config) (not (include "entrepot.metricsPort" .)) }}
{{- fail "serviceMonitor.enabled, but config.server.metrics is a loopback address: Prometheus could not reach it." }}
{{- end }}
{{- end }}

{{/*
The port of an address such as 0.0.0.0:5000; nothing for a loopback address, which nobody outside the pod can reach.
*/}}
{{- define "entrepot.port" -}}
{{- if not (regexMatch "^(\\[.+\\]|[^:\\[]+):[0-9]+$" .) }}
{{- fail (printf "%q in config.server is not an address with a port, such as 0.0.0.0:5000." .) }}
{{- end }}
{{- if not (regexMatch "^(127\\.|localhost:|\\[::1\\])" .) }}
{{- regexFind "[0-9]+$" . }}
{{- end }}
{{- end }}

{{/*
The ports that config.server.listen is reached at, the first one first, as JSON: {"ports": [5000]}.
*/}}
{{- define "entrepot.listenPorts" -}}
{{- $listen := dig "server" "listen" "127.0.0.1:5000" .Values.config }}
{{- if not (kindIs "slice" $listen) }}
{{- $listen = list $listen }}
{{- end }}
{{- $ports := list }}
{{- range $listen }}
{{- $address := . }}
{{- if kindIs "map" . }}
{{- $address = .address }}
{{- end }}
{{- with include "entrepot.port" $address }}
{{- $ports = append $ports (int .) }}
{{- end }}
{{- end }}
{{- if not $ports }}
{{- fail "config.server.listen has loopback addresses only: nothing outside the pod could reach it. Say 0.0.0.0:5000." }}
{{- end }}
{{- dict "ports" (uniq $ports) | toJson }}
{{- end }}

{{/*
The port of config.server.metrics, or nothing when metrics are on the main address or on loopback.
*/}}
{{- define "entrepot.metricsPort" -}}
{{- with dig "server" "metrics" "" .Values.config }}
{{- include "entrepot.port" . }}
{{- end }}
{{- end }}

{{- define "entrepot.tls" -}}
{{- if dig "server" "tls" nil .Values.config }}true{{ end }}
{{- end }}

{{/*
What the first port speaks, and its name.
*/}}
{{- define "entrepot.scheme" -}}
{{- ternary "https" "http" (eq (include "entrepot.tls" .) "true") }}
{{- end }}

{{/*
Whom a probe asks: as `entrepot healthcheck` does, the address of metrics when there is one. It is plain HTTP, wants no client
certificate, and is not behind the limit of connections.
*/}}
{{- define "entrepot.probeTarget" -}}
{{- if include "entrepot.metricsPort" . -}}
port: metrics
{{- else -}}
port: {{ include "entrepot.scheme" . }}
scheme: {{ include "entrepot.scheme" . | upper }}
{{- end }}
{{- end }}

{{/*
A time as the configuration writes it (90s, 1h30m) in whole seconds, rounded up.
*/}}
{{- define "entrepot.seconds" -}}
{{- if not (regexMatch "^([0-9]+(ms|s|m|h|d))+$" .) }}
{{- fail (printf "config.server.drain is %q, from which no time can be told; say e.g. 60s, or set terminationGracePeriodSeconds." .) }}
{{- end }}
{{- $milliseconds := 0 }}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 }}
{{- $unit := regexFind "[a-z]+$" . }}
{{- $number := trimSuffix $unit . | int }}
{{- $milliseconds = add $milliseconds (mul $number (get (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit)) }}
{{- end }}
{{- div (add $milliseconds 999) 1000 }}
{{- end }}

{{- define "entrepot.gracePeriod" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds }}
{{- add (include "entrepot.seconds" (dig "server" "drain" "60s" .Values.config | toString)) 10 }}
{{- else }}
{{- int .Values.terminationGracePeriodSeconds }}
{{- end }}
{{- end }}
