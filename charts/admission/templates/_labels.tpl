{{- define "admission.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Label selector of the namespaces. */}}
{{- define "admission.namespaces" -}}
{{ .Values.namespaceSelector | default (dict "matchLabels" (dict "pod-security.kubernetes.io/enforce" "restricted")) | toYaml }}
{{- end }}
