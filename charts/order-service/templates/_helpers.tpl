{{/* Name of every object. The release's name is enough: two releases of one
namespace cannot share it. A Service's name may hold no dots. */}}
{{- define "order-service.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name | replace "." "-" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select the pods. A Deployment's selector is immutable: nothing
that a value or a new version can change belongs here. */}}
{{- define "order-service.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Version as a label's value, which allows fewer characters than semver does. */}}
{{- define "order-service.version" -}}
{{- $version := .Values.version | default .Values.image.tag | default .Chart.AppVersion -}}
{{ regexReplaceAll "[^A-Za-z0-9_.-]" $version "_" | trunc 63 | trimAll "-_." }}
{{- end }}

{{/* Labels of the pods. Unlike those of the other objects they name no chart
version, or a new chart would roll pods that it leaves as they are. */}}
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

{{/* Files of the ConfigMap. The container's ports decide the addresses that the
service listens on, so that probes, Service and service cannot disagree. */}}
{{- define "order-service.configFiles" -}}
{{- $listen := dict "listen" (printf ":%d" (int .Values.ports.http)) "metrics_listen" (printf ":%d" (int .Values.ports.metrics)) -}}
{{- $config := mergeOverwrite (deepCopy .Values.config) (dict "server" $listen) -}}
{{ merge (dict "config.yaml" (toYaml $config)) .Values.configFiles | toYaml }}
{{- end }}

{{/* Secrets that the values name, as a JSON list. */}}
{{- define "order-service.secretNames" -}}
{{- $names := list -}}
{{- range concat .Values.secretEnv .Values.secretEnvFrom .Values.secretFiles -}}
{{- $names = append $names .secret -}}
{{- end -}}
{{ $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Resources of the containers that only ask a question: waiting and tests. */}}
{{- define "order-service.smallResources" -}}
requests:
  cpu: 10m
  memory: 32Mi
limits:
  cpu: 200m
  memory: 128Mi
{{- end }}
