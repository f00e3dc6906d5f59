{{- define "rowstream.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "rowstream.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains (include "rowstream.name" .) .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "rowstream.name" .) | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "rowstream.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rowstream.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "rowstream.labels" -}}
{{ include "rowstream.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "rowstream.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "rowstream.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "rowstream.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end }}
{{- end }}

{{- define "rowstream.connectorsConfigMap" -}}
{{- default (printf "%s-connectors" (include "rowstream.fullname" .)) .Values.existingConnectorsConfigMap }}
{{- end }}

{{/* worker.yaml, with worker.extra laid over it. */}}
{{- define "rowstream.worker" -}}
{{- $log := dict "type" .Values.mode }}
{{- if eq .Values.mode "embedded" }}
{{- $_ := set $log "partitions" (int .Values.worker.partitions) }}
{{- $_ := set $log "segment_size" .Values.embedded.segmentSize }}
{{- $_ := set $log "commit_interval" .Values.embedded.commitInterval }}
{{- $_ := set $log "retention" .Values.embedded.retention }}
{{- with .Values.embedded.retentionSize }}{{ $_ := set $log "retention_size" . }}{{ end }}
{{- else }}
{{- $_ := set $log "group" .Values.kafka.group }}
{{- $_ := set $log "bootstrap_servers" .Values.kafka.bootstrapServers }}
{{- $_ := set $log "topics" (mergeOverwrite (dict "partitions" (int .Values.worker.partitions)) (deepCopy .Values.kafka.topics)) }}
{{- with .Values.kafka.tls }}{{ $_ := set $log "tls" . }}{{ end }}
{{- with .Values.kafka.sasl }}{{ $_ := set $log "sasl" . }}{{ end }}
{{- with .Values.kafka.properties }}{{ $_ := set $log "properties" . }}{{ end }}
{{- end }}
{{- $worker := dict
      "data_dir" "/var/lib/rowstream"
      "connectors" "/etc/rowstream/connectors.d"
      "topic_log" $log
      "schema_registry" .Values.schemaRegistry
      "admin" (dict "listen" "0.0.0.0:8083" "advertised" "${env:POD_IP}:8083")
      "stop_timeout" (printf "%ds" (int .Values.worker.stopTimeoutSeconds))
      "stall_timeout" .Values.worker.stallTimeout }}
{{- toYaml (mergeOverwrite $worker (deepCopy .Values.worker.extra)) }}
{{- end }}

{{/* Fails on a secret that stands in the open. Takes (dict "path" TEXT "value" ANY "secret" BOOL). */}}
{{- define "rowstream.noPlainSecret" -}}
{{- $path := .path }}
{{- $secret := .secret }}
{{- if kindIs "map" .value }}
{{- range $key, $value := .value }}
{{- $hit := or $secret (regexMatch "(?i)(password|secrets?|signing_key|token|api_key|authorization)$" $key) }}
{{- include "rowstream.noPlainSecret" (dict "path" (printf "%s.%s" $path $key) "value" $value "secret" $hit) }}
{{- end }}
{{- else if kindIs "slice" .value }}
{{- range $i, $value := .value }}
{{- include "rowstream.noPlainSecret" (dict "path" (printf "%s[%d]" $path $i) "value" $value "secret" $secret) }}
{{- end }}
{{- else if and $secret (kindIs "string" .value) (ne .value "") (not (regexMatch "\\$\\{(env|file):[^}]+\\}" .value)) }}
{{- fail (printf "%s holds a secret in the open, and this would put it into a ConfigMap. Put it into a Secret, name that under `secrets.env` or `secrets.files`, and write ${env:NAME} or ${file:/path} here" $path) }}
{{- end }}
{{- end }}

{{/* What the schema can't say. */}}
{{- define "rowstream.check" -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled: choose one; with both, every series is scraped twice" }}
{{- end }}
{{- if and .Values.connectors .Values.existingConnectorsConfigMap }}
{{- fail "connectors and existingConnectorsConfigMap: choose one; the pods read one directory of connector files" }}
{{- end }}
{{- range $key := list "data_dir" "connectors" "admin" "stop_timeout" }}
{{- if hasKey $.Values.worker.extra $key }}
{{- fail (printf "worker.extra.%s: the chart sets it, and its volumes, ports and grace period depend on it%s" $key (eq $key "stop_timeout" | ternary "; use worker.stopTimeoutSeconds" "")) }}
{{- end }}
{{- end }}
{{- if and (eq .Values.mode "kafka") .Values.kafka.autoscaling.enabled }}
{{- if gt (int .Values.kafka.autoscaling.minReplicas) (int .Values.kafka.autoscaling.maxReplicas) }}
{{- fail "kafka.autoscaling: minReplicas is above maxReplicas" }}
{{- end }}
{{- if not (dig "requests" "cpu" "" .Values.resources) }}
{{- fail "kafka.autoscaling needs resources.requests.cpu: utilisation is a share of the request" }}
{{- end }}
{{- end }}
{{- include "rowstream.noPlainSecret" (dict "path" "connectors" "value" .Values.connectors "secret" false) }}
{{- include "rowstream.noPlainSecret" (dict "path" "kafka.sasl" "value" .Values.kafka.sasl "secret" false) }}
{{- include "rowstream.noPlainSecret" (dict "path" "kafka.properties" "value" .Values.kafka.properties "secret" false) }}
{{- include "rowstream.noPlainSecret" (dict "path" "schemaRegistry" "value" .Values.schemaRegistry "secret" false) }}
{{- include "rowstream.noPlainSecret" (dict "path" "worker.extra" "value" .Values.worker.extra "secret" false) }}
{{- end }}
