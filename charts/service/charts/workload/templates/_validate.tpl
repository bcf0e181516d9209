{{/* Checks that values.schema.json cannot express, or not with a helpful message.
All problems are reported together. */}}
{{- define "workload.validate" -}}
{{- include "workload.sections" . -}}
{{- $v := .Values -}}
{{- $problems := list -}}
{{- $kind := include "workload.kind" . -}}
{{- if not $v.image.repository -}}
{{- $problems = append $problems "image.repository is empty: set it to the name of the image, for example registry.example.com/shop/orders" -}}
{{- end -}}
{{- if not (or $v.image.digest $v.image.tag) -}}
{{- $problems = append $problems "image.digest and image.tag are both empty: set image.digest (sha256:...), or at least image.tag" -}}
{{- end -}}
{{- if and ($v.vault).enabled (not ($v.vault).files) -}}
{{- $problems = append $problems "vault.enabled is true, but vault.files is empty: name the files that the injector is to write, or set vault.enabled to false" -}}
{{- end -}}
{{- if and (eq ($v.configReload | default "roll") "reload") (not $v.reloadable) -}}
{{- $problems = append $problems "configReload is reload, but reloadable is empty, so the service would not notice a change: set configReload to roll, or name in reloadable the keys that the service applies while it runs" -}}
{{- end -}}
{{- if hasKey ($v.configFiles | default dict) "config.yaml" -}}
{{- $problems = append $problems "configFiles contains config.yaml, which the chart generates from config: move its keys to config" -}}
{{- end -}}
{{- if and (ne $v.podAntiAffinity.mode "none") (hasKey $v.affinity "podAntiAffinity") -}}
{{- $problems = append $problems "affinity.podAntiAffinity cannot be combined with podAntiAffinity.mode: set podAntiAffinity.mode to none" -}}
{{- end -}}
{{- if and $v.rbac.create (eq (include "workload.serviceAccountName" .) "default") -}}
{{- $problems = append $problems "rbac.create would grant permissions to all pods that use the service account default: set serviceAccount.create to true, set serviceAccount.name, or set rbac.create to false" -}}
{{- end -}}
{{- if $v.ingress.enabled -}}
{{- if not $v.ingress.hosts -}}
{{- $problems = append $problems "ingress.hosts is empty: add a host name, or set ingress.enabled to false" -}}
{{- end -}}
{{- if not (include "workload.serves" .) -}}
{{- $problems = append $problems "ingress.enabled is true, but the pods have no port that requests could be routed to: set ports, or set ingress.enabled to false" -}}
{{- end -}}
{{- $names := list -}}
{{- range $v.ingress.hosts -}}
{{- $name := kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "host") -}}
{{- if has $name $names -}}
{{- $problems = append $problems (printf "ingress.hosts contains %v twice: put all its paths into one entry" $name) -}}
{{- end -}}
{{- $names = append $names $name -}}
{{- end -}}
{{- end -}}
{{- if $v.autoscaling.enabled -}}
{{- if not (include "workload.scalable" .) -}}
{{- $problems = append $problems (printf "autoscaling.enabled is true, but the number of pods of a %s cannot be set: set autoscaling.enabled to false" $kind) -}}
{{- end -}}
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
{{- if ($v.verticalAutoscaling).enabled -}}
{{- if not (include "workload.longRunning" .) -}}
{{- $problems = append $problems (printf "verticalAutoscaling.enabled is true, but a %s is not changed while it runs: set verticalAutoscaling.enabled to false" $kind) -}}
{{- end -}}
{{- end -}}
{{- if and (eq $kind "CronJob") (not ($v.cronJob).schedule) -}}
{{- $problems = append $problems "cronJob.schedule is empty: set it to the times of the runs, for example \"0 3 * * *\" for every day at three" -}}
{{- end -}}
{{- if and $v.mainPort (not (hasKey ($v.ports | default dict) $v.mainPort)) -}}
{{- $problems = append $problems (printf "mainPort is %s, which is not in ports: set it to one of the names there" $v.mainPort) -}}
{{- end -}}
{{- if and (ne $kind "StatefulSet") ($v.statefulSet).volumes -}}
{{- $problems = append $problems (printf "statefulSet.volumes is set, but the pods of a %s get no volumes of their own: set kind to StatefulSet" $kind) -}}
{{- end -}}
{{- if include "workload.serves" . -}}
{{- $used := dict -}}
{{- range $name, $_ := $v.ports -}}
{{- $port := include "workload.servicePort" (list $ $name) -}}
{{- if hasKey $used $port -}}
{{- $problems = append $problems (printf "the ports %s and %s would both be port %s of the Service: give one of them another number in service.ports" (get $used $port) $name $port) -}}
{{- end -}}
{{- $_ := set $used $port $name -}}
{{- end -}}
{{- range $name, $_ := $v.service.ports -}}
{{- if not (hasKey $v.ports $name) -}}
{{- $problems = append $problems (printf "service.ports names %s, which is not in ports: correct the name" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $v.drainSeconds (le (int $v.terminationGracePeriodSeconds) (int $v.drainSeconds)) (include "workload.serves" .) -}}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds (%v) is not greater than drainSeconds (%v), so the program would be killed while requests still arrive" $v.terminationGracePeriodSeconds $v.drainSeconds) -}}
{{- end -}}
{{- if and (eq $kind "Deployment") (ge (int $v.minReadySeconds) (int $v.progressDeadlineSeconds)) -}}
{{- $problems = append $problems (printf "minReadySeconds (%v) is not less than progressDeadlineSeconds (%v), so no rollout could succeed" $v.minReadySeconds $v.progressDeadlineSeconds) -}}
{{- end -}}
{{- if and (eq $kind "DaemonSet") (ne (toString ($v.daemonSet).maxSurge) "0") (ne (toString ($v.daemonSet).maxUnavailable) "0") -}}
{{- $problems = append $problems "daemonSet.maxSurge and daemonSet.maxUnavailable are both above 0, which Kubernetes does not allow: set one of them to 0" -}}
{{- end -}}
{{- if eq $kind "StatefulSet" -}}
{{- range ($v.statefulSet).volumes -}}
{{- if or (has .name (list "config" "tmp" "cache")) (hasPrefix "secret-" .name) -}}
{{- $problems = append $problems (printf "statefulSet.volumes has a volume %s, which is the name of a volume of the chart: choose another name" .name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $v.waitFor -}}
{{- if and .url (not (include "workload.healthArgs" .url)) -}}
{{- $problems = append $problems (printf "waitFor: %s has a url, but the chart does not know a program that can request it: give an image and a command instead" .name) -}}
{{- end -}}
{{- end -}}
{{- if and $v.tests.enabled (not $v.tests.image) (not (include "workload.healthArgs" "http://x")) -}}
{{- $problems = append $problems "tests.enabled is true, but there is no image to test with: set tests.image and tests.command, or set tests.enabled to false" -}}
{{- end -}}
{{- $problems = concat $problems (include "workload.problems" . | fromJsonArray) -}}
{{- with $problems }}{{ fail (join "\n" . | printf "\n%s") }}{{ end -}}
{{- end }}

{{/* Problems of the values that only one chart knows, as a JSON list of messages. */}}
{{- define "workload.problems" -}}
[]
{{- end }}
