{{/* Files of the ConfigMap. A chart that depends on this one can define this template again,
as all others in this library: Helm uses the definition of the parent chart. */}}
{{- define "workload.configFiles" -}}
{{- $config := dict -}}
{{- with .Values.config }}{{ $_ := set $config "config.yaml" (toYaml .) }}{{ end -}}
{{ merge $config (.Values.configFiles | default dict) | toYaml }}
{{- end }}

{{/* What a restart is needed for: the files without the keys that the service applies
while it runs, if it is to do so. */}}
{{- define "workload.restartConfig" -}}
{{- $files := include "workload.configFiles" . | fromYaml -}}
{{- if and (eq (.Values.configReload | default "roll") "reload") (hasKey $files "config.yaml") -}}
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

{{- define "workload.configmap" -}}
{{- if include "workload.configFiles" . | fromYaml -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
data:
  {{- include "workload.configFiles" . | nindent 2 }}
{{- end -}}
{{- end }}

{{- define "workload.configenv" -}}
{{- with .Values.configEnv -}}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ include "workload.configEnvName" $ | quote }}
  labels:
    {{- include "workload.labels" $ | nindent 4 }}
data:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{- define "workload.configEnvName" -}}
{{ include "workload.fullname" . | trunc 59 | trimSuffix "-" }}-env
{{- end }}
