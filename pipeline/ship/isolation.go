package ship

import (
	"os"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/lint"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/test"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// pass returns which variables of the environment programs see that execute the app's
// code. The variables that slipway.yaml names for secrets are never passed.
func (p *run) pass() toolchain.Pass {
	pass := toolchain.Pass{Names: p.Config.Test.PassEnv}
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
	}
}

// lintIsolation does the same for linters.
func (p *run) lintIsolation() *lint.Isolation {
	return &lint.Isolation{Program: p.Executable, Source: append(p.source.Scope(), p.source.Top), Hidden: append(hiddenPaths(), string(p.kept()))}
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
