{{- define "workload.serviceaccount" -}}
{{- if .Values.serviceAccount.create -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "workload.serviceAccountName" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- /* The pods enable the token themselves if they need it. */}}
automountServiceAccountToken: false
{{- end }}
{{- end }}

{{- define "workload.rbac" -}}
{{- if .Values.rbac.create -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
rules:
  - apiGroups: [""]
    resources: [configmaps]
    verbs: [get, list, watch]
  {{- with include "workload.secretNames" . | fromJsonArray }}
  {{- /* A rule without resource names would allow access to all Secrets in the
  namespace. */}}
  - apiGroups: [""]
    resources: [secrets]
    resourceNames: {{ toJson . }}
    verbs: [get]
  {{- end }}
  - apiGroups: ["", events.k8s.io]
    resources: [events]
    verbs: [create, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ include "workload.fullname" . | quote }}
subjects:
  - kind: ServiceAccount
    name: {{ include "workload.serviceAccountName" . | quote }}
    namespace: {{ .Release.Namespace }}
{{- end }}
{{- end }}
