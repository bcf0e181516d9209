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
{{- $config := mergeOverwrite (deepCopy .Values.config) (dict "server" $listen) -}}
{{ merge (dict "config.yaml" (toYaml $config)) .Values.configFiles | toYaml }}
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
