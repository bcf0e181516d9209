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

// Credentials are a user name and a password or token for one registry.
type Credentials struct {
	Username string
	Password string // never printed
}

// Keychain returns a keychain that searches for credentials in this order:
//
//  1. the given credentials, or else SLIPWAY_REGISTRY_USERNAME and
//     SLIPWAY_REGISTRY_PASSWORD, for the registry of target only. The target is
//     a host or any reference on it.
//  2. Docker's configuration and its credential helpers. A helper that fails, for
//     example because it is not installed, fails only the registries that the
//     configuration mentions, and those that require credentials.
//  3. the variables of GitHub Actions and GitLab CI, each for the registry of
//     that service.
//
// Variables are read with getenv, by default [os.Getenv].
//
// Keychain returns a [fault.Input] error if a user name is given without a
// password or the reverse.
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
	docker := &dockerKeychain{limit: helperLimit, problems: map[string]error{}}
	var chain []authn.Keychain
	if given.Username != "" {
		chain = append(chain, hostKeychain{registryOf(target), given})
	}
	chain = append(chain, docker)
	if user, token := getenv("GITHUB_ACTOR"), getenv("GITHUB_TOKEN"); user != "" && token != "" {
		chain = append(chain, hostKeychain{"ghcr.io", Credentials{user, token}})
	}
	if host := getenv("CI_REGISTRY"); host != "" {
		if user, password := getenv("CI_REGISTRY_USER"), getenv("CI_REGISTRY_PASSWORD"); user != "" && password != "" {
			chain = append(chain, hostKeychain{registryOf(host), Credentials{user, password}})
		} else if token := getenv("CI_JOB_TOKEN"); token != "" {
			chain = append(chain, hostKeychain{registryOf(host), Credentials{"gitlab-ci-token", token}})
		}
	}
	return keychain{authn.NewMultiKeychain(chain...), docker}, nil
}

// keychain is the keychain that [Keychain] returns.
type keychain struct {
	authn.Keychain
	docker *dockerKeychain
}

// Resolve implements [authn.Keychain].
func (k keychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements [authn.ContextKeychain].
func (k keychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	auth, err := authn.Resolve(ctx, k.Keychain, r)
	if err == nil && auth != authn.Anonymous {
		k.docker.forget(r.RegistryStr())
	}
	return auth, err
}

// problem returns the reason for which a registry is used without credentials, or nil if
// there is none.
func (k keychain) problem(registry string) error { return k.docker.problem(registry) }

// Login returns the user name and password for a registry, which it finds as
// [Keychain] does. Both are empty if there are no credentials, or only a token.
func Login(ctx context.Context, host string, given Credentials) (username, password string, err error) {
	chain, err := Keychain(host, given, nil)
	if err != nil {
		return "", "", err
	}
	registry, err := name.NewRegistry(host)
	if err != nil {
		return "", "", fault.Inputf("registry.host", "%w", err)
	}
	auth, err := authn.Resolve(ctx, chain, registry)
	if err != nil {
		return "", "", fmt.Errorf("finding the credentials for %s: %w", host, err)
	}
	c, err := authn.Authorization(ctx, auth)
	if err != nil {
		return "", "", fmt.Errorf("finding the credentials for %s: %w", host, err)
	}
	return c.Username, c.Password, nil
}

// registryOf returns the registry of a host or reference by Docker's rules: the
// part before the first slash is a host only if it contains a dot or a colon or
// is localhost, and "docker.io" stands for [name.DefaultRegistry].
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

// hostKeychain holds credentials that are sent to one registry only.
type hostKeychain struct {
	host string
	Credentials
}

// Resolve returns the credentials if r is on their registry, and
// [authn.Anonymous] otherwise.
func (k hostKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	if r.RegistryStr() != k.host {
		return authn.Anonymous, nil
	}
	return &authn.Basic{Username: k.Username, Password: k.Password}, nil
}
