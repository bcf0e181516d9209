{{- define "workload.service" -}}
{{- if include "workload.serves" . -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "workload.fullname" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
  {{- with .Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.service.type }}
  selector:
    {{- include "workload.selectorLabels" . | nindent 4 }}
  ports:
    {{- range $name, $port := .Values.ports }}
    - name: {{ $name | quote }}
      port: {{ include "workload.servicePort" (list $ $name) }}
      targetPort: {{ $name | quote }}
    {{- end }}
{{- end -}}
{{- end }}

{{/* Service that gives every pod of a StatefulSet a name of its own. */}}
{{- define "workload.headless" -}}
{{- if eq (include "workload.kind" .) "StatefulSet" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "workload.headlessName" . | quote }}
  labels:
    {{- include "workload.labels" . | nindent 4 }}
spec:
  clusterIP: None
  {{- /* The members of a cluster have to find each other before they are ready. */}}
  publishNotReadyAddresses: true
  selector:
    {{- include "workload.selectorLabels" . | nindent 4 }}
  {{- with .Values.ports }}
  ports:
    {{- range $name, $port := . }}
    - name: {{ $name | quote }}
      port: {{ $port }}
      targetPort: {{ $name | quote }}
    {{- end }}
  {{- end }}
{{- end -}}
{{- end }}

{{- define "workload.headlessName" -}}
{{ include "workload.fullname" . | trunc 54 | trimSuffix "-" }}-headless
{{- end }}

{{- define "workload.ingress" -}}
{{- with .Values.ingress -}}
{{- if .enabled -}}
{{- /* All hosts with their paths. */ -}}
{{- $own := list (dict "path" .path "pathType" .pathType) -}}
{{- $hosts := list -}}
{{- range .hosts -}}
{{- $hosts = append $hosts (kindIs "string" . | ternary (dict "host" . "paths" $own) .) -}}
{{- end -}}
{{- $names := list -}}
{{- range $hosts -}}
{{- $names = append $names .host -}}
{{- end -}}
{{- $nginx := dict
  "ssl-redirect" .sslRedirect
  "force-ssl-redirect" .forceSslRedirect
  "limit-rps" .limits.rps
  "limit-connections" .limits.connections
  "proxy-connect-timeout" .timeouts.connect
  "proxy-send-timeout" .timeouts.send
  "proxy-read-timeout" .timeouts.read
  "proxy-body-size" .bodySize -}}
{{- with .corsOrigins -}}
{{- $_ := set $nginx "enable-cors" true -}}
{{- $_ := set $nginx "cors-allow-origin" (join "," .) -}}
{{- end -}}
{{- with .sourceRanges -}}
{{- $_ := set $nginx "whitelist-source-range" (join "," .) -}}
{{- end -}}
{{- $annotations := dict -}}
{{- range $name, $value := $nginx -}}
{{- $_ := set $annotations (print "nginx.ingress.kubernetes.io/" $name) (kindIs "float64" $value | ternary (int64 $value | toString) (toString $value)) -}}
{{- end -}}
{{- if and .tls.enabled .tls.issuer -}}
{{- $_ := set $annotations (print "cert-manager.io/" (ternary "issuer" "cluster-issuer" (eq .tls.issuerKind "Issuer"))) .tls.issuer -}}
{{- end -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ include "workload.fullname" $ | quote }}
  labels:
    {{- include "workload.labels" $ | nindent 4 }}
  annotations:
    {{- mergeOverwrite $annotations .annotations | toYaml | nindent 4 }}
spec:
  ingressClassName: {{ .className }}
  {{- if .tls.enabled }}
  tls:
    - secretName: {{ .tls.secretName | default (printf "%s-tls" (include "workload.fullname" $)) }}
      hosts:
        {{- toYaml $names | nindent 8 }}
  {{- end }}
  rules:
    {{- range $hosts }}
    - host: {{ .host | quote }}
      http:
        paths:
          {{- range .paths }}
          - path: {{ .path | quote }}
            pathType: {{ .pathType | default $.Values.ingress.pathType }}
            backend:
              service:
                name: {{ include "workload.fullname" $ | quote }}
                port:
                  name: {{ include "workload.mainPort" $ | quote }}
          {{- end }}
    {{- end }}
{{- end -}}
{{- end }}
{{- end }}

{{- define "workload.networkpolicy" -}}
{{- with .Values.networkPolicy -}}
{{- if .enabled -}}
{{- $test := dict "podSelector" (dict "matchLabels" (dict
  "app.kubernetes.io/name" (include "workload.testName" $)
  "app.kubernetes.io/instance" $.Release.Name)) -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "workload.fullname" $ | quote }}
  labels:
    {{- include "workload.labels" $ | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "workload.selectorLabels" $ | nindent 6 }}
  policyTypes: [Ingress, Egress]
  {{- if include "workload.serves" $ }}
  ingress:
    {{- range $port, $_ := $.Values.ports }}
    - from:
        {{- append (get ($.Values.networkPolicy.from | default $.Values.networkPolicy) $port | default list) $test | toYaml | nindent 8 }}
      ports:
        - protocol: TCP
          port: {{ $port | quote }}
    {{- end }}
  {{- end }}
  egress:
    {{- toYaml .egress | nindent 4 }}
{{- end -}}
{{- end }}
{{- end }}
