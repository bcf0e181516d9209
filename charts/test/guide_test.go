package charts

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/release"
	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"
)

// guideRow is a field of the guide: a path in an object, in the notation of kubectl's jsonpath
// (https://kubernetes.io/docs/reference/kubectl/jsonpath/), and its value.
type guideRow struct{ kind, path, want string }

const (
	container = "{.spec.template.spec.containers[0]"
	podSpec   = "{.spec.template.spec"
)

// guide holds every field and figure of the guide's manifests, by values file. What Kubernetes
// has removed since is there in its modern form:
//
//   - PodSecurityPolicy is the Pod Security Standard restricted, which TestRestricted checks,
//     with the ValidatingAdmissionPolicy of charts/admission for what it does not cover.
//   - The annotation kubernetes.io/ingress.class is spec.ingressClassName.
//   - autoscaling/v2beta2 is autoscaling/v2.
//   - updateMode Auto of the VerticalPodAutoscaler is InPlaceOrRecreate.
var guide = map[string][]guideRow{
	orders + "/guide": {
		// R2.1 Deployment
		{"Deployment", "{.spec.strategy.type}", "RollingUpdate"},
		{"Deployment", "{.spec.strategy.rollingUpdate.maxSurge}", "1"},
		{"Deployment", "{.spec.strategy.rollingUpdate.maxUnavailable}", "0"},
		{"Deployment", "{.spec.template.metadata.labels.app}", "order-service"},
		{"Deployment", "{.spec.template.metadata.labels.version}", "v1.2.0"},
		{"Deployment", "{.spec.template.metadata.labels.env}", "production"},
		{"Deployment", `{.spec.template.metadata.annotations.prometheus\.io/scrape}`, "true"},
		{"Deployment", `{.spec.template.metadata.annotations.prometheus\.io/port}`, "9090"},
		{"Deployment", `{.spec.template.metadata.annotations.prometheus\.io/path}`, "/metrics"},
		{"Deployment", podSpec + ".affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight}", "100"},
		{"Deployment", podSpec + ".affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.topologyKey}", "kubernetes.io/hostname"},
		{"Deployment", podSpec + ".nodeSelector.node-type}", "application"},
		{"Deployment", podSpec + ".tolerations[0]}", `{"effect":"NoSchedule","key":"dedicated","operator":"Equal","value":"application"}`},
		{"Deployment", podSpec + ".initContainers[0].name}", "wait-for-database"},
		{"Deployment", podSpec + ".initContainers[0].command}", `["sh","-c","until nc -z postgres 5432; do sleep 2; done"]`},
		{"Deployment", podSpec + ".imagePullSecrets[0].name}", "registry-credentials"},
		{"Deployment", podSpec + ".terminationGracePeriodSeconds}", "60"},
		{"Deployment", podSpec + ".serviceAccountName}", "orders"},
		{"Deployment", container + `.ports[?(@.name=="http")].containerPort}`, "8080"},
		{"Deployment", container + `.ports[?(@.name=="metrics")].containerPort}`, "9090"},
		{"Deployment", container + `.env[?(@.name=="TZ")].value}`, "Asia/Shanghai"},
		{"Deployment", container + `.env[?(@.name=="POD_NAME")].valueFrom.fieldRef.fieldPath}`, "metadata.name"},
		{"Deployment", container + `.env[?(@.name=="POD_NAMESPACE")].valueFrom.fieldRef.fieldPath}`, "metadata.namespace"},
		{"Deployment", container + `.env[?(@.name=="POD_IP")].valueFrom.fieldRef.fieldPath}`, "status.podIP"},
		{"Deployment", container + `.env[?(@.name=="NODE_NAME")].valueFrom.fieldRef.fieldPath}`, "spec.nodeName"},
		{"Deployment", container + `.env[?(@.name=="GOMAXPROCS")].valueFrom.resourceFieldRef.resource}`, "limits.cpu"},
		{"Deployment", container + `.env[?(@.name=="GOMEMLIMIT")].value}`, "1843MiB"},
		{"Deployment", container + `.env[?(@.name=="DATABASE_PASSWORD")].valueFrom.secretKeyRef}`, `{"key":"database-password","name":"app-secrets"}`},
		{"Deployment", container + ".resources.requests}", `{"cpu":"500m","memory":"512Mi"}`},
		{"Deployment", container + ".resources.limits}", `{"cpu":"2","memory":"2Gi"}`},
		{"Deployment", container + `.volumeMounts[?(@.name=="config")]}`, `{"mountPath":"/etc/app","name":"config","readOnly":true}`},
		{"Deployment", podSpec + `.volumes[?(@.name=="config")].configMap.name}`, "orders"},
		{"Deployment", container + `.volumeMounts[?(@.name=="tmp")].mountPath}`, "/tmp"},
		{"Deployment", podSpec + `.volumes[?(@.name=="tmp")].emptyDir}`, "{}"},
		{"Deployment", container + `.volumeMounts[?(@.name=="cache")].mountPath}`, "/var/cache/app"},
		{"Deployment", podSpec + `.volumes[?(@.name=="cache")].emptyDir.sizeLimit}`, "1Gi"},
		{"Deployment", podSpec + ".securityContext.runAsNonRoot}", "true"},
		{"Deployment", podSpec + ".securityContext.runAsUser}", "65534"},
		{"Deployment", podSpec + ".securityContext.fsGroup}", "65534"},
		{"Deployment", podSpec + ".securityContext.seccompProfile.type}", "RuntimeDefault"},
		{"Deployment", container + ".securityContext.readOnlyRootFilesystem}", "true"},
		{"Deployment", container + ".securityContext.allowPrivilegeEscalation}", "false"},
		{"Deployment", container + ".securityContext.capabilities.drop}", `["ALL"]`},
		// R1.1: the arguments
		{"Deployment", container + ".args}", `["--config","/etc/app/config.yaml"]`},
		// R2.3 Probes
		{"Deployment", container + ".startupProbe}", `{"failureThreshold":30,"httpGet":{"path":"/health/startup","port":"http"},"periodSeconds":5,"timeoutSeconds":3}`},
		{"Deployment", container + ".livenessProbe}", `{"failureThreshold":3,"httpGet":{"path":"/health/live","port":"http"},"periodSeconds":10,"timeoutSeconds":5}`},
		{"Deployment", container + ".readinessProbe}", `{"failureThreshold":3,"httpGet":{"path":"/health/ready","port":"http"},"periodSeconds":5,"timeoutSeconds":3}`},
		// R2.4 Service and Ingress
		{"Service", "{.spec.type}", "ClusterIP"},
		{"Service", `{.spec.ports[?(@.name=="http")]}`, `{"name":"http","port":80,"targetPort":"http"}`},
		{"Service", `{.spec.ports[?(@.name=="metrics")]}`, `{"name":"metrics","port":9090,"targetPort":"metrics"}`},
		{"Service", "{.metadata.annotations}", `{"prometheus.io/path":"/metrics","prometheus.io/port":"9090","prometheus.io/scrape":"true"}`},
		{"Ingress", "{.spec.ingressClassName}", "nginx"},
		{"Ingress", "{.spec.tls[0]}", `{"hosts":["api.example.com"],"secretName":"orders-tls"}`},
		{"Ingress", `{.metadata.annotations.cert-manager\.io/cluster-issuer}`, "letsencrypt-prod"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/ssl-redirect}`, "true"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/force-ssl-redirect}`, "true"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/limit-rps}`, "100"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/limit-connections}`, "20"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/proxy-connect-timeout}`, "30"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/proxy-send-timeout}`, "60"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/proxy-read-timeout}`, "60"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/enable-cors}`, "true"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/cors-allow-origin}`, "https://www.example.com"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/proxy-body-size}`, "10m"},
		{"Ingress", `{.metadata.annotations.nginx\.ingress\.kubernetes\.io/whitelist-source-range}`, "10.0.0.0/8"},
		{"Ingress", "{.spec.rules[0].host}", "api.example.com"},
		{"Ingress", "{.spec.rules[0].http.paths[0].path}", "/api/orders"},
		{"Ingress", "{.spec.rules[0].http.paths[0].pathType}", "Prefix"},
		{"Ingress", "{.spec.rules[0].http.paths[0].backend.service}", `{"name":"orders","port":{"name":"http"}}`},
		// R2.5 HorizontalPodAutoscaler
		{"HorizontalPodAutoscaler", "{.apiVersion}", "autoscaling/v2"},
		{"HorizontalPodAutoscaler", "{.spec.minReplicas}", "3"},
		{"HorizontalPodAutoscaler", "{.spec.maxReplicas}", "20"},
		{"HorizontalPodAutoscaler", `{.spec.metrics[?(@.resource.name=="cpu")].resource.target}`, `{"averageUtilization":70,"type":"Utilization"}`},
		{"HorizontalPodAutoscaler", `{.spec.metrics[?(@.resource.name=="memory")].resource.target}`, `{"averageUtilization":80,"type":"Utilization"}`},
		{"HorizontalPodAutoscaler", `{.spec.metrics[?(@.type=="Pods")].pods}`, `{"metric":{"name":"http_requests_per_second"},"target":{"averageValue":"1000","type":"AverageValue"}}`},
		{"HorizontalPodAutoscaler", "{.spec.behavior.scaleDown.stabilizationWindowSeconds}", "300"},
		{"HorizontalPodAutoscaler", "{.spec.behavior.scaleDown.selectPolicy}", "Min"},
		{"HorizontalPodAutoscaler", "{.spec.behavior.scaleDown.policies}", `[{"periodSeconds":60,"type":"Percent","value":50},{"periodSeconds":60,"type":"Pods","value":2}]`},
		{"HorizontalPodAutoscaler", "{.spec.behavior.scaleUp.stabilizationWindowSeconds}", "0"},
		{"HorizontalPodAutoscaler", "{.spec.behavior.scaleUp.selectPolicy}", "Max"},
		{"HorizontalPodAutoscaler", "{.spec.behavior.scaleUp.policies}", `[{"periodSeconds":30,"type":"Percent","value":100},{"periodSeconds":30,"type":"Pods","value":4}]`},
		// R3.1 ConfigMap
		{"ConfigMap orders-env", "{.data}", `{"HTTP_TIMEOUT":"30s","LOG_LEVEL":"info"}`},
		{"Deployment", container + ".envFrom[0].configMapRef.name}", "orders-env"},
		{"config.yaml", "{.server.read_timeout}", "30s"},
		{"config.yaml", "{.server.write_timeout}", "60s"},
		{"config.yaml", "{.database.max_conns}", "100"},
		{"config.yaml", "{.database.min_idle_conns}", "10"},
		{"config.yaml", "{.database.max_conn_lifetime}", "1h"},
		{"config.yaml", "{.redis.pool_size}", "50"},
		{"config.yaml", "{.redis.max_retries}", "3"},
		{"config.yaml", "{.otlp.endpoint}", "http://otel-collector.observability:4317"},
		{"config.yaml", "{.otlp.timeout}", "10s"},
		{"config.yaml", "{.otlp.retry}", "1m"},
		{"config.yaml", "{.features}", `{"experimental_ui":false,"new_checkout":true}`},
		// R3.3 Secrets
		{"Deployment", container + ".envFrom[1]}", `{"prefix":"APP_","secretRef":{"name":"app-secrets"}}`},
		{"Deployment", podSpec + `.volumes[?(@.name=="secret-0")].secret}`, `{"defaultMode":256,"items":[{"key":"database-url","path":"db_url.txt"}],"secretName":"app-secrets"}`},
		// R3.5 Vault
		{"Deployment", `{.spec.template.metadata.annotations.vault\.hashicorp\.com/agent-inject}`, "true"},
		{"Deployment", `{.spec.template.metadata.annotations.vault\.hashicorp\.com/role}`, "order-service"},
		{"Deployment", `{.spec.template.metadata.annotations.vault\.hashicorp\.com/agent-inject-secret-db-password}`, "database/creds/order-service"},
		{"Deployment", `{.spec.template.metadata.annotations.vault\.hashicorp\.com/agent-inject-template-db-password}`, `{{ with secret "database/creds/order-service" }}{{ .Data.password }}{{ end }}`},
		// R6.1 RBAC
		{"ServiceAccount", "{.metadata.name}", "orders"},
		{"Role", "{.rules[0]}", `{"apiGroups":[""],"resources":["configmaps"],"verbs":["get","list","watch"]}`},
		{"Role", "{.rules[1]}", `{"apiGroups":[""],"resourceNames":["app-secrets"],"resources":["secrets"],"verbs":["get"]}`},
		{"Role", "{.rules[2]}", `{"apiGroups":["","events.k8s.io"],"resources":["events"],"verbs":["create","patch"]}`},
		{"RoleBinding", "{.roleRef.name}", "orders"},
		{"RoleBinding", "{.subjects[0].name}", "orders"},
		// R6.3 NetworkPolicy
		{"NetworkPolicy", "{.spec.policyTypes}", `["Ingress","Egress"]`},
		{"NetworkPolicy", `{.spec.ingress[0].from[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name}`, "ingress-nginx"},
		{"NetworkPolicy", "{.spec.ingress[0].ports[0].port}", "http"},
		{"NetworkPolicy", `{.spec.ingress[1].from[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name}`, "monitoring"},
		{"NetworkPolicy", "{.spec.ingress[1].ports[0].port}", "metrics"},
		{"NetworkPolicy", "{.spec.egress[0].ports}", `[{"port":53,"protocol":"UDP"},{"port":53,"protocol":"TCP"}]`},
		{"NetworkPolicy", "{.spec.egress[1].ports[*].port}", "5432 6379 4317"},
		{"NetworkPolicy", `{.spec.egress[2].to[*].podSelector.matchLabels.app\.kubernetes\.io/instance}`, "payment inventory"},
	},
	orders + "/shop": {
		// R7.2: the order service
		{"Deployment", "{.spec.replicas}", "5"},
		{"Deployment", "{.spec.strategy.rollingUpdate.maxSurge}", "2"},
		{"Deployment", "{.spec.strategy.rollingUpdate.maxUnavailable}", "0"},
		{"Deployment", container + ".resources.requests}", `{"cpu":"1000m","memory":"1Gi"}`},
		{"Deployment", container + ".resources.limits}", `{"cpu":"2000m","memory":"2Gi"}`},
		{"Deployment", podSpec + ".affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey}", "kubernetes.io/hostname"},
		{"Deployment", `{.metadata.labels.helm\.sh/chart}`, "order-service-1.2.0"},
	},
	orders + "/hpa": {
		{"HorizontalPodAutoscaler", "{.spec.minReplicas}", "5"},
		{"HorizontalPodAutoscaler", "{.spec.maxReplicas}", "50"},
		{"HorizontalPodAutoscaler", `{.spec.metrics[?(@.type=="Pods")].pods.target.averageValue}`, "2000"},
	},
	orders + "/vpa": {
		// R2.6 VerticalPodAutoscaler
		{"VerticalPodAutoscaler", "{.spec.updatePolicy.updateMode}", "InPlaceOrRecreate"},
		{"VerticalPodAutoscaler", "{.spec.targetRef}", `{"apiVersion":"apps/v1","kind":"Deployment","name":"orders"}`},
		{"VerticalPodAutoscaler", "{.spec.resourcePolicy.containerPolicies[0].controlledResources}", `["cpu","memory"]`},
		{"VerticalPodAutoscaler", "{.spec.resourcePolicy.containerPolicies[0].minAllowed}", `{"cpu":"500m","memory":"512Mi"}`},
		{"VerticalPodAutoscaler", "{.spec.resourcePolicy.containerPolicies[0].maxAllowed}", `{"cpu":"4","memory":"8Gi"}`},
	},
	service + "/statefulset": {
		// R2.2 StatefulSet
		{"StatefulSet", "{.spec.serviceName}", "orders-headless"},
		{"StatefulSet", "{.spec.updateStrategy.rollingUpdate.partition}", "1"},
		{"StatefulSet", "{.spec.volumeClaimTemplates[0].spec.resources.requests.storage}", "10Gi"},
		{"StatefulSet", container + `.volumeMounts[?(@.name=="data")].mountPath}`, "/data"},
		{"Service orders-headless", "{.spec.clusterIP}", "None"},
	},
	service + "/daemonset": {
		// R2.2 DaemonSet
		{"DaemonSet", "{.spec.updateStrategy.type}", "RollingUpdate"},
		{"DaemonSet", container + ".securityContext.readOnlyRootFilesystem}", "true"},
	},
}

func TestGuide(t *testing.T) {
	for _, set := range allSets(t) {
		rows, ok := guide[set.name]
		if !ok {
			continue
		}
		delete(guide, set.name)
		t.Run(set.name, func(t *testing.T) {
			r := set.render(t)
			for _, row := range rows {
				if got := at(t, r, row); got != row.want {
					t.Errorf("%s %s is %s, want %s", row.kind, row.path, got, row.want)
				}
			}
		})
	}
	for name := range guide {
		t.Errorf("there is no values file %s", name)
	}
}

// at returns the value of a row in a release, as text or JSON.
func at(t *testing.T, r *release.Release, row guideRow) string {
	t.Helper()
	kind, name, _ := strings.Cut(row.kind, " ")
	for _, o := range objects(t, r) {
		var data map[string]any
		if err := yaml.Unmarshal(o.raw, &data); err != nil {
			t.Fatal(err)
		}
		if kind == "config.yaml" && o.Kind == "ConfigMap" {
			files, _ := data["data"].(map[string]any)
			text, _ := files["config.yaml"].(string)
			values, err := chartutil.ReadValues([]byte(text))
			if err != nil {
				t.Fatal(err)
			}
			if len(values) > 0 {
				return lookUp(t, row.path, map[string]any(values))
			}
		}
		if o.Kind == kind && (name == "" || o.Metadata.Name == name) {
			return lookUp(t, row.path, data)
		}
	}
	return "missing: no " + row.kind
}

// lookUp evaluates a path.
func lookUp(t *testing.T, path string, data map[string]any) string {
	t.Helper()
	p := jsonpath.New("guide").AllowMissingKeys(true)
	p.EnableJSONOutput(false)
	if err := p.Parse(path); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	found, err := p.FindResults(data)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var all []string
	for _, results := range found {
		for _, v := range results {
			if text, ok := reflect.TypeAssert[string](v); ok {
				all = append(all, text)
				continue
			}
			var out bytes.Buffer
			encoder := json.NewEncoder(&out)
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(v.Interface()); err != nil {
				t.Fatal(err)
			}
			all = append(all, strings.TrimSpace(out.String()))
		}
	}
	return strings.Join(all, " ")
}
