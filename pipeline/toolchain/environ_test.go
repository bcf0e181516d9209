package toolchain

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestGoSettings compares the names of the settings with those that the toolchain knows.
func TestGoSettings(t *testing.T) {
	g, err := Find(t.Context(), ".", "")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(g.Root, "src", "internal", "cfg", "cfg.go"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)KnownEnv = `(.*?)`").FindSubmatch(data)
	if m == nil {
		t.Fatal("the list of settings is not in internal/cfg")
	}
	for name := range strings.FieldsSeq(string(m[1])) {
		if !slices.Contains(goSettings(), name) {
			t.Errorf("%s is missing", name)
		}
	}
}

// variables returns the variables of an environment. Later ones prevail.
func variables(env []string) map[string]string {
	all := map[string]string{}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		all[name] = value
	}
	return all
}

// TestEnvironment: tests see what describes the system, what begins with GO, what they are
// configured to see, and no secrets. A build sees nothing that could change it.
func TestEnvironment(t *testing.T) {
	pass := Pass{Names: []string{"ORDERS_*", "GITHUB_TOKEN", "COSIGN_PASSWORD", "SLIPWAY_PULL_PASSWORD"}, Secrets: []string{"ORDERS_DATABASE_PASSWORD", "RELEASE_KEY"}}
	both := []string{"GOMAXPROCS", "GOOGLE_CLOUD_PROJECT", "LC_ALL", "NO_PROXY"}
	onlyTests := []string{
		"GORM_DIALECT", "GOTENBERG_URL", "GO_TEST_ENV", "GOLD", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH", "LIBRARY_PATH", "CPATH", "CFLAGS", "SOURCE_DATE_EPOCH",
	}
	neither := []string{"GOAMD64", "GO111MODULE", "CGO_CFLAGS", "CC", "GIT_DIR", "GIT_WORK_TREE", "COSIGN_PASSWORD", "SIGSTORE_ID_TOKEN"}
	onlyBuilds := []string{"HOME_OF_X"}
	never := []string{
		"SLIPWAY_PULL_PASSWORD", "SLIPWAY_KEY_PASSWORD", "SLIPWAY_CACHE", "ORDERS_DATABASE_PASSWORD", "RELEASE_KEY", "CI_JOB_TOKEN", "KUBECONFIG_TEXT",
		"GOOGLE_APPLICATION_CREDENTIALS", "GO_REGISTRY_TOKEN", "GITHUB_ENV", "GITHUB_OUTPUT", "AWS_ACCESS_KEY_ID", "REGISTRY_PASSWORD", "SSH_AUTH_SOCK",
	}
	passed := []string{"ORDERS_DIALECT", "GITHUB_TOKEN"}
	for _, name := range slices.Concat(both, onlyTests, neither, onlyBuilds, never, passed) {
		t.Setenv(name, "planted")
	}
	for name, value := range map[string]string{"GOFLAGS": "-mod=mod", "GOEXPERIMENT": "", "GOAMD64": "v3", "GO111MODULE": "on"} {
		t.Setenv(name, value)
	}
	g, err := Find(t.Context(), ".", "")
	if err != nil {
		t.Fatal(err)
	}
	build, test := variables(g.Env("EXTRA=1")), variables(g.TestEnv(pass, "EXTRA=1"))
	for _, tt := range []struct {
		names       []string
		build, test bool
	}{
		{both, true, true},
		{onlyTests, false, true},
		{passed, true, true},
		{neither, false, false},
		{onlyBuilds, true, false},
	} {
		for _, name := range tt.names {
			if (build[name] != "") != tt.build || (test[name] != "") != tt.test {
				t.Errorf("%s: build %q, test %q", name, build[name], test[name])
			}
		}
	}
	for _, name := range never {
		if test[name] != "" {
			t.Errorf("tests see %s", name)
		}
	}
	for _, env := range []map[string]string{build, test} {
		if env["GOFLAGS"] != "-trimpath" || env["GOENV"] != "off" || env["GOTOOLCHAIN"] != "local" || env["EXTRA"] != "1" || env["GOWORK"] == "" {
			t.Errorf("settings: %v", env)
		}
	}
	if got := g.Withheld(pass); !slices.Contains(got, "HOME_OF_X") || slices.Contains(got, "LC_ALL") || slices.Contains(got, "RELEASE_KEY") || slices.Contains(got, "SLIPWAY_CACHE") {
		t.Errorf("withheld: %v", got)
	}
}

// TestUnknownSettings: settings of the user that the pinned toolchain does not know do not
// matter, wherever they are set, because a build does not see them.
func TestUnknownSettings(t *testing.T) {
	for _, setting := range []string{"GOEXPERIMENT=nosuch", "GOFIPS140=nosuch", "GOFLAGS=-nosuch", "GOAMD64=v99", "GOOS=nosuch"} {
		t.Run(setting, func(t *testing.T) {
			name, value, _ := strings.Cut(setting, "=")
			t.Setenv(name, value)
			if _, err := Find(t.Context(), ".", ""); err != nil {
				t.Errorf("in the environment: %v", err)
			}
			t.Setenv(name, "")
			file := filepath.Join(t.TempDir(), "env")
			if err := os.WriteFile(file, []byte(setting+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			t.Setenv("GOENV", file)
			if _, err := Find(t.Context(), ".", ""); err != nil {
				t.Errorf("in the settings of the user: %v", err)
			}
		})
	}
}

// TestProxyWithPassword: tests do not see the credentials of a module proxy.
func TestProxyWithPassword(t *testing.T) {
	for proxy, want := range map[string]string{"https://me:top@proxy.example.com": "off", "https://proxy.example.com": "https://proxy.example.com"} {
		t.Setenv("GOPROXY", proxy)
		g, err := Find(t.Context(), ".", "")
		if err != nil {
			t.Fatal(err)
		}
		if got := variables(g.TestEnv(Pass{}))["GOPROXY"]; got != want {
			t.Errorf("GOPROXY=%s, want %s", got, want)
		}
		if got := variables(g.Env())["GOPROXY"]; got != proxy {
			t.Errorf("a build has GOPROXY=%s, want %s", got, proxy)
		}
	}
}

// TestTestInputs: a variable that a test can read makes a difference. One that differs
// between two shells, or that tests do not see, makes none.
func TestTestInputs(t *testing.T) {
	inputs := func(name, value string) string {
		t.Setenv(name, value)
		g, err := Find(t.Context(), ".", "")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(g.TestInputs(Pass{Names: []string{"DATABASE_*", "SHLVL"}}), "\n")
	}
	for name, same := range map[string]bool{"DATABASE_HOST": false, "GORM_DIALECT": false, "SHLVL": true, "OTHER": true, "GOAMD64": true} {
		if got := inputs(name, "v1") == inputs(name, "v2"); got != same {
			t.Errorf("%s: the same is %v, want %v", name, got, same)
		}
	}
}

func TestToolchainLine(t *testing.T) {
	for name, tt := range map[string]struct {
		mod, work, want string
	}{
		"in go.mod":          {"module x\n\ngo 1.25\n\ntoolchain go1.26.1\n", "", "go1.26.1"},
		"in a newer go.mod":  {"module x\n\ngo 1.99\n\nfuture thing\ntoolchain go1.26.1 // why\n", "", "go1.26.1"},
		"none":               {"module x\n\ngo 1.26.3\n", "", ""},
		"default":            {"module x\n\ntoolchain default\n", "", ""},
		"in go.work":         {"module x\n\ntoolchain go1.26.1\n", "go 1.26\n\ntoolchain go1.26.2\n\nuse .\n", "go1.26.2"},
		"only in the module": {"module x\n\ntoolchain go1.26.1\n", "go 1.26\n\nuse .\n", ""},
		"malformed":          {"toolchain go1.26.1\n\"", "", ""},
		"commented":          {"module x\n\n// toolchain go1.26.1\n", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, text string) string {
				file := filepath.Join(dir, name)
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				return file
			}
			write("go.mod", tt.mod)
			workspace := WorkspaceOff
			if tt.work != "" {
				workspace = write("go.work", tt.work)
			}
			if got := toolchainLine(dir, workspace); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
