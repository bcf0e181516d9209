{{/* What a schema cannot say, or not in words that help. All problems at once. */}}
{{- define "order-service.validate" -}}
{{- $v := .Values -}}
{{- $problems := list -}}
{{- if not $v.image.repository -}}
{{- $problems = append $problems "image.repository is empty: name the image, for example registry.example.com/shop/order-service" -}}
{{- end -}}
{{- if not (or $v.image.digest $v.image.tag) -}}
{{- $problems = append $problems "image.digest and image.tag are both empty: set image.digest (sha256:...), or at least image.tag" -}}
{{- end -}}
{{- /* Not by the schema, whose complaint would repeat the URL with a password in it. */ -}}
{{- range $section, $scheme := dict "database" "postgres(ql)?" "redis" "rediss?" -}}
{{- $url := dig $section "url" "" $v.config -}}
{{- if and $url (not (regexMatch (printf "^%s://" $scheme) $url)) -}}
{{- $problems = append $problems (printf "config.%s.url does not match ^%s://" $section $scheme) -}}
{{- end -}}
{{- if or (regexMatch "^[^/]*//[^/@]*:[^/@]*@" $url) (regexMatch "[?&]password=" $url) -}}
{{- $problems = append $problems (printf "config.%s.url holds a password, and a ConfigMap is no place for one: take it out, and name the Secret's key under secretEnv as %s_PASSWORD" $section (upper $section)) -}}
{{- end -}}
{{- end -}}
{{- range $name := list "DATABASE_URL" "DATABASE_PASSWORD" "REDIS_URL" "REDIS_PASSWORD" -}}
{{- if hasKey $v.env $name -}}
{{- $problems = append $problems (printf "env.%s holds a password in plain text: keep it in a Secret and name its key under secretEnv" $name) -}}
{{- end -}}
{{- end -}}
{{- if hasKey $v.configFiles "config.yaml" -}}
{{- $problems = append $problems "configFiles has a config.yaml, which config already makes: move its keys to config" -}}
{{- end -}}
{{- if and (ne $v.podAntiAffinity.mode "none") (hasKey $v.affinity "podAntiAffinity") -}}
{{- $problems = append $problems "affinity.podAntiAffinity and podAntiAffinity.mode exclude each other: set podAntiAffinity.mode to none" -}}
{{- end -}}
{{- if and $v.rbac.create (eq (include "order-service.serviceAccountName" .) "default") -}}
{{- $problems = append $problems "rbac.create would give rights to every pod that uses the service account default: set serviceAccount.create, serviceAccount.name, or rbac.create to false" -}}
{{- end -}}
{{- if and $v.ingress.enabled (not $v.ingress.hosts) -}}
{{- $problems = append $problems "ingress.hosts is empty: name a host, or set ingress.enabled to false" -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if gt (int $v.autoscaling.minReplicas) (int $v.autoscaling.maxReplicas) -}}
{{- $problems = append $problems (printf "autoscaling.minReplicas (%v) is above autoscaling.maxReplicas (%v)" $v.autoscaling.minReplicas $v.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if not (compact (values $v.autoscaling.targets)) -}}
{{- $problems = append $problems "autoscaling.targets is empty: keep at least one" -}}
{{- end -}}
{{- end -}}
{{- with $problems }}{{ fail (join "\n" . | printf "\n%s") }}{{ end -}}
{{- end }}
