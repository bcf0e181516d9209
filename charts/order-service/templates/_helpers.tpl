{{/* Name of all objects. The name of the release is sufficient, because it is
unique in its namespace. The name of a Service must not contain dots. */}}
{{- define "order-service.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name | replace "." "-" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select the pods. The selector of a Deployment is immutable, so these
labels must not depend on values or on the version of the chart. */}}
{{- define "order-service.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Version as the value of a label, which allows fewer characters than a semantic
version. */}}
{{- define "order-service.version" -}}
{{- $version := .Values.version | default .Values.image.tag | default .Chart.AppVersion -}}
{{ regexReplaceAll "[^A-Za-z0-9_.-]" $version "_" | trunc 63 | trimAll "-_." }}
{{- end }}

{{/* Labels of the pods. They do not contain the version of the chart, because then
every new version of the chart would replace all pods. */}}
{{- define "order-service.podLabels" -}}
{{ include "order-service.selectorLabels" . }}
app.kubernetes.io/version: {{ include "order-service.version" . | quote }}
app: {{ .Chart.Name }}
version: {{ include "order-service.version" . | quote }}
env: {{ .Values.environment | quote }}
{{- end }}

{{- define "order-service.labels" -}}
{{- $own := include "order-service.podLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") -}}
{{ merge $own .Values.commonLabels | toYaml }}
{{- end }}

{{- define "order-service.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "order-service.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "order-service.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end }}

{{/* Files of the ConfigMap. The addresses that the service listens on are derived
from the container's ports, so that they always match the probes and the Service. */}}
{{- define "order-service.configFiles" -}}
{{- $listen := dict "listen" (printf ":%d" (int .Values.ports.http)) "metrics_listen" (printf ":%d" (int .Values.ports.metrics)) -}}
{{- $config := mergeOverwrite (dict "app" (dict "environment" .Values.environment)) (deepCopy .Values.config) (dict "server" $listen) -}}
{{ merge (dict "config.yaml" (toYaml $config)) .Values.configFiles | toYaml }}
{{- end }}

{{/* What a restart is needed for: the files without the keys that the service applies
while it runs, if it is to do so. */}}
{{- define "order-service.restartConfig" -}}
{{- $files := include "order-service.configFiles" . | fromYaml -}}
{{- if eq .Values.configReload "reload" -}}
{{- $config := get $files "config.yaml" | fromYaml -}}
{{- range .Values.reloadable -}}
{{- $path := splitList "." . -}}
{{- $section := get $config (first $path) -}}
{{- if eq (len $path) 1 -}}
{{- $_ := unset $config (first $path) -}}
{{- else if kindIs "map" $section -}}
{{- $_ := unset $section (last $path) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $files "config.yaml" (toYaml $config) -}}
{{- end -}}
{{ toYaml $files }}
{{- end }}

{{/* Value of GOMEMLIMIT, or nothing. A percentage is taken of the container's memory limit,
rounded down to MiB. */}}
{{- define "order-service.gomemlimit" -}}
{{- $limit := dig "limits" "memory" "" (.Values.resources | default dict) -}}
{{- $limit = ternary (printf "%.0f" $limit) (toString $limit) (kindIs "float64" $limit) -}}
{{- if not (hasSuffix "%" (.Values.gomemlimit | default "")) -}}
{{ .Values.gomemlimit }}
{{- else if regexMatch "^[0-9]+([.][0-9]+)?(k|[MGTPE]|[KMGTPE]i)?$" $limit -}}
{{- $unit := regexReplaceAll "^[0-9.]+" $limit "" -}}
{{- $factors := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{- $bytes := mulf (trimSuffix $unit $limit | float64) (get $factors $unit | float64) -}}
{{ divf (mulf $bytes (trimSuffix "%" .Values.gomemlimit | float64)) 104857600 | floor | int64 }}MiB
{{- end -}}
{{- end }}

{{/* Names of the Secrets in the values, as a JSON list. */}}
{{- define "order-service.secretNames" -}}
{{- $names := list -}}
{{- range concat .Values.secretEnv .Values.secretEnvFrom .Values.secretFiles -}}
{{- $names = append $names .secret -}}
{{- end -}}
{{ $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Resources of the containers that wait for a dependency or run a test. */}}
{{- define "order-service.smallResources" -}}
requests:
  cpu: 10m
  memory: 32Mi
limits:
  cpu: 200m
  memory: 128Mi
{{- end }}
