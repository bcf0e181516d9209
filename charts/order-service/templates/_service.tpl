{{/* What the order service has of its own. The templates of the objects are in the library
chart workload, which uses these definitions instead of its own. */}}

{{/* The addresses that the service listens on are derived from the container's ports, so
that they always match the probes and the Service. */}}
{{- define "workload.configFiles" -}}
{{- $listen := dict "listen" (printf ":%d" (int .Values.ports.http)) "metrics_listen" (printf ":%d" (int .Values.ports.metrics)) -}}
{{- $config := mergeOverwrite (dict "app" (dict "environment" .Values.environment)) (deepCopy .Values.config) (dict "server" $listen) -}}
{{ merge (dict "config.yaml" (toYaml $config)) .Values.configFiles | toYaml }}
{{- end }}

{{- define "workload.args" -}}
[--config, {{ ternary "/vault/secrets" "/etc/app" (and (.Values.vault).enabled (hasKey ((.Values.vault).files | default dict) "config.yaml") | default false) }}/config.yaml]
{{- end }}

{{- define "workload.healthArgs" -}}
[health, --url, {{ . | quote }}]
{{- end }}

{{- define "workload.exportsTelemetry" -}}
{{ dig "otlp" "endpoint" "" .Values.config }}
{{- end }}

{{- define "workload.problems" -}}
{{- $v := .Values -}}
{{- $problems := list -}}
{{- /* The schema does not check the URLs, because its error message would contain the
URL, possibly with a password. */ -}}
{{- range $section, $scheme := dict "database" "postgres(ql)?" "redis" "rediss?" -}}
{{- $url := dig $section "url" "" $v.config -}}
{{- if and $url (not (regexMatch (printf "^%s://" $scheme) $url)) -}}
{{- $problems = append $problems (printf "config.%s.url does not match ^%s://" $section $scheme) -}}
{{- end -}}
{{- if or (regexMatch "^[^/]*//[^/@]*:[^/@]*@" $url) (regexMatch "[?&]password=" $url) -}}
{{- $problems = append $problems (printf "config.%s.url contains a password, which must not be stored in a ConfigMap: remove it from the URL, and set %s_PASSWORD from a key of a Secret with secretEnv" $section (upper $section)) -}}
{{- end -}}
{{- end -}}
{{- $collector := dig "otlp" "endpoint" "" $v.config | default "" -}}
{{- if and $collector (not (regexMatch "^https?://[^/@?#]+:[0-9]+/?$" $collector)) -}}
{{- $problems = append $problems "config.otlp.endpoint is not the URL of a host and a port: write it as http://otel-collector.observability:4317, without a user or a password" -}}
{{- end -}}
{{- range $name := list "DATABASE_URL" "DATABASE_PASSWORD" "REDIS_URL" "REDIS_PASSWORD" "OTEL_EXPORTER_OTLP_HEADERS" "OTEL_EXPORTER_OTLP_TRACES_HEADERS" "OTEL_EXPORTER_OTLP_METRICS_HEADERS" -}}
{{- if hasKey $v.env $name -}}
{{- $problems = append $problems (printf "env.%s contains a password in plain text: store it in a Secret, and set the variable from the key of the Secret with secretEnv" $name) -}}
{{- end -}}
{{- end -}}
{{ toJson $problems }}
{{- end }}
