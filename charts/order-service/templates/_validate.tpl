{{/* Checks that values.schema.json cannot express, or not with a helpful message.
All problems are reported together. */}}
{{- define "order-service.validate" -}}
{{- $v := .Values -}}
{{- $problems := list -}}
{{- if not $v.image.repository -}}
{{- $problems = append $problems "image.repository is empty: set it to the name of the image, for example registry.example.com/shop/order-service" -}}
{{- end -}}
{{- if not (or $v.image.digest $v.image.tag) -}}
{{- $problems = append $problems "image.digest and image.tag are both empty: set image.digest (sha256:...), or at least image.tag" -}}
{{- end -}}
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
{{- if and ($v.vault).enabled (not ($v.vault).files) -}}
{{- $problems = append $problems "vault.enabled is true, but vault.files is empty: name the files that the injector is to write, or set vault.enabled to false" -}}
{{- end -}}
{{- if and (eq $v.configReload "reload") (not $v.reloadable) -}}
{{- $problems = append $problems "configReload is reload, but reloadable is empty, so the service would not notice a change: set configReload to roll, or name in reloadable the keys that the service applies while it runs" -}}
{{- end -}}
{{- if hasKey $v.configFiles "config.yaml" -}}
{{- $problems = append $problems "configFiles contains config.yaml, which the chart generates from config: move its keys to config" -}}
{{- end -}}
{{- if and (ne $v.podAntiAffinity.mode "none") (hasKey $v.affinity "podAntiAffinity") -}}
{{- $problems = append $problems "affinity.podAntiAffinity cannot be combined with podAntiAffinity.mode: set podAntiAffinity.mode to none" -}}
{{- end -}}
{{- if and $v.rbac.create (eq (include "order-service.serviceAccountName" .) "default") -}}
{{- $problems = append $problems "rbac.create would grant permissions to all pods that use the service account default: set serviceAccount.create to true, set serviceAccount.name, or set rbac.create to false" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- $problems = append $problems "ingress.hosts is empty: add a host name, or set ingress.enabled to false" -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $problems = append $problems (printf "autoscaling.minReplicas (%v) is greater than autoscaling.maxReplicas (%v)" $v.autoscaling.minReplicas $v.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if not (compact (values $v.autoscaling.targets)) -}}
{{- $problems = append $problems "autoscaling.targets is empty: set at least one target" -}}
{{- end -}}
{{- end -}}
{{- if and $v.autoscaling.enabled ($v.verticalAutoscaling).enabled (ne ($v.verticalAutoscaling).updateMode "Off") -}}
{{- range $v.verticalAutoscaling.controlledResources -}}
{{- if index $v.autoscaling.targets . -}}
{{- $problems = append $problems (printf "autoscaling and verticalAutoscaling would both act on %s, and each would undo what the other does: set autoscaling.targets.%s to null, remove %s from verticalAutoscaling.controlledResources, or set verticalAutoscaling.updateMode to Off" . . .) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $problems }}{{ fail (join "\n" . | printf "\n%s") }}{{ end -}}
{{- end }}
