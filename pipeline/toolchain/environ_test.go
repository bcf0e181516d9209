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

// TestEnvironment: tests see everything except the go command's settings, what selects a
// git repository, and secrets. A build sees nothing that could change it.
func TestEnvironment(t *testing.T) {
	both, onlyTests := []string{"GODEBUG", "HOME_OF_X", "GOOGLE_CLOUD_PROJECT", "GOMAXPROCS"}, []string{
		"GORM_DIALECT", "GOTENBERG_URL", "GO_TEST_ENV", "GOLD", "LD_LIBRARY_PATH", "PKG_CONFIG_PATH", "LIBRARY_PATH", "CPATH", "CFLAGS", "SOURCE_DATE_EPOCH",
	}
	neither := []string{"GOAMD64", "GO111MODULE", "CGO_CFLAGS", "CC", "GIT_DIR", "GIT_WORK_TREE", "COSIGN_PASSWORD", "SIGSTORE_ID_TOKEN"}
	for _, name := range slices.Concat(both, onlyTests, neither) {
		t.Setenv(name, "planted")
	}
	t.Setenv("GODEBUG", "madvdontneed=1")
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("GOEXPERIMENT", "")
	t.Setenv("GOAMD64", "v3")
	t.Setenv("GO111MODULE", "on")
	g, err := Find(t.Context(), ".", "")
	if err != nil {
		t.Fatal(err)
	}
	build, test := variables(g.Env("EXTRA=1")), variables(g.TestEnv("EXTRA=1"))
	for _, name := range both {
		if build[name] != os.Getenv(name) || test[name] != os.Getenv(name) {
			t.Errorf("%s: build %q, test %q", name, build[name], test[name])
		}
	}
	for _, name := range onlyTests {
		if build[name] != "" || test[name] != "planted" {
			t.Errorf("%s: build %q, test %q", name, build[name], test[name])
		}
	}
	for _, name := range neither {
		if build[name] != "" || test[name] != "" {
			t.Errorf("%s: build %q, test %q", name, build[name], test[name])
		}
	}
	for _, env := range []map[string]string{build, test} {
		if env["GOFLAGS"] != "-trimpath" || env["GOENV"] != "off" || env["GOTOOLCHAIN"] != "local" || env["EXTRA"] != "1" || env["GOWORK"] == "" {
			t.Errorf("settings: %v", env)
		}
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

// TestTestInputs: a variable that a test could read makes a difference, and one that
// differs between two shells does not.
func TestTestInputs(t *testing.T) {
	inputs := func(name, value string) string {
		t.Setenv(name, value)
		g, err := Find(t.Context(), ".", "")
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(g.TestInputs(), "\n")
	}
	for name, same := range map[string]bool{"DATABASE_HOST": false, "GORM_DIALECT": false, "SHLVL": true, "TMUX_PANE": true, "GOAMD64": true} {
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
