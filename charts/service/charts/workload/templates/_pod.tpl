{{/* Pod template of all kinds of workloads. */}}
{{- define "workload.pod" -}}
{{- $v := .Values -}}
metadata:
  labels:
    {{- merge (include "workload.podLabels" . | fromYaml) $v.podLabels $v.commonLabels | toYaml | nindent 4 }}
  annotations:
    {{- mergeOverwrite (include "workload.podAnnotations" . | fromYaml) $v.podAnnotations | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "workload.serviceAccountName" . | quote }}
  automountServiceAccountToken: {{ ternary $v.automountServiceAccountToken (or $v.rbac.create (($v.vault).enabled | default false)) (kindIs "bool" $v.automountServiceAccountToken) }}
  {{- /* Otherwise the kubelet adds several environment variables for every Service in
  the namespace. */}}
  enableServiceLinks: false
  {{- if not (include "workload.longRunning" .) }}
  restartPolicy: Never
  {{- end }}
  terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- range $field := list "imagePullSecrets" "hostAliases" "nodeSelector" "tolerations" }}
  {{- with index $v $field }}
  {{ $field }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "workload.placement" . }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext:
    {{- toYaml $v.podSecurityContext | nindent 4 }}
  {{- with $v.waitFor }}
  initContainers:
    {{- range . }}
    - name: wait-for-{{ .name }}
      image: {{ .image | default (include "workload.image" $) | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      {{- if .url }}
      args: {{ include "workload.healthArgs" .url }}
      {{- else }}
      command: {{ toJson .command }}
      {{- end }}
      securityContext:
        {{- toYaml $v.securityContext | nindent 8 }}
      resources:
        {{- include "workload.smallResources" $ | nindent 8 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ include "workload.name" . | quote }}
      image: {{ include "workload.image" . | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      {{- with $v.command }}
      command: {{ toJson . }}
      {{- end }}
      {{- with include "workload.args" . }}
      args: {{ . }}
      {{- end }}
      {{- if include "workload.serves" . }}
      ports:
        {{- range $name, $port := $v.ports }}
        - name: {{ $name | quote }}
          containerPort: {{ $port }}
        {{- end }}
      {{- end }}
      env:
        {{- include "workload.env" . | trim | nindent 8 }}
      {{- if or $v.configEnv $v.secretEnvFrom }}
      envFrom:
        {{- if $v.configEnv }}
        - configMapRef:
            name: {{ include "workload.configEnvName" . | quote }}
        {{- end }}
        {{- range $v.secretEnvFrom }}
        - secretRef:
            name: {{ .secret | quote }}
          {{- with .prefix }}
          prefix: {{ . | quote }}
          {{- end }}
        {{- end }}
      {{- end }}
      {{- range $probe := list "startup" "liveness" "readiness" }}
      {{- with include "workload.probe" (list $ $probe) }}
      {{ $probe }}Probe:
        {{- . | nindent 8 }}
      {{- end }}
      {{- end }}
      {{- with $v.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- else }}
      {{- if and $v.drainSeconds (include "workload.serves" .) (semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version) }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ $v.drainSeconds }}
      {{- end }}
      {{- end }}
      resources:
        {{- toYaml $v.resources | nindent 8 }}
      securityContext:
        {{- toYaml $v.securityContext | nindent 8 }}
      volumeMounts:
        {{- if include "workload.configFiles" . | fromYaml }}
        {{- /* The ConfigMap is mounted as a directory, because a file that is mounted with
        subPath is never updated. */}}
        - name: config
          mountPath: {{ $v.configDir | default "/etc/app" | quote }}
          readOnly: true
        {{- end }}
        - name: tmp
          mountPath: /tmp
        {{- if $v.cache.enabled }}
        - name: cache
          mountPath: {{ $v.cache.mountPath | quote }}
        {{- end }}
        {{- if eq (include "workload.kind" .) "StatefulSet" }}
        {{- range ($v.statefulSet).volumes }}
        - name: {{ .name }}
          mountPath: {{ .mountPath | quote }}
        {{- end }}
        {{- end }}
        {{- range $i, $files := $v.secretFiles }}
        - name: secret-{{ $i }}
          mountPath: {{ $files.mountPath | quote }}
          readOnly: true
        {{- end }}
        {{- with $v.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $v.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    {{- if include "workload.configFiles" . | fromYaml }}
    - name: config
      configMap:
        name: {{ include "workload.fullname" . | quote }}
    {{- end }}
    - name: tmp
      emptyDir: {{ include "workload.emptyDir" $v.tmp }}
    {{- if $v.cache.enabled }}
    - name: cache
      emptyDir: {{ include "workload.emptyDir" $v.cache }}
    {{- end }}
    {{- range $i, $files := $v.secretFiles }}
    - name: secret-{{ $i }}
      secret:
        secretName: {{ $files.secret | quote }}
        {{- /* By default, only the pod's fsGroup can read them. */}}
        defaultMode: 0{{ $files.mode | default "440" | trimPrefix "0" }}
        {{- with $files.items }}
        items:
          {{- range $key, $path := . }}
          - key: {{ $key | quote }}
            path: {{ $path | quote }}
          {{- end }}
        {{- end }}
    {{- end }}
    {{- with $v.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{/* Arguments of the program, as a JSON list, or nothing. */}}
{{- define "workload.args" -}}
{{- with .Values.args }}{{ toJson . }}{{ end -}}
{{- end }}

{{/* Arguments, as a JSON list, with which the program requests a URL and succeeds if the
response is 200. The argument is the URL. A chart whose program can do so defines it. */}}
{{- define "workload.healthArgs" -}}
{{- end }}

{{/* A probe, or nothing. The argument is a list: the context and the name of the probe.
Without a path or command of its own, a probe uses the health check of the whole service. */}}
{{- define "workload.probe" -}}
{{- $root := first . -}}
{{- $probe := get ($root.Values.probes | default dict) (last .) -}}
{{- $health := $root.Values.health | default dict -}}
{{- $port := include "workload.mainPort" $root -}}
{{- if and $probe (include "workload.longRunning" $root) -}}
{{- $timing := omit $probe "path" "command" -}}
{{- if $probe.command -}}
{{ merge (dict "exec" (dict "command" $probe.command)) $timing | toYaml }}
{{- else if $port -}}
{{- with $probe.path | default $health.path -}}
httpGet:
  path: {{ . | quote }}
  port: {{ $port | quote }}
{{ $timing | toYaml }}
{{- else -}}
{{- if $health.grpc -}}
{{- /* This kind of probe takes no name of a port. */ -}}
grpc:
  port: {{ get $root.Values.ports $port }}
{{- else -}}
tcpSocket:
  port: {{ $port | quote }}
{{- end }}
{{ $timing | toYaml }}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "workload.podAnnotations" -}}
{{- /* The container that kubectl logs and kubectl exec use by default. */ -}}
kubectl.kubernetes.io/default-container: {{ include "workload.name" . | quote }}
{{- if and .Values.metrics.annotations (get (.Values.ports | default dict) "metrics") }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.ports.metrics | quote }}
prometheus.io/path: {{ .Values.metrics.path }}
{{- end }}
{{- with .Values.vault }}
{{- if .enabled }}
vault.hashicorp.com/agent-inject: "true"
vault.hashicorp.com/role: {{ .role | default (include "workload.serviceAccountName" $) | quote }}
{{- range $name, $file := .files }}
vault.hashicorp.com/agent-inject-secret-{{ $name }}: {{ $file.secret | quote }}
{{- with $file.template }}
vault.hashicorp.com/agent-inject-template-{{ $name }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := .annotations }}
vault.hashicorp.com/{{ $name }}: {{ $value | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if include "workload.configFiles" . | fromYaml }}
checksum/config: {{ include "workload.restartConfig" . | sha256sum }}
{{- end }}
{{- with .Values.configEnv }}
checksum/env: {{ toYaml . | sha256sum }}
{{- end }}
{{- end }}

{{- define "workload.emptyDir" -}}
{ {{- with .sizeLimit }}sizeLimit: {{ . }}{{ end -}} }
{{- end }}

{{/* affinity and topologySpreadConstraints. The number of pods of other kinds is not chosen
for availability, so that their pods need no rules against each other. */}}
{{- define "workload.placement" -}}
{{- $selector := dict "matchLabels" (include "workload.selectorLabels" . | fromYaml) -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- $revision := dict "Deployment" "pod-template-hash" "StatefulSet" "controller-revision-hash" -}}
{{- $revision = get $revision (include "workload.kind" .) -}}
{{- with and $revision .Values.podAntiAffinity -}}
{{- $term := dict "topologyKey" .topologyKey "labelSelector" $selector -}}
{{- if and .perRevision (semverCompare ">=1.31-0" $.Capabilities.KubeVersion.Version) -}}
{{- $_ := set $term "matchLabelKeys" (list $revision) -}}
{{- end -}}
{{- if eq .mode "required" -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" (list $term)) -}}
{{- else if eq .mode "preferred" -}}
{{- $_ := set $affinity "podAntiAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" (list (dict "weight" .weight "podAffinityTerm" $term))) -}}
{{- end -}}
{{- end -}}
{{- $placement := dict -}}
{{- with $affinity }}{{ $_ := set $placement "affinity" . }}{{ end -}}
{{- $spread := list -}}
{{- range .Values.topologySpreadConstraints -}}
{{- $spread = append $spread (ternary . (merge (dict "labelSelector" $selector) .) (hasKey . "labelSelector")) -}}
{{- end -}}
{{- with $spread }}{{ $_ := set $placement "topologySpreadConstraints" . }}{{ end -}}
{{- with $placement }}{{ toYaml . }}{{ end -}}
{{- end }}
