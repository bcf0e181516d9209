package charts

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// TestServiceRejectsValues covers values of the chart service that contradict each other.
func TestServiceRejectsValues(t *testing.T) {
	for _, tt := range []struct{ values, want string }{
		{`{kind: Replicas}`, `at '/kind': value must be one of 'Deployment', 'StatefulSet', 'DaemonSet', 'CronJob', 'Job'`},
		{`{ports: {http: 0}}`, `at '/ports/http': minimum`},
		{`{ports: {a-name-that-is-too-long: 80}}`, `a-name-that-is-too-long`},
		{`{statefulSet: {volumes: [{name: data, size: 1Gi}]}}`, `missing property 'mountPath'`},
		{`{kind: CronJob}`, `cronJob.schedule is empty: set it to the times of the runs`},
		{`{mainPort: grpc}`, `mainPort is grpc, which is not in ports`},
		{`{statefulSet: {volumes: [{name: data, mountPath: /data, size: 1Gi}]}}`, `the pods of a Deployment get no volumes of their own: set kind to StatefulSet`},
		{`{kind: DaemonSet, autoscaling: {enabled: true}}`, `the number of pods of a DaemonSet cannot be set`},
		{`{kind: Job, verticalAutoscaling: {enabled: true}}`, `a Job is not changed while it runs`},
		{`{ports: {http: null}, ingress: {enabled: true, hosts: [a.example.com]}}`, `the pods have no port that requests could be routed to`},
		{`{ingress: {enabled: true, hosts: [a.example.com, {host: a.example.com, paths: [{path: /x}]}]}}`, `ingress.hosts contains a.example.com twice`},
		{`{ports: {grpc: 9000, http: 80}, mainPort: grpc}`, `the ports grpc and http would both be port 80 of the Service`},
		{`{service: {ports: {htpp: 1}}}`, `service.ports names htpp, which is not in ports`},
		{`{terminationGracePeriodSeconds: 3}`, `terminationGracePeriodSeconds (3) is not greater than drainSeconds (5)`},
		{`{minReadySeconds: 400}`, `minReadySeconds (400) is not less than progressDeadlineSeconds (300)`},
		{`{kind: DaemonSet, daemonSet: {maxSurge: 1}}`, `daemonSet.maxSurge and daemonSet.maxUnavailable are both above 0`},
		{`{kind: StatefulSet, statefulSet: {volumes: [{name: tmp, mountPath: /data, size: 1Gi}]}}`, `which is the name of a volume of the chart`},
		{`{ingress: null}`, `ingress is null, which removes the defaults that the chart needs`},
		{`{env: null, image: null}`, `is null, which removes the defaults`},
		{`{secretFiles: null}`, `secretFiles is null`},
		{`{tests: {enabled: true}}`, `tests.enabled is true, but there is no image to test with`},
		{`{autoscaling: {enabled: true}, verticalAutoscaling: {enabled: true}}`, `autoscaling and verticalAutoscaling would both act on cpu`},
	} {
		t.Run(tt.values, func(t *testing.T) {
			_, err := install(t.Context(), loadChart(t, service), parseFor(t, service, tt.values), kubeVersion)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v\ndoes not contain %q", err, tt.want)
			}
		})
	}
}

// TestProbesOfAService covers how the probes are derived from health, ports and probes.
func TestProbesOfAService(t *testing.T) {
	for _, tt := range []struct{ values, want string }{
		{`{}`, `{"tcpSocket":{"port":"http"},"timeoutSeconds":2,"periodSeconds":5,"failureThreshold":3}`},
		{`{health: {path: /healthz}}`, `{"httpGet":{"path":"/healthz","port":"http"},"timeoutSeconds":2,"periodSeconds":5,"failureThreshold":3}`},
		{`{health: {path: /healthz}, probes: {readiness: {path: /ready}}}`, `{"httpGet":{"path":"/ready","port":"http"},"timeoutSeconds":2,"periodSeconds":5,"failureThreshold":3}`},
		{`{health: {grpc: true}, ports: {http: null, grpc: 9000}}`, `{"grpc":{"port":9000,"service":null},"timeoutSeconds":2,"periodSeconds":5,"failureThreshold":3}`},
		{`{ports: {http: 8080, admin: 9000}, mainPort: admin}`, `{"tcpSocket":{"port":"admin"},"timeoutSeconds":2,"periodSeconds":5,"failureThreshold":3}`},
		{`{ports: {http: null}}`, `null`},
		{`{ports: {http: null}, probes: {readiness: {command: [/check]}}}`, `{"exec":{"command":["/check"]},"timeoutSeconds":2,"periodSeconds":5,"failureThreshold":3}`},
		{`{probes: {readiness: null}}`, `null`},
	} {
		r := valueSet{chart: service, values: parseFor(t, service, tt.values)}.render(t)
		if got := toJSON(t, deployment(t, r).Spec.Template.Spec.Containers[0].ReadinessProbe); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.values, got, tt.want)
		}
	}
}

// TestPortsOfAService covers the ports of the Service.
func TestPortsOfAService(t *testing.T) {
	for _, tt := range []struct {
		values string
		want   map[string]int32
	}{
		{`{}`, map[string]int32{"http": 80}},
		{`{ports: {http: 3000, metrics: 9090}}`, map[string]int32{"http": 80, "metrics": 9090}},
		{`{ports: {http: null, grpc: 9000}}`, map[string]int32{"grpc": 80}},
		{`{ports: {http: null, grpc: 9000}, service: {ports: {grpc: 9000}}}`, map[string]int32{"grpc": 9000}},
		{`{ports: {http: null}}`, nil},
	} {
		s := only[corev1.Service](t, valueSet{chart: service, values: parseFor(t, service, tt.values)}.render(t), "Service")
		var got map[string]int32
		if s != nil {
			got = map[string]int32{}
			for _, p := range s.Spec.Ports {
				got[p.Name] = p.Port
			}
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.values, diff)
		}
	}
}

// TestKindsShareThePodTemplate compares the pod template of every kind of workload with that of
// the Deployment.
func TestKindsShareThePodTemplate(t *testing.T) {
	pod := func(values string) corev1.PodSpec {
		r := valueSet{chart: service, values: parseFor(t, service, values)}.render(t)
		switch {
		case strings.Contains(values, "StatefulSet"):
			return only[appsv1.StatefulSet](t, r, "StatefulSet").Spec.Template.Spec
		case strings.Contains(values, "DaemonSet"):
			return only[appsv1.DaemonSet](t, r, "DaemonSet").Spec.Template.Spec
		case strings.Contains(values, "CronJob"):
			return only[batchv1.CronJob](t, r, "CronJob").Spec.JobTemplate.Spec.Template.Spec
		case strings.Contains(values, "Job"):
			return only[batchv1.Job](t, r, "Job").Spec.Template.Spec
		}
		return deployment(t, r).Spec.Template.Spec
	}
	const common = `podAntiAffinity: {mode: none}, ports: {http: null}, env: {A: b}, configFiles: {a: b}, secretFiles: [{secret: s, mountPath: /s}]}`
	want := pod("{" + common)
	for _, kind := range []string{"kind: StatefulSet", "kind: DaemonSet", "kind: Job", `kind: CronJob, cronJob: {schedule: "* * * * *"}`} {
		got := pod("{" + kind + ", " + common)
		if strings.Contains(kind, "Job") {
			got.RestartPolicy = want.RestartPolicy // a Job's pods are not restarted
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-Deployment +it):\n%s", kind, diff)
		}
	}
}

// TestNamesThatYAMLWouldConvert covers names that are numbers, booleans or long.
func TestNamesThatYAMLWouldConvert(t *testing.T) {
	long := strings.Repeat("a", 63)
	for _, values := range []string{
		`{nameOverride: "2048", fullnameOverride: "on", env: {"NO": "1"}, secretEnv: [{name: "NO2", secret: "123", key: "null"}], tests: {enabled: true, image: x}, networkPolicy: {enabled: true}}`,
		`{nameOverride: ` + long + `, fullnameOverride: ` + long + `, kind: StatefulSet, networkPolicy: {enabled: true}, tests: {enabled: true, image: x}}`,
		`{health: {path: "/a: b"}, configDir: "/x: y", configFiles: {a: b}}`,
	} {
		r := valueSet{chart: service, values: parseFor(t, service, values)}.render(t)
		if _, problems := conform(t, manifest(r)); len(problems) > 0 {
			t.Errorf("%s: %v", values, problems)
		}
		for _, o := range objects(t, r) {
			for key, value := range o.Metadata.Labels {
				if len(value) > 63 {
					t.Errorf("%s: the label %s of %s has %d characters", values, key, o.Kind, len(value))
				}
			}
			if o.Kind == "StatefulSet" && len(o.Metadata.Name) > 52 {
				t.Errorf("the name of the StatefulSet has %d characters, and those of its revisions would be too long", len(o.Metadata.Name))
			}
		}
	}
}

// TestVariablesAreSetOnce covers variables of the values that the chart sets too.
func TestVariablesAreSetOnce(t *testing.T) {
	r := valueSet{chart: service, values: parseFor(t, service, `{env: {GOMAXPROCS: "2", GOMEMLIMIT: 400MiB, POD_NAME: x}, extraEnv: [{name: NODE_NAME, value: z}]}`)}.render(t)
	got := map[string][]string{}
	for _, v := range deployment(t, r).Spec.Template.Spec.Containers[0].Env {
		got[v.Name] = append(got[v.Name], v.Value)
	}
	for name, want := range map[string]string{"GOMAXPROCS": "2", "GOMEMLIMIT": "400MiB", "POD_NAME": "x", "NODE_NAME": "z", "POD_IP": ""} {
		if diff := cmp.Diff([]string{want}, got[name]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
