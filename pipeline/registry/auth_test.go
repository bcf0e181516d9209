package registry_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// dockerConfig makes text the Docker configuration of the test process. If text
// is empty, there is no configuration.
func dockerConfig(t *testing.T, text string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("HOME", dir)
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("REGISTRY_AUTH_FILE", "")
	t.Setenv("XDG_RUNTIME_DIR", dir)
	if text != "" {
		testkit.Write(t, dir, map[string]string{"config.json": text})
	}
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// helper puts the credential helper docker-credential-test on PATH.
func helper(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// keychainCase is a test of which credentials are sent to which registry.
type keychainCase struct {
	name   string
	target string
	given  registry.Credentials
	env    map[string]string
	docker string            // config.json; AUTH stands for file:filepw
	want   map[string]string // user:password by registry; empty for anonymous
}

func keychainCases() []keychainCase {
	ci := map[string]string{
		"GITHUB_ACTOR": "octo", "GITHUB_TOKEN": "gh",
		"CI_REGISTRY": "registry.gitlab.example", "CI_REGISTRY_USER": "gl", "CI_REGISTRY_PASSWORD": "glpw", "CI_JOB_TOKEN": "job",
	}
	given := registry.Credentials{Username: "given", Password: "pw"}
	return []keychainCase{
		{
			name: "no credentials", target: "ghcr.io",
			want: map[string]string{"ghcr.io": "", "docker.io": ""},
		},
		{
			name: "given credentials are sent only to the target", target: "r.example", given: given,
			want: map[string]string{"r.example": "given:pw", "r.example:5000": "", "sub.r.example": "", "ghcr.io": "", "docker.io": ""},
		},
		{
			name: "given by variables", target: "r.example",
			env:  map[string]string{"SLIPWAY_REGISTRY_USERNAME": "v", "SLIPWAY_REGISTRY_PASSWORD": "vpw"},
			want: map[string]string{"r.example": "v:vpw", "ghcr.io": ""},
		},
		{
			name: "given without a target", target: "", given: given,
			want: map[string]string{"r.example": "", "docker.io": ""},
		},
		{
			name: "given for Docker Hub", target: "docker.io", given: given,
			want: map[string]string{"docker.io": "given:pw", "index.docker.io": "given:pw", "ghcr.io": ""},
		},
		{
			name: "given for Docker Hub implicitly", target: "acme", given: given,
			want: map[string]string{"docker.io": "given:pw", "acme.example": ""},
		},
		{
			name: "given for a reference", target: "localhost:5000/acme/orders", given: given,
			want: map[string]string{"localhost:5000": "given:pw", "localhost:5001": ""},
		},
		{
			name: "given credentials take precedence over the file", target: "r.example", given: given,
			docker: `{"auths":{"r.example":{"auth":"AUTH"},"q.example":{"auth":"AUTH"}}}`,
			want:   map[string]string{"r.example": "given:pw", "q.example": "file:filepw", "ghcr.io": ""},
		},
		{
			name: "file takes precedence over CI variables", target: "r.example", env: ci,
			docker: `{"auths":{"ghcr.io":{"auth":"AUTH"},"registry.gitlab.example":{"auth":"AUTH"}}}`,
			want:   map[string]string{"ghcr.io": "file:filepw", "registry.gitlab.example": "file:filepw"},
		},
		{
			name: "CI variables are sent only to the registry of the service", target: "r.example", env: ci,
			want: map[string]string{"ghcr.io": "octo:gh", "registry.gitlab.example": "gl:glpw", "r.example": "", "docker.io": "", "gitlab.example": "", "docker.pkg.github.com": ""},
		},
		{
			name: "GitLab job token", target: "r.example",
			env:  map[string]string{"CI_REGISTRY": "registry.gitlab.example:5050", "CI_JOB_TOKEN": "job"},
			want: map[string]string{"registry.gitlab.example:5050": "gitlab-ci-token:job", "registry.gitlab.example": "", "ghcr.io": ""},
		},
		{
			name: "job token without a registry", target: "r.example",
			env:  map[string]string{"CI_JOB_TOKEN": "job", "GITHUB_TOKEN": "gh"},
			want: map[string]string{"r.example": "", "ghcr.io": ""},
		},
		{
			name: "helper", target: "r.example",
			docker: `{"credHelpers":{"helped.example":"test"}}`,
			want:   map[string]string{"helped.example": "helper:helped.example", "r.example": "", "ghcr.io": ""},
		},
		{
			name: "helper for all registries", target: "r.example",
			docker: `{"credsStore":"test"}`,
			want:   map[string]string{"helped.example": "helper:helped.example", "r.example": ""},
		},
	}
}

// Credentials are sent only to the registry that they are for, and the source
// that comes first in the documented order takes precedence.
func TestKeychainOrderAndScope(t *testing.T) {
	for _, tt := range keychainCases() {
		t.Run(tt.name, func(t *testing.T) {
			dockerConfig(t, strings.ReplaceAll(tt.docker, "AUTH", basic("file", "filepw")))
			helper(t, `read host
case "$1 $host" in
"get helped.example") echo "{\"ServerURL\":\"$host\",\"Username\":\"helper\",\"Secret\":\"$host\"}" ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
`)
			k, err := registry.Keychain(tt.target, tt.given, func(n string) string { return tt.env[n] })
			if err != nil {
				t.Fatal(err)
			}
			for host, want := range tt.want {
				a, err := k.Resolve(must(name.NewRegistry(host))(t))
				if err != nil {
					t.Errorf("%s: %v", host, err)
					continue
				}
				got := ""
				if c := must(authn.Authorization(t.Context(), a))(t); c.Username != "" {
					got = c.Username + ":" + c.Password
				}
				if got != want {
					t.Errorf("credentials for %s are %q, want %q", host, got, want)
				}
			}
		})
	}
}

func TestKeychainRequiresUserAndPassword(t *testing.T) {
	for _, c := range []registry.Credentials{{Username: "me"}, {Password: "s3cret"}} {
		_, err := registry.Keychain("r.example", c, noEnv)
		testkit.WantInput(t, err, "registry.half-credentials")
		if strings.Contains(fmt.Sprint(err), "s3cret") {
			t.Errorf("the error contains the password: %v", err)
		}
	}
}

// If credentials cannot be read, a push fails with an error about them, and not
// with one about the network.
func TestBrokenDockerConfigIsExplained(t *testing.T) {
	for name, config := range map[string]string{
		"not JSON":       `{"auths":`,
		"missing helper": `{"credHelpers":{"HOST":"missing"}}`,
		"failing helper": `{"credHelpers":{"HOST":"test"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, memory(t))
			dockerConfig(t, strings.ReplaceAll(config, "HOST", p.host()))
			helper(t, "echo 'the keyring is\nlocked'; exit 3\n")
			k, err := registry.Keychain(p.host(), registry.Credentials{}, noEnv)
			if err != nil {
				t.Fatal(err)
			}
			_, err = push(t, client(t, registry.Options{Keychain: k}), p.host(), "acme/orders", newSingle(t, 10, 1), cache.Dir(t.TempDir()))
			if err == nil {
				t.Fatalf("the push succeeded anonymously with a Docker configuration that is broken: %s", name)
			}
			if code := fault.CodeOf(err); code != "registry.docker-config" {
				t.Errorf("got error %s: %v, want registry.docker-config", code, err)
			}
			wantOneLine(t, err, p.host())
		})
	}
}
