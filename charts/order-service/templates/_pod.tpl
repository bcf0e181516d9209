{{/* Pod template of the Deployment. */}}
{{- define "order-service.pod" -}}
{{- $v := .Values -}}
metadata:
  labels:
    {{- merge (include "order-service.podLabels" . | fromYaml) $v.podLabels $v.commonLabels | toYaml | nindent 4 }}
  annotations:
    {{- mergeOverwrite (include "order-service.podAnnotations" . | fromYaml) $v.podAnnotations | toYaml | nindent 4 }}
spec:
  serviceAccountName: {{ include "order-service.serviceAccountName" . }}
  automountServiceAccountToken: {{ ternary $v.automountServiceAccountToken (or $v.rbac.create (($v.vault).enabled | default false)) (kindIs "bool" $v.automountServiceAccountToken) }}
  {{- /* Otherwise the kubelet adds several environment variables for every Service in
  the namespace. */}}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
  {{- with $v.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- range $field := list "imagePullSecrets" "hostAliases" "nodeSelector" "tolerations" }}
  {{- with index $v $field }}
  {{ $field }}:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  {{- with include "order-service.placement" . }}
  {{- . | nindent 2 }}
  {{- end }}
  securityContext:
    {{- toYaml $v.podSecurityContext | nindent 4 }}
  {{- with $v.waitFor }}
  initContainers:
    {{- range . }}
    - name: wait-for-{{ .name }}
      image: {{ .image | default (include "order-service.image" $) | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      {{- if .url }}
      args: [health, --url, {{ .url | quote }}]
      {{- else }}
      command: {{ toJson .command }}
      {{- end }}
      securityContext:
        {{- toYaml $v.securityContext | nindent 8 }}
      resources:
        {{- include "order-service.smallResources" $ | nindent 8 }}
    {{- end }}
  {{- end }}
  containers:
    - name: {{ .Chart.Name }}
      image: {{ include "order-service.image" . | quote }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      args: [--config, {{ ternary "/vault/secrets" "/etc/app" (and ($v.vault).enabled (hasKey (($v.vault).files | default dict) "config.yaml") | default false) }}/config.yaml]
      ports:
        - name: http
          containerPort: {{ $v.ports.http }}
        - name: metrics
          containerPort: {{ $v.ports.metrics }}
      env:
        {{- include "order-service.env" . | trim | nindent 8 }}
      {{- with $v.secretEnvFrom }}
      envFrom:
        {{- range . }}
        - secretRef:
            name: {{ .secret }}
          {{- with .prefix }}
          prefix: {{ . }}
          {{- end }}
        {{- end }}
      {{- end }}
      {{- range $probe := list "startup" "liveness" "readiness" }}
      {{- with index $v.probes $probe }}
      {{ $probe }}Probe:
        httpGet:
          path: {{ .path }}
          port: http
        {{- omit . "path" | toYaml | nindent 8 }}
      {{- end }}
      {{- end }}
      {{- with $v.lifecycle }}
      lifecycle:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml $v.resources | nindent 8 }}
      securityContext:
        {{- toYaml $v.securityContext | nindent 8 }}
      volumeMounts:
        {{- /* The ConfigMap is mounted as a directory, because a file that is mounted with
        subPath is never updated. */}}
        - name: config
          mountPath: /etc/app
          readOnly: true
        - name: tmp
          mountPath: /tmp
        {{- if $v.cache.enabled }}
        - name: cache
          mountPath: {{ $v.cache.mountPath }}
        {{- end }}
        {{- range $i, $files := $v.secretFiles }}
        - name: secret-{{ $i }}
          mountPath: {{ $files.mountPath }}
          readOnly: true
        {{- end }}
        {{- with $v.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    {{- with $v.extraContainers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  volumes:
    - name: config
      configMap:
        name: {{ include "order-service.fullname" . }}
    - name: tmp
      emptyDir: {{ include "order-service.emptyDir" $v.tmp }}
    {{- if $v.cache.enabled }}
    - name: cache
      emptyDir: {{ include "order-service.emptyDir" $v.cache }}
    {{- end }}
    {{- range $i, $files := $v.secretFiles }}
    - name: secret-{{ $i }}
      secret:
        secretName: {{ $files.secret }}
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

{{- define "order-service.podAnnotations" -}}
{{- /* The container that kubectl logs and kubectl exec use by default. */ -}}
kubectl.kubernetes.io/default-container: {{ .Chart.Name }}
{{- if .Values.metrics.annotations }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.ports.metrics | quote }}
prometheus.io/path: {{ .Values.metrics.path }}
{{- end }}
{{- with .Values.vault }}
{{- if .enabled }}
vault.hashicorp.com/agent-inject: "true"
vault.hashicorp.com/role: {{ .role | default (include "order-service.serviceAccountName" $) | quote }}
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
checksum/config: {{ include "order-service.restartConfig" . | sha256sum }}
{{- end }}

{{- define "order-service.env" -}}
{{- range $name, $path := dict "POD_NAME" "metadata.name" "POD_NAMESPACE" "metadata.namespace" "POD_IP" "status.podIP" "NODE_NAME" "spec.nodeName" }}
- name: {{ $name }}
  valueFrom:
    fieldRef:
      fieldPath: {{ $path }}
{{- end }}
{{- if .Values.gomaxprocs }}
- name: GOMAXPROCS
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
{{- end }}
{{- with include "order-service.gomemlimit" . }}
- name: GOMEMLIMIT
  value: {{ . }}
{{- end }}
{{- if and (dig "otlp" "endpoint" "" .Values.config) (not (hasKey .Values.env "OTEL_RESOURCE_ATTRIBUTES")) }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: k8s.namespace.name=$(POD_NAMESPACE),k8s.pod.name=$(POD_NAME),k8s.node.name=$(NODE_NAME)
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range .Values.secretEnv }}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "order-service.emptyDir" -}}
{ {{- with .sizeLimit }}sizeLimit: {{ . }}{{ end -}} }
{{- end }}

{{/* affinity and topologySpreadConstraints. */}}
{{- define "order-service.placement" -}}
{{- $selector := dict "matchLabels" (include "order-service.selectorLabels" . | fromYaml) -}}
{{- $affinity := deepCopy .Values.affinity -}}
{{- with .Values.podAntiAffinity -}}
{{- $term := dict "topologyKey" .topologyKey "labelSelector" $selector -}}
{{- if and .perRevision (semverCompare ">=1.31-0" $.Capabilities.KubeVersion.Version) -}}
{{- $_ := set $term "matchLabelKeys" (list "pod-template-hash") -}}
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
