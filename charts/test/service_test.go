package charts

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// TestServiceAcceptsConfig starts the real service with every config.yaml that the
// chart generates. With unknown keys or invalid values the service would exit before
// it listens.
func TestServiceAcceptsConfig(t *testing.T) {
	if testing.Short() {
		t.Skip("this test builds the service")
	}
	server := filepath.Join(t.TempDir(), "server")
	build := exec.CommandContext(t.Context(), "go", "build", "-C", "../../sample-app", "-tags", "nomsgpack", "-o", server, "./cmd/server")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, set := range valueSets(t, orders) {
		t.Run(set.name, func(t *testing.T) {
			config := configOf(t, render(t, set.values))
			if out := start(t, server, config); !strings.Contains(out, `"listening"`) {
				t.Errorf("the service does not listen:\n%s\n%s", out, config)
			}
		})
	}
	t.Run("rejects unknown keys", func(t *testing.T) {
		if out := start(t, server, "databse: {}"); !strings.Contains(out, `unknown key "databse"`) {
			t.Errorf("the service accepts an unknown key:\n%s", out)
		}
	})
}

// configOf returns the config.yaml of a release.
func configOf(t *testing.T, r *release.Release) string {
	t.Helper()
	for _, o := range objects(t, r) {
		var config corev1.ConfigMap
		if err := yaml.Unmarshal(o.raw, &config); err != nil {
			t.Fatal(err)
		}
		if text, ok := config.Data["config.yaml"]; ok && o.Kind == "ConfigMap" {
			return text
		}
	}
	t.Fatal("there is no config.yaml")
	return ""
}

// start runs the service until it listens or exits, and returns its output.
func start(t *testing.T, server, config string) string {
	t.Helper()
	dir := t.TempDir()
	// The test cannot write to /etc/secrets.
	config = strings.ReplaceAll(config, "/etc/secrets", dir)
	for name, content := range map[string]string{"config.yaml": config, "redis/password": "x"} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, server, "--config", filepath.Join(dir, "config.yaml"))
	cmd.Env = []string{"APP_SERVER_LISTEN=127.0.0.1:0", "APP_SERVER_METRICS_LISTEN=127.0.0.1:0"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var output strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		output.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"listening"`) {
			break
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	return output.String()
}

// TestPorts compares the addresses in config.yaml with the ports of the container
// and the annotations.
func TestPorts(t *testing.T) {
	r := render(t, parseValues(t, `{ports: {http: 8888, metrics: 9999}}`))
	var config struct {
		Server struct {
			Listen        string `json:"listen"`
			MetricsListen string `json:"metrics_listen"`
		} `json:"server"`
	}
	if err := yaml.Unmarshal([]byte(configOf(t, r)), &config); err != nil {
		t.Fatal(err)
	}
	if config.Server.Listen != ":8888" || config.Server.MetricsListen != ":9999" {
		t.Errorf("config.yaml listens on %+v", config.Server)
	}
	pod := deployment(t, r).Spec.Template
	for _, p := range pod.Spec.Containers[0].Ports {
		if want := map[string]int32{"http": 8888, "metrics": 9999}[p.Name]; p.ContainerPort != want {
			t.Errorf("port %s is %d, want %d", p.Name, p.ContainerPort, want)
		}
	}
	if got := pod.Annotations["prometheus.io/port"]; got != "9999" {
		t.Errorf("the annotation prometheus.io/port is %s", got)
	}
}

// TestRollingUpdateLosesNoRequests checks the conditions for this: an old pod is
// stopped only when its replacement is ready, and a pod has enough time to drain
// its connections before it is killed.
func TestRollingUpdateLosesNoRequests(t *testing.T) {
	for _, set := range valueSets(t, orders) {
		t.Run(set.name, func(t *testing.T) {
			r := render(t, set.values)
			d := deployment(t, r)
			if got := d.Spec.Strategy.RollingUpdate.MaxUnavailable.String(); got != "0" {
				t.Errorf("maxUnavailable %s reduces the capacity", got)
			}
			if d.Spec.MinReadySeconds == 0 {
				t.Error("minReadySeconds is 0: an old pod is stopped before all proxies know the new one")
			}
			if d.Spec.Template.Spec.Containers[0].ReadinessProbe == nil {
				t.Error("no readiness probe: the pod gets requests before the service listens")
			}
			var config struct {
				Shutdown struct {
					DrainDelay string `json:"drain_delay"`
					Timeout    string `json:"timeout"`
				} `json:"shutdown"`
			}
			if err := yaml.Unmarshal([]byte(configOf(t, r)), &config); err != nil {
				t.Fatal(err)
			}
			drain, timeout := duration(t, config.Shutdown.DrainDelay), duration(t, config.Shutdown.Timeout)
			grace := time.Duration(*d.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second
			if drain < 2*time.Second || drain >= timeout || timeout >= grace {
				t.Errorf("want 2s <= drain_delay < timeout < grace period, got %s, %s, %s", drain, timeout, grace)
			}
		})
	}
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
