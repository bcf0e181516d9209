{{- define "workload.hpa" -}}
{{- with .Values.autoscaling -}}
{{- if .enabled -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "workload.fullname" $ | quote }}
  labels:
    {{- include "workload.labels" $ | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: {{ include "workload.kind" $ }}
    name: {{ include "workload.fullname" $ | quote }}
  minReplicas: {{ .minReplicas }}
  maxReplicas: {{ .maxReplicas }}
  metrics:
    {{- range $resource := list "cpu" "memory" }}
    {{- with index $.Values.autoscaling.targets $resource }}
    - type: Resource
      resource:
        name: {{ $resource }}
        target:
          type: Utilization
          averageUtilization: {{ . }}
    {{- end }}
    {{- end }}
    {{- with .targets.requestsPerSecond }}
    - type: Pods
      pods:
        metric:
          name: http_requests_per_second
        target:
          type: AverageValue
          averageValue: {{ . | quote }}
    {{- end }}
  {{- with .behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
{{- end }}
{{- end }}

{{- define "workload.vpa" -}}
{{- with .Values.verticalAutoscaling -}}
{{- if .enabled -}}
apiVersion: autoscaling.k8s.io/v1
kind: VerticalPodAutoscaler
metadata:
  name: {{ include "workload.fullname" $ | quote }}
  labels:
    {{- include "workload.labels" $ | nindent 4 }}
spec:
  targetRef:
    apiVersion: apps/v1
    kind: {{ include "workload.kind" $ }}
    name: {{ include "workload.fullname" $ | quote }}
  updatePolicy:
    updateMode: {{ .updateMode | quote }}
  resourcePolicy:
    containerPolicies:
      - containerName: {{ include "workload.name" $ | quote }}
        {{- /* The limits stay, because GOMEMLIMIT and GOMAXPROCS are derived from them. */}}
        controlledValues: RequestsOnly
        controlledResources: {{ toJson .controlledResources }}
        minAllowed:
          {{- toYaml .minAllowed | nindent 10 }}
        maxAllowed:
          {{- toYaml .maxAllowed | nindent 10 }}
      - containerName: "*"
        mode: "Off"
{{- end -}}
{{- end }}
{{- end }}

{{- define "workload.pdb" -}}
{{- if include "workload.scalable" . -}}
{{- $minReplicas := ternary .Values.autoscaling.minReplicas .Values.replicas .Values.autoscaling.enabled | int -}}
{{- with .Values.podDisruptionBudget -}}
{{- if and .enabled (gt $minReplicas 1) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "workload.fullname" $ | quote }}
  labels:
    {{- include "workload.labels" $ | nindent 4 }}
spec:
  {{- if kindIs "invalid" .minAvailable }}
  maxUnavailable: {{ .maxUnavailable }}
  {{- else }}
  minAvailable: {{ .minAvailable }}
  {{- end }}
  {{- /* A pod that is not ready serves no requests, so it must not block the drain of
  a node. */}}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "workload.selectorLabels" $ | nindent 6 }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
