package ship

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/service"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/test"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// pass returns which variables of the environment programs see that execute the app's
// code. The variables that slipway.yaml names for secrets are never passed.
func (p *run) pass() toolchain.Pass {
	pass := toolchain.Pass{Names: slices.Clone(p.Config.Test.PassEnv)}
	for _, s := range p.Config.Test.Services { // a server that the caller has started
		pass.Names = append(pass.Names, service.Kind(s).Variable())
	}
	keys := slices.Concat([]string{p.Config.Sign.Key}, p.Config.Verify.Keys)
	for _, e := range p.Config.Deploy.Environments {
		for _, values := range e.Secrets {
			for _, variable := range values {
				pass.Secrets = append(pass.Secrets, variable)
			}
		}
	}
	for _, key := range keys {
		if variable, ok := strings.CutPrefix(key, "env://"); ok {
			pass.Secrets = append(pass.Secrets, variable)
		}
	}
	return pass
}

// isolation returns what keeps the tests apart from everything that is released.
func (p *run) isolation() *test.Isolation {
	return &test.Isolation{
		Program: p.Executable, Top: p.source.Top, Copied: p.source.Scope(), Skip: source.OutputDir, Cache: p.Cache, Hidden: append(hiddenPaths(), string(p.kept())),
		Secret: p.secretFiles(),
	}
}

// lintIsolation does the same for linters.
func (p *run) lintIsolation() *lint.Isolation {
	return &lint.Isolation{Program: p.Executable, Source: append(p.source.Scope(), p.source.Top), Hidden: append(hiddenPaths(), string(p.kept())), Secret: p.secretFiles()}
}

// secretFiles returns the files with credentials in the repository: configuration files of
// git, and files that git ignores and that slipway itself, or a program that it runs, reads.
func (p *run) secretFiles() []string {
	files := gitConfigs(p.source.Top)
	candidates := slices.Concat(hiddenPaths(), []string{p.Deployment.Kubeconfig})
	if !strings.Contains(p.Config.Sign.Key, "://") {
		candidates = append(candidates, p.resolve(p.Config.Sign.Key))
	}
	for _, file := range candidates {
		if file == "" {
			continue
		}
		file, err := filepath.Abs(file)
		if err == nil {
			file, err = filepath.EvalSymlinks(file)
		}
		if rel, below := filepath.Rel(p.source.Top, file); err == nil && below == nil && rel != "." && filepath.IsLocal(rel) {
			files = append(files, file)
		}
	}
	return files
}

// gitConfigs returns the configuration files of a repository. CI systems write tokens into
// them: actions/checkout as a header, GitLab into the URL of the remote.
func gitConfigs(top string) []string {
	dirs := []string{filepath.Join(top, ".git")}
	if text, err := os.ReadFile(dirs[0]); err == nil { // a linked work tree or a submodule
		dir := strings.TrimSpace(strings.TrimPrefix(string(text), "gitdir:"))
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(top, dir)
		}
		dirs = []string{dir}
		if shared, err := os.ReadFile(filepath.Join(dir, "commondir")); err == nil {
			dirs = append(dirs, filepath.Join(dir, strings.TrimSpace(string(shared))))
		}
	}
	var files []string
	for _, dir := range dirs {
		resolved, err := filepath.EvalSymlinks(dir)
		if err != nil {
			continue
		}
		for _, pattern := range []string{"config", "config.worktree", "worktrees/*/config.worktree", "modules/*/config", "modules/*/*/config", "modules/*/modules/*/config"} {
			found, err := filepath.Glob(filepath.Join(resolved, pattern))
			if err == nil {
				files = append(files, found...)
			}
		}
	}
	return files
}

// hiddenPaths returns the folders and files that can hold credentials.
func hiddenPaths() []string {
	hidden := []string{"/run/secrets", "/var/run/secrets"}
	if home, err := os.UserHomeDir(); err == nil {
		hidden = append(hidden, home)
	}
	// Files with credentials that are not in the home folder.
	for _, name := range []string{
		"KUBECONFIG", "DOCKER_CONFIG", "NETRC", "GNUPGHOME", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
		"GOOGLE_APPLICATION_CREDENTIALS", "AZURE_FEDERATED_TOKEN_FILE", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "REGISTRY_AUTH_FILE",
		"SIGSTORE_ID_TOKEN_FILE",
		// What CI systems read after a step, for example more variables for later steps.
		"GITHUB_ENV", "GITHUB_PATH", "GITHUB_OUTPUT", "GITHUB_STATE", "GITHUB_STEP_SUMMARY", "GITHUB_EVENT_PATH",
	} {
		for path := range strings.SplitSeq(os.Getenv(name), string(os.PathListSeparator)) {
			if path != "" {
				hidden = append(hidden, path)
			}
		}
	}
	return hidden
}
