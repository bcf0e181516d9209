{{/* Not empty if the program sends traces or metrics, which then say from which pod. */}}
{{- define "workload.exportsTelemetry" -}}
{{ get (.Values.env | default dict) "OTEL_EXPORTER_OTLP_ENDPOINT" }}
{{- end }}

{{- define "workload.env" -}}
{{- /* A variable of the values replaces one of the same name that the chart sets. */ -}}
{{- $given := keys (.Values.env | default dict) -}}
{{- range .Values.extraEnv }}{{ $given = append $given .name }}{{ end -}}
{{- range $name, $path := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_IP" "status.podIP" "NODE_NAME" "spec.nodeName" }}
{{- if not (has $name $given) }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
{{- end }}
{{- if and .Values.gomaxprocs (not (has "GOMAXPROCS" $given)) (dig "limits" "cpu" "" (.Values.resources | default dict)) }}
- name: GOMAXPROCS
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
{{- end }}
{{- with has "GOMEMLIMIT" $given | ternary "" (include "workload.gomemlimit" .) }}
- name: GOMEMLIMIT
  value: {{ . }}
{{- end }}
{{- if and (include "workload.exportsTelemetry" .) (not (has "OTEL_RESOURCE_ATTRIBUTES" $given)) }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),k8s.node.name=$(NODE_NAME)
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name | quote }}
  value: {{ $value | quote }}
{{- end }}
{{- range .Values.secretEnv }}
- name: {{ .name | quote }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret | quote }}
      key: {{ .key | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Value of GOMEMLIMIT, or nothing. A percentage is taken of the container's memory limit,
rounded down to MiB. */}}
{{- define "workload.gomemlimit" -}}
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
{{- define "workload.secretNames" -}}
{{- $names := list -}}
{{- range concat .Values.secretEnv .Values.secretEnvFrom .Values.secretFiles -}}
{{- $names = append $names .secret -}}
{{- end -}}
{{ $names | uniq | sortAlpha | toJson }}
{{- end }}

{{/* Resources of the containers that wait for a dependency or run a test. */}}
{{- define "workload.smallResources" -}}
requests:
  cpu: 10m
  memory: 32Mi
limits:
  cpu: 200m
  memory: 128Mi
{{- end }}
