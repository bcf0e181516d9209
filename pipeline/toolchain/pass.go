package toolchain

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Pass says which variables of slipway's environment programs see that execute an app's
// code, in addition to those that every such program sees.
type Pass struct {
	// Names are names of variables, or patterns in the form of [path.Match].
	Names []string
	// Secrets are names of variables that are never passed.
	Secrets []string
}

// passes reports whether a variable is passed.
func (p Pass) passes(name, value string) bool {
	if isSetting(name) || isSecret(name) || slices.Contains(p.Secrets, name) {
		return false
	}
	for _, pattern := range p.Names {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return isOrdinary(name) && !looksSecret(name) && !holdsPassword(value)
}

// isOrdinary reports whether programs usually need a variable: it describes the system,
// where libraries are, or how tests run.
func isOrdinary(name string) bool {
	switch name {
	case "CI", "GITHUB_ACTIONS", "GITLAB_CI", "LANG", "LANGUAGE", "TZ", "USER", "LOGNAME", "HOSTNAME", "SHELL", "TERM", "COLORTERM", "NO_COLOR",
		"FORCE_COLOR", "SOURCE_DATE_EPOCH", "DATABASE_URL", "REDIS_URL", "SSL_CERT_FILE", "SSL_CERT_DIR", "DOCKER_HOST",
		"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
		"LD_LIBRARY_PATH", "LD_RUN_PATH", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH",
		"CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "COMPILER_PATH", "GCC_EXEC_PREFIX":
		return true
	}
	for _, prefix := range []string{"LC_", "PKG_CONFIG_", "TEST_", "TESTCONTAINERS_", "GO"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// looksSecret reports whether the name of a variable says that it holds a credential, or
// where one is.
func looksSecret(name string) bool {
	upper := strings.ToUpper(name)
	for _, end := range []string{"_PASS", "_PWD", "_KEY", "_DSN", "_PAT", "_JWT"} {
		if strings.HasSuffix(upper, end) {
			return true
		}
	}
	return slices.ContainsFunc([]string{"TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "CREDENTIAL", "PRIVATE", "APIKEY", "API_KEY", "ACCESS_KEY", "_AUTH", "COOKIE", "SESSION"},
		func(part string) bool { return strings.Contains(upper, part) })
}

// holdsPassword reports whether a value is a URL with a password, or a list that has one.
func holdsPassword(value string) bool { return passwordInURL.MatchString(value) }

var passwordInURL = regexp.MustCompile(`://[^/\s@]*:[^/\s@]+@`)

// isSecret reports whether a variable is slipway's own, or holds a credential with which
// slipway signs, pushes or deploys.
func isSecret(name string) bool {
	switch name {
	case "COSIGN_PASSWORD", "SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "SIGNING_KEY", "SIGNING_PASSWORD",
		"KUBECONFIG_TEXT":
		return true
	}
	return strings.HasPrefix(name, "SLIPWAY_") && !strings.HasPrefix(name, "SLIPWAY_TEST_")
}

// TestEnv returns the environment for a program that executes an app's code: the variables
// of slipway's environment that p passes, then the settings of the toolchain, then extra.
func (g *Go) TestEnv(p Pass, extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if name, value, _ := strings.Cut(kv, "="); p.passes(name, value) {
			env = append(env, kv)
		}
	}
	for _, kv := range g.settings {
		name, value, _ := strings.Cut(kv, "=")
		switch {
		case name == "GOAUTH": // it can name a credential
		case name == "GOPROXY" && strings.Contains(value, "@"): // with a user and a password
			env = append(env, "GOPROXY=off")
		default:
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

// TestArea returns the folder with what the go command keeps for programs that execute an
// app's code, apart from [Go.BuildCache], from which builds are made.
func (g *Go) TestArea() string { return g.BuildCache + "-slipway-test" }

// MakeHome makes a home folder for programs that execute an app's code. The go command
// writes nothing there after it has ended, so that the folder can be removed.
func MakeHome(dir string) error {
	telemetry := filepath.Join(dir, ".config", "go", "telemetry")
	if err := os.MkdirAll(telemetry, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(telemetry, "mode"), []byte("off"), 0o600)
}

// TestInputs returns those variables of [Go.TestEnv] that can make a difference for a
// test, sorted. Those that describe the shell or the terminal in which slipway runs are
// left out.
func (g *Go) TestInputs(p Pass) []string {
	inputs := slices.DeleteFunc(g.TestEnv(p), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return describesShell(name)
	})
	slices.Sort(inputs)
	return inputs
}

// Withheld returns the names of the variables of slipway's environment that p does not pass
// and that a program could miss, sorted.
func (g *Go) Withheld(p Pass) []string {
	var names []string
	for _, kv := range os.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		if !p.passes(name, value) && !isSetting(name) && !isSecret(name) && !slices.Contains(p.Secrets, name) && !describesShell(name) && name != "HOME" && name != "PATH" && name != "TMPDIR" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
