package command

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// secretVariables returns the variables with credentials that slipway, a CI system or a
// library of slipway reads, and those that the configuration of the test names.
func secretVariables() []string {
	return []string{
		"SLIPWAY_KEY_PASSWORD", "SLIPWAY_REGISTRY_USERNAME", "SLIPWAY_REGISTRY_PASSWORD", "SLIPWAY_PULL_USERNAME", "SLIPWAY_PULL_PASSWORD",
		"RELEASE_KEY", "ORDERS_DATABASE", "KUBECONFIG_TEXT", "SIGNING_KEY", "SIGNING_PASSWORD", "SIGSTORE_ID_TOKEN", "VAULT_TOKEN",
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_RUNTIME_TOKEN", "GITHUB_TOKEN", "GH_TOKEN", "DOCKER_AUTH_CONFIG",
		"CI_JOB_TOKEN", "CI_REGISTRY_PASSWORD", "CI_DEPLOY_PASSWORD", "CI_REPOSITORY_URL", "DAGGER_CLOUD_TOKEN", "REGISTRY_PASSWORD",
		"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "GOOGLE_API_KEY", "COSIGN_PASSWORD", "COSIGN_PRIVATE_KEY",
		"OTEL_EXPORTER_OTLP_HEADERS", "GOAUTH_TOKEN",
	}
}

// readers is code that prints every environment variable and every file that holds the text TOP-.
const readers = `package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func read() {
	for _, kv := range os.Environ() {
		if strings.Contains(kv, "TOP-") {
			println("FOUND in the environment", kv)
		}
	}
	for _, root := range strings.Split(ROOTS, ":") {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".go") {
				return nil
			}
			if text, _ := os.ReadFile(path); bytes.Contains(text, []byte("TOP-")) {
				println("FOUND in", path, string(text))
			}
			return nil
		})
	}
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		text, _ := os.ReadFile(file)
		for _, kv := range bytes.Split(text, []byte{0}) {
			if bytes.Contains(kv, []byte("TOP-")) {
				println("FOUND in", file, string(kv))
			}
		}
	}
	println("READ EVERYTHING")
}
`

// TestPlantedSecrets plants a secret in each variable and each file with credentials that
// slipway knows. A test, a linter, a generator and a chart try to read them. They are found
// nowhere: not in what is printed, in reports, in the image or in the cache.
func TestPlantedSecrets(t *testing.T) {
	needsSandbox(t)
	p, secrets := plantSecrets(t)
	image, reports := filepath.Join(t.TempDir(), "image"), filepath.Join(p.dir, "reports")
	var printed bytes.Buffer
	for _, step := range []struct {
		code int
		says string // in the output, to show that the reader has run
		args []string
	}{
		{fault.ExitFailed, "READ EVERYTHING", []string{"lint", "--progress", "plain", "--reports", reports}},
		{fault.ExitFailed, "READ EVERYTHING", []string{"test", "--progress", "json", "--reports", reports}},
		{fault.ExitOK, "", []string{"build", "-o", "oci:" + image}},
		{fault.ExitOK, "", []string{"source", "-o", "json"}},
		{fault.ExitInput, "", []string{"plan", "--env", "prod", "--image", "127.0.0.1:9/orders@sha256:" + strings.Repeat("a", 64)}},
	} {
		e := p.run(t, step.args...)
		if e.code != step.code || !strings.Contains(e.stdout+e.stderr, step.says) {
			t.Errorf("%q: exit %d, want %d with %q\n%s%s", step.args, e.code, step.code, step.says, e.stdout, e.stderr)
		}
		fmt.Fprintln(&printed, e.stdout, e.stderr)
	}
	found := bytes.Count(printed.Bytes(), []byte("TOP-"))
	if found > 0 {
		t.Errorf("what was printed has secrets:\n%s", printed.Bytes())
	}
	searched := 0
	for _, root := range []string{image, reports, p.variable("SLIPWAY_CACHE"), p.dir} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || slices.Contains(secrets, path) || strings.HasSuffix(path, ".go") {
				return err
			}
			searched++
			text, err := os.ReadFile(path)
			if bytes.Contains(text, []byte("TOP-secret")) {
				found++
				t.Errorf("%s has a secret", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(p.dir, "generated.txt")); err == nil {
		t.Error("the go:generate line was run")
	}
	t.Logf("%d variables and %d files, read by a test, a linter, a go:generate line and a chart: found %d times in %d bytes of output and %d files",
		len(secretVariables()), len(secrets), found, printed.Len(), searched)
}

// plantSecrets returns a program in the repository of an app whose test, linter, generator
// and chart try to read secrets. Each variable and each file with credentials that slipway
// knows has one. It also returns these files.
func plantSecrets(t *testing.T) (p *program, secrets []string) {
	t.Helper()
	work := t.TempDir()
	dir := filepath.Join(work, "orders")
	files := helloApp()
	files[".gitignore"] += "release.key\nkubeconfig\n.slipway\n"
	files["slipway.yaml"] = "test: {race: false}\nsign: {key: release.key}\nverify: {keys: ['env://RELEASE_KEY']}\n" +
		"deploy: {chart: chart, environments: {prod: {secrets: {orders: {password: ORDERS_DATABASE}}}}}\n"
	files["generate.go"] = "package main\n\n//go:generate sh -c \"env > generated.txt\"\n"
	files["chart/Chart.yaml"] = "apiVersion: v2\nname: orders\nversion: 1.0.0\n"
	files["chart/templates/c.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {x: {{ env \"ORDERS_DATABASE\" | quote }}}\n"
	p = newProgram(t, dir)
	home := p.variable("HOME")
	roots := "\nconst ROOTS = `" + strings.Join([]string{dir, home, work, ".", ".."}, ":") + "`\n"
	files["read_test.go"] = strings.Replace(readers, "\t\"strings\"\n", "\t\"strings\"\n\t\"testing\"\n", 1) + "\nfunc TestRead(t *testing.T) {\n\tread()\n\tt.Fail()\n}\n" + roots
	testkit.Write(t, dir, files)
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "x"},
		{"config", "http.extraheader", "AUTHORIZATION: basic TOP-secret"},
	} {
		testkit.Git(t, dir, args...)
	}
	secrets = []string{filepath.Join(dir, ".git", "config")}
	for file, variable := range map[string]string{
		filepath.Join(dir, "release.key"): "", filepath.Join(dir, "kubeconfig"): "KUBECONFIG", filepath.Join(work, "token"): "SIGSTORE_ID_TOKEN_FILE",
		filepath.Join(work, "auth.json"): "REGISTRY_AUTH_FILE", filepath.Join(work, "netrc"): "NETRC", filepath.Join(work, "aws"): "AWS_SHARED_CREDENTIALS_FILE",
		filepath.Join(work, "gcloud.json"): "GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(work, "event.json"): "GITHUB_EVENT_PATH",
		filepath.Join(home, ".netrc"): "", filepath.Join(home, ".kube", "config"): "", filepath.Join(home, ".ssh", "id_ed25519"): "",
		filepath.Join(home, ".git-credentials"): "", filepath.Join(home, ".config", "gh", "hosts.yml"): "", filepath.Join(home, ".vault-token"): "",
		filepath.Join(home, ".config", "helm", "registry", "config.json"): "", filepath.Join(home, ".aws", "credentials"): "",
	} {
		testkit.Write(t, filepath.Dir(file), map[string]string{filepath.Base(file): "TOP-secret"})
		if variable != "" {
			p.env = append(p.env, variable+"="+file)
		}
		secrets = append(secrets, file)
	}
	for _, name := range secretVariables() {
		p.env = append(p.env, name+"=TOP-secret")
	}
	fakeLinter(t, p, readers+"\nfunc main() { read() }\n"+roots)
	return p, secrets
}

// fakeLinter replaces golangci-lint, whose plugins execute code of the app, by a program.
func fakeLinter(t *testing.T, p *program, source string) {
	t.Helper()
	version, err := exec.CommandContext(t.Context(), "go", "env", "GOVERSION").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := testkit.Tree(t, map[string]string{"go.mod": "module fake\n\ngo 1.26\n", "main.go": source})
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(p.variable("SLIPWAY_CACHE"), "tools", "golangci-lint-v2.15.0-"+strings.TrimSpace(string(version)), "golangci-lint"), ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, source)
	}
}
