package registry

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Credentials are a name and a password or token for one registry.
type Credentials struct {
	Username string
	Password string // never printed
}

// Keychain finds credentials in this order: those given for the registry of
// the target (a host, or any reference on it), Docker's configuration with its credential helpers, and the
// variables of GitHub Actions and GitLab CI for their own registries. getenv
// is [os.Getenv] but in tests.
//
// It returns a [fault.Input] error when only half of the credentials is given.
func Keychain(target string, given Credentials, getenv func(string) string) (authn.Keychain, error) {
	if getenv == nil {
		getenv = os.Getenv
	}
	if given.Username == "" {
		given.Username = getenv("SLIPWAY_REGISTRY_USERNAME")
	}
	if given.Password == "" {
		given.Password = getenv("SLIPWAY_REGISTRY_PASSWORD")
	}
	if (given.Username == "") != (given.Password == "") {
		return nil, fault.Inputf("registry.half-credentials", "a registry user name and password are needed, only one is given").
			WithFix("use --username with --password-stdin, or SLIPWAY_REGISTRY_USERNAME and SLIPWAY_REGISTRY_PASSWORD")
	}
	var chain []authn.Keychain
	if given.Username != "" {
		chain = append(chain, fixed{registryOf(target), given})
	}
	chain = append(chain, docker{})
	if user, token := getenv("GITHUB_ACTOR"), getenv("GITHUB_TOKEN"); user != "" && token != "" {
		chain = append(chain, fixed{"ghcr.io", Credentials{user, token}})
	}
	if host := getenv("CI_REGISTRY"); host != "" {
		if user, password := getenv("CI_REGISTRY_USER"), getenv("CI_REGISTRY_PASSWORD"); user != "" && password != "" {
			chain = append(chain, fixed{registryOf(host), Credentials{user, password}})
		} else if token := getenv("CI_JOB_TOKEN"); token != "" {
			chain = append(chain, fixed{registryOf(host), Credentials{"gitlab-ci-token", token}})
		}
	}
	return authn.NewMultiKeychain(chain...), nil
}

// Login is the user name and password for a registry, found as [Keychain]
// does; both are empty where there are none or only a token.
func Login(ctx context.Context, host string, given Credentials) (username, password string, err error) {
	keychain, err := Keychain(host, given, nil)
	if err != nil {
		return "", "", err
	}
	registry, err := name.NewRegistry(host)
	if err != nil {
		return "", "", fault.Inputf("registry.host", "%w", err)
	}
	auth, err := authn.Resolve(ctx, keychain, registry)
	if err != nil {
		return "", "", fmt.Errorf("finding the login of %s: %w", host, err)
	}
	c, err := authn.Authorization(ctx, auth)
	if err != nil {
		return "", "", fmt.Errorf("finding the login of %s: %w", host, err)
	}
	return c.Username, c.Password, nil
}

// registryOf is the registry of a host or reference, by the rules of Docker:
// what is before the first slash is a host when it looks like one, and Docker
// Hub goes by several names.
func registryOf(target string) string {
	host, _, _ := strings.Cut(target, "/")
	switch {
	case target == "":
		return ""
	case host == "docker.io", !strings.ContainsAny(host, ".:") && host != "localhost":
		return name.DefaultRegistry
	}
	return host
}

// docker is Docker's configuration with its credential helpers.
type docker struct{}

// Resolve returns the credentials of Docker's configuration.
func (docker) Resolve(r authn.Resource) (authn.Authenticator, error) {
	a, err := authn.DefaultKeychain.Resolve(r)
	if err != nil {
		return nil, fault.Inputf("registry.docker-config", "reading Docker's credentials for %s: %s", r.RegistryStr(), strings.Join(strings.Fields(err.Error()), " ")).
			WithFix("mend or remove its config.json or credential helper, or run docker login %s", r.RegistryStr())
	}
	return a, nil
}

// fixed are credentials that go to one registry and to no other.
type fixed struct {
	host string
	Credentials
}

// Resolve returns the credentials for their own registry.
func (f fixed) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() != f.host {
		return authn.Anonymous, nil
	}
	return &authn.Basic{Username: f.Username, Password: f.Password}, nil
}
