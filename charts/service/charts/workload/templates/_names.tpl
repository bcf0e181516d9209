{{/* Name of all objects. The name of the release is sufficient, because it is
unique in its namespace. The name of a Service must not contain dots. */}}
{{- define "workload.fullname" -}}
{{- include "workload.sections" . -}}
{{- /* The revisions of a StatefulSet have names with eleven characters more. */ -}}
{{- $length := eq (include "workload.kind" .) "StatefulSet" | ternary 52 63 -}}
{{ .Values.fullnameOverride | default .Release.Name | replace "." "-" | trunc $length | trimSuffix "-" }}
{{- end }}

{{/* Fails for a section of the values that is null. A null removes the defaults of the chart, and
a template would then fail with a message that does not name the value. */}}
{{- define "workload.sections" -}}
{{- $values := .Values -}}
{{- range $kind, $names := dict
  "map" (list "image" "service" "serviceAccount" "rbac" "metrics" "ingress" "autoscaling" "podDisruptionBudget" "podAntiAffinity" "tests" "cache" "tmp" "strategy" "env" "affinity" "podLabels" "commonLabels" "podAnnotations")
  "slice" (list "secretEnv" "secretEnvFrom" "secretFiles") -}}
{{- range $names -}}
{{- if not (kindIs $kind (get $values .)) -}}
{{- fail (printf "\n%s is null, which removes the defaults that the chart needs: remove the line, or set single values below it" .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Name of the app: of its container, and in the labels. */}}
{{- define "workload.name" -}}
{{ .Values.nameOverride | default .Chart.Name | replace "." "-" | replace "_" "-" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Kind of the workload. */}}
{{- define "workload.kind" -}}
{{ .Values.kind | default "Deployment" }}
{{- end }}

{{/* Not empty if the pods run until they are stopped, so that they can be reached. */}}
{{- define "workload.longRunning" -}}
{{- if has (include "workload.kind" .) (list "Deployment" "StatefulSet" "DaemonSet") }}true{{ end -}}
{{- end }}

{{/* Not empty if the pods can be reached at a port. */}}
{{- define "workload.serves" -}}
{{- if and (include "workload.longRunning" .) .Values.ports }}true{{ end -}}
{{- end }}

{{/* Not empty if the number of pods can be set. */}}
{{- define "workload.scalable" -}}
{{- if has (include "workload.kind" .) (list "Deployment" "StatefulSet") }}true{{ end -}}
{{- end }}

{{/* Name of the port that the probes, the Ingress and the Service use, if there is one. */}}
{{- define "workload.mainPort" -}}
{{- with .Values.ports -}}
{{- $names := keys . | sortAlpha -}}
{{ $.Values.mainPort | default (ternary "http" (first $names) (has "http" $names)) }}
{{- end -}}
{{- end }}

{{/* Port of the Service for a port of the pods. The argument is a list: the context and the
name of the port. */}}
{{- define "workload.servicePort" -}}
{{- $v := (first .).Values -}}
{{- $name := last . -}}
{{- $main := eq $name (include "workload.mainPort" (first .)) -}}
{{ get ($v.service.ports | default dict) $name | default (ternary 80 (get $v.ports $name) $main) }}
{{- end }}

{{/* Labels that select the pods. The selector of a Deployment is immutable, so these
labels must not depend on values or on the version of the chart. */}}
{{- define "workload.selectorLabels" -}}
app.kubernetes.io/name: {{ include "workload.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Version as the value of a label, which allows fewer characters than a semantic
version. */}}
{{- define "workload.version" -}}
{{- $version := .Values.version | default .Values.image.tag | default .Chart.AppVersion -}}
{{ regexReplaceAll "[^A-Za-z0-9_.-]" $version "_" | trunc 63 | trimAll "-_." }}
{{- end }}

{{/* Labels of the pods. They do not contain the version of the chart, because then
every new version of the chart would replace all pods. */}}
{{- define "workload.podLabels" -}}
{{ include "workload.selectorLabels" . }}
app.kubernetes.io/version: {{ include "workload.version" . | quote }}
app: {{ include "workload.name" . | quote }}
version: {{ include "workload.version" . | quote }}
env: {{ .Values.environment | default "" | quote }}
{{- end }}

{{- define "workload.labels" -}}
{{- $own := include "workload.podLabels" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimAll "-_.") -}}
{{ merge $own .Values.commonLabels | toYaml }}
{{- end }}

{{- define "workload.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "workload.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "workload.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end }}
