{{- define "workload.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
spec:
  {{- if not .Values.autoscaling.enabled }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  revisionHistoryLimit: {{ .Values.revisionHistoryLimit }}
  progressDeadlineSeconds: {{ .Values.progressDeadlineSeconds }}
  minReadySeconds: {{ .Values.minReadySeconds }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      {{- toYaml .Values.strategy | nindent 6 }}
  selector:
    matchLabels:
      {{- include "workload.selectorLabels" . | nindent 6 }}
  template:
    {{- include "workload.pod" . | nindent 4 }}
{{- end }}

{{- define "workload.statefulset" -}}
{{- $set := .Values.statefulSet -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
spec:
  {{- if not .Values.autoscaling.enabled }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  serviceName: {{ include "workload.headlessName" . | quote }}
  podManagementPolicy: {{ $set.podManagementPolicy }}
  revisionHistoryLimit: {{ .Values.revisionHistoryLimit }}
  minReadySeconds: {{ .Values.minReadySeconds }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      partition: {{ $set.partition }}
  selector:
    matchLabels:
      {{- include "workload.selectorLabels" . | nindent 6 }}
  template:
    {{- include "workload.pod" . | nindent 4 }}
  {{- with $set.volumes }}
  persistentVolumeClaimRetentionPolicy:
    {{- toYaml $set.retention | nindent 4 }}
  volumeClaimTemplates:
    {{- range . }}
    - metadata:
        name: {{ .name }}
        labels:
          {{- include "workload.selectorLabels" $ | nindent 10 }}
      spec:
        accessModes: [{{ .accessMode | default "ReadWriteOnce" }}]
        {{- with .storageClass }}
        storageClassName: {{ . | quote }}
        {{- end }}
        resources:
          requests:
            storage: {{ .size }}
    {{- end }}
  {{- end }}
{{- end }}

{{- define "workload.daemonset" -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
spec:
  revisionHistoryLimit: {{ .Values.revisionHistoryLimit }}
  minReadySeconds: {{ .Values.minReadySeconds }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      {{- toYaml .Values.daemonSet | nindent 6 }}
  selector:
    matchLabels:
      {{- include "workload.selectorLabels" . | nindent 6 }}
  template:
    {{- include "workload.pod" . | nindent 4 }}
{{- end }}

{{/* A Job cannot be changed, so that every pod template makes another one. Helm deletes the
Job of the revision before. */}}
{{- define "workload.job" -}}
{{- $spec := include "workload.jobSpec" . | trim -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "workload.fullname" . | trunc 54 | trimSuffix "-" }}-{{ $spec | sha256sum | trunc 8 }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
spec:
  {{- $spec | nindent 2 }}
{{- end }}

{{- define "workload.cronjob" -}}
{{- $cron := .Values.cronJob -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  {{- /* The names of its Jobs have eleven characters more, and must not exceed 63. */}}
  name: {{ include "workload.fullname" . | trunc 52 | trimSuffix "-" }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
spec:
  schedule: {{ $cron.schedule | quote }}
  {{- with $cron.timeZone }}
  timeZone: {{ . | quote }}
  {{- end }}
  concurrencyPolicy: {{ $cron.concurrencyPolicy }}
  startingDeadlineSeconds: {{ $cron.startingDeadlineSeconds }}
  suspend: {{ $cron.suspend }}
  successfulJobsHistoryLimit: {{ $cron.successfulJobsHistoryLimit }}
  failedJobsHistoryLimit: {{ $cron.failedJobsHistoryLimit }}
  jobTemplate:
    metadata:
      labels:
        {{- include "workload.podLabels" . | nindent 8 }}
    spec:
      {{- include "workload.jobSpec" . | trim | nindent 6 }}
{{- if $cron.runOnDeploy }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "workload.fullname" . | trunc 56 | trimSuffix "-" }}-deploy
  labels:
    {{- include "workload.labels" . | nindent 4 }}
  annotations:
    helm.sh/hook: post-install,post-upgrade
    {{- /* It is kept until the next deployment, so that its logs can be read. */}}
    helm.sh/hook-delete-policy: before-hook-creation
spec:
  {{- include "workload.jobSpec" . | trim | nindent 2 }}
{{- end }}
{{- end }}

{{- define "workload.jobSpec" -}}
{{- range $field := list "backoffLimit" "activeDeadlineSeconds" "completions" "parallelism" }}
{{- $value := index $.Values.job $field }}
{{- if not (kindIs "invalid" $value) }}
{{ $field }}: {{ $value }}
{{- end }}
{{- end }}
template:
  {{- include "workload.pod" . | nindent 2 }}
{{- end }}
