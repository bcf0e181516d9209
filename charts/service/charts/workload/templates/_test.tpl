{{- define "workload.test" -}}
{{- if and .Values.tests.enabled (include "workload.serves" .) -}}
{{- $service := include "workload.fullname" . -}}
{{- $main := include "workload.mainPort" . -}}
{{- $path := dig "readiness" "path" "" (.Values.probes | default dict) | default (get (.Values.health | default dict) "path") | default "/" -}}
{{- $urls := dict "ready" (printf "http://%s:%s%s" $service (include "workload.servicePort" (list . $main)) $path) -}}
{{- if get .Values.ports "metrics" -}}
{{- $_ := set $urls "metrics" (printf "http://%s:%s%s" $service (include "workload.servicePort" (list . "metrics")) .Values.metrics.path) -}}
{{- end -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ printf "%s-test" ($service | trunc 58 | trimSuffix "-") }}
  labels:
    {{- /* With the labels of the service, the Service would route requests to this
    pod. */}}
    app.kubernetes.io/name: {{ include "workload.testName" . | quote }}
    app.kubernetes.io/instance: {{ .Release.Name | quote }}
    app.kubernetes.io/managed-by: {{ .Release.Service }}
  annotations:
    helm.sh/hook: test
    {{- /* The pod is kept until the next test, so that its logs can be read. */}}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    {{- if .Values.tests.image }}
    - name: test
      image: {{ .Values.tests.image | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- with .Values.tests.command }}
      command: {{ toJson . }}
      {{- end }}
      env:
        {{- range $name := list "ready" "metrics" }}
        {{- with get $urls $name }}
        - name: {{ upper $name }}_URL
          value: {{ . }}
        {{- end }}
        {{- end }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      resources:
        {{- include "workload.smallResources" . | nindent 8 }}
    {{- else }}
    {{- range $name, $url := $urls }}
    - name: {{ $name }}
      image: {{ include "workload.image" $ | quote }}
      imagePullPolicy: {{ $.Values.image.pullPolicy }}
      args: {{ include "workload.healthArgs" $url }}
      securityContext:
        {{- toYaml $.Values.securityContext | nindent 8 }}
      resources:
        {{- include "workload.smallResources" $ | nindent 8 }}
    {{- end }}
    {{- end }}
{{- end }}
{{- end }}

{{/* Name of the app in the labels of the test, which differs from that of the service. */}}
{{- define "workload.testName" -}}
{{ include "workload.name" . | trunc 58 | trimSuffix "-" }}-test
{{- end }}
