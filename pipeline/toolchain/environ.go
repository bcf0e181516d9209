package toolchain

import (
	"os"
	"slices"
	"strings"
)

// keptSettings returns the names of the go settings that are passed on to
// programs. They state from where modules are fetched and where they are cached,
// and cannot change what is built, because go.sum fixes the content of modules.
// All other settings (GOFLAGS, GOEXPERIMENT, GOAMD64, CGO_CFLAGS, ...) are
// dropped, whether they are set in the environment or with `go env -w`: with
// them the same commit would have another digest on another machine.
func keptSettings() []string {
	return []string{
		"GOAUTH", "GOCACHE", "GOCACHEPROG", "GOINSECURE", "GOMODCACHE", "GONOPROXY",
		"GONOSUMDB", "GOPATH", "GOPRIVATE", "GOPROXY", "GOSUMDB", "GOVCS",
	}
}

// goSettings returns the names of all settings of the go command, as `go help environment`
// lists them. A test compares them with those of the toolchain.
func goSettings() []string {
	return []string{
		"AR", "CC", "CGO_CFLAGS", "CGO_CFLAGS_ALLOW", "CGO_CFLAGS_DISALLOW", "CGO_CPPFLAGS", "CGO_CPPFLAGS_ALLOW", "CGO_CPPFLAGS_DISALLOW",
		"CGO_CXXFLAGS", "CGO_CXXFLAGS_ALLOW", "CGO_CXXFLAGS_DISALLOW", "CGO_ENABLED", "CGO_FFLAGS", "CGO_FFLAGS_ALLOW", "CGO_FFLAGS_DISALLOW",
		"CGO_LDFLAGS", "CGO_LDFLAGS_ALLOW", "CGO_LDFLAGS_DISALLOW", "CXX", "FC", "GCCGO", "GCCGOTOOLDIR", "GO111MODULE", "GO386", "GOAMD64", "GOARCH",
		"GOARM", "GOARM64", "GOAUTH", "GOBIN", "GOCACHE", "GOCACHEPROG", "GOENV", "GOEXE", "GOEXPERIMENT", "GOFIPS140", "GOFLAGS", "GOGCCFLAGS",
		"GOHOSTARCH", "GOHOSTOS", "GOINSECURE", "GOMIPS", "GOMIPS64", "GOMOD", "GOMODCACHE", "GONOPROXY", "GONOSUMDB", "GOOS", "GOPATH", "GOPPC64",
		"GOPRIVATE", "GOPROXY", "GORISCV64", "GOROOT", "GOSUMDB", "GOTELEMETRY", "GOTELEMETRYDIR", "GOTMPDIR", "GOTOOLCHAIN", "GOTOOLDIR", "GOVCS",
		"GOVERSION", "GOWASM", "GOWORK", "GO_EXTLINK_ENABLED", "PKG_CONFIG",
	}
}

// gitSelection returns the names of the variables with which git selects a repository
// and its settings (git rev-parse --local-env-vars). Git sets some of them for hooks, and
// a test that creates a repository of its own would otherwise write into the app's.
func gitSelection() []string {
	return []string{
		"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS", "GIT_DIR",
		"GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY",
		"GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
	}
}

// environ returns the environment of slipway without the variables that drop selects,
// and without slipway's secrets, because a test may print its environment.
func environ(drop func(name string) bool) []string {
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		// PWD is a folder of slipway's own process. The go command would print paths
		// with the symbolic links in it.
		if name != "PWD" && !drop(name) && !isSecret(name) {
			env = append(env, kv)
		}
	}
	return env
}

// isSetting reports whether a variable is a setting of the go command, or selects a git
// repository.
func isSetting(name string) bool {
	return slices.Contains(goSettings(), name) || slices.Contains(gitSelection(), name)
}

// describesShell reports whether a variable differs between two shells of the same user,
// or between a shell and a git hook, without a meaning for programs.
func describesShell(name string) bool {
	switch name {
	case "_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "STY", "TERM", "TERM_SESSION_ID", "TMUX", "TMUX_PANE", "WINDOWID", "WINDOW",
		"GIT_EDITOR", "GIT_EXEC_PATH", "GIT_REFLOG_ACTION", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "XDG_SESSION_ID":
		return true
	}
	return false
}

// changesBuild reports whether a variable can change what go or a C compiler builds, or
// which time is stamped.
func changesBuild(name string) bool {
	switch name {
	case "PATH", "SOURCE_DATE_EPOCH", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LD_LIBRARY_PATH", "LD_RUN_PATH", "LIBRARY_PATH",
		"CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX":
		return true
	}
	if strings.HasPrefix(name, "CGO_") || strings.HasPrefix(name, "PKG_CONFIG") || isSetting(name) {
		return true
	}
	// A newer Go can have further settings. A build needs no other variable that looks
	// like one.
	switch name {
	case "GODEBUG", "GOMAXPROCS", "GOMEMLIMIT", "GOGC":
		return false // these change the running compiler, not what it builds
	}
	return strings.HasPrefix(name, "GO") && name == strings.ToUpper(name) && !strings.HasPrefix(name, "GOOGLE")
}
