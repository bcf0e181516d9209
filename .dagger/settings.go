package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"dagger/slipway/advice"
	"dagger/slipway/internal/dagger"
)

// Registry is how the registry of the image is reached.
type Registry struct {
	// +private
	Address string
	// +private
	Username string
	// +private
	Password *dagger.Secret
	// +private
	DockerConfig *dagger.Secret
	// +private
	Service *dagger.Service
	// +private
	Insecure bool
}

// Signer is the key or the identity that signs.
type Signer struct {
	// +private
	Key *dagger.Secret
	// +private
	Password *dagger.Secret
	// +private
	IdentityToken *dagger.Secret
}

// Cluster is how the cluster of an environment is reached.
type Cluster struct {
	// +private
	Kubeconfig *dagger.Secret
	// +private
	Service *dagger.Service
}

// Set the registry of the image and the login, for publish, sign, verify, plan, deploy and ship.
//
//	dagger call with-registry --address ghcr.io/acme/orders \
//	  --username ci --password env:REGISTRY_TOKEN publish
//	dagger call with-registry --address localhost:5000/orders --service tcp://localhost:5000 publish
func (s *Slipway) WithRegistry(
	// Repository of the image, for example ghcr.io/acme/orders. Default:
	// image.repository of slipway.yaml.
	// +optional
	address string,
	// User at the registry.
	// +optional
	username string,
	// Password or token: env:NAME, file:PATH or cmd:COMMAND.
	// +optional
	password *dagger.Secret,
	// Docker's config.json with logins, instead of a user and a password.
	// +optional
	dockerConfig *dagger.Secret,
	// A registry on your own machine, as tcp://localhost:PORT. Connections to the
	// address of the image go there, over plain HTTP.
	// +optional
	service *dagger.Service,
	// Use plain HTTP.
	// +optional
	insecure bool,
) *Slipway {
	s.Registry = Registry{address, username, password, dockerConfig, service, insecure}
	return s
}

// Set the key or the identity that signs, for sign, deploy and ship.
//
// Without it the key is sign.key of slipway.yaml: a KMS key, or env://NAME with NAME
// among the secrets.
//
//	dagger call with-signer --key file:cosign.key --password env:KEY_PASSWORD \
//	  sign --image ghcr.io/acme/orders@sha256:...
//	dagger call with-signer --identity-token env:SIGSTORE_ID_TOKEN sign --image ghcr.io/acme/orders@sha256:...
func (s *Slipway) WithSigner(
	// Private key in cosign's format: file:cosign.key or env:NAME.
	// +optional
	key *dagger.Secret,
	// Password of the key.
	// +optional
	password *dagger.Secret,
	// OIDC token of the signer, to sign without a key.
	// +optional
	identityToken *dagger.Secret,
) *Slipway {
	s.Signer = Signer{key, password, identityToken}
	return s
}

// Set how the cluster is reached, for plan, deploy, status, history, rollback and ship.
//
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config deploy --env prod
//	dagger call with-cluster --kubeconfig file:kubeconfig --service tcp://127.0.0.1:6443 \
//	  --secrets env:DATABASE_PASSWORD status --env dev
func (s *Slipway) WithCluster(
	// The kubeconfig: file:PATH or env:NAME.
	// +optional
	kubeconfig *dagger.Secret,
	// A cluster on your own machine, as tcp://127.0.0.1:6443: connections to the
	// kubeconfig's server go there. The server's certificate must be valid for the
	// host in the kubeconfig.
	// +optional
	service *dagger.Service,
	// Values of the environment's Secrets, each as env:NAME, by the names that
	// slipway.yaml has for them.
	// +optional
	secrets []*dagger.Secret,
) *Slipway {
	if kubeconfig != nil {
		s.Cluster.Kubeconfig = kubeconfig
	}
	s.Cluster.Service = service
	s.Secrets = append(s.Secrets, secrets...)
	return s
}

// Set the commit of the source.
//
// It is used instead of .git, for a linked work tree, a submodule or a folder without
// history.
//
//	dagger call with-commit --revision $(git rev-parse HEAD) --epoch $(git log -1 --format=%ct) build
func (s *Slipway) WithCommit(
	// Full hash of the commit; "-dirty" after it marks changed files.
	revision string,
	// Time of the commit in seconds since 1970, as SOURCE_DATE_EPOCH.
	// +optional
	epoch string,
) *Slipway {
	s.Commit, s.Epoch = revision, epoch
	return s
}

// Use nothing that an earlier call has left in the engine's cache volumes.
//
// Modules are downloaded and checked against go.sum, everything is compiled, and the
// vulnerability database is fetched again. Only slipway itself is taken from its own
// volumes, which no code of an app can reach. Use it for releases.
//
//	dagger call hermetic publish --address ghcr.io/acme/orders
//	dagger call hermetic with-signer --key file:cosign.key ship --env prod
func (s *Slipway) Hermetic() *Slipway {
	s.Fresh = true
	return s
}

// Set where Go modules are downloaded from, for every function that compiles.
//
//	dagger call with-modules --proxy https://proxy.example.com --netrc file:$HOME/.netrc test
func (s *Slipway) WithModules(
	// Go module proxy, as GOPROXY. Default: that of the go command.
	// +optional
	proxy string,
	// Credentials for private modules, as a .netrc file.
	// +optional
	netrc *dagger.Secret,
) *Slipway {
	s.GoProxy = proxy
	if netrc != nil {
		s.Netrc = netrc
	}
	return s
}

// The names under which a container reaches what is on the caller's machine.
const (
	registryAlias = "registry"
	clusterAlias  = "cluster"
)

// kubeconfigVariable holds the text of a kubeconfig.
const kubeconfigVariable = "KUBECONFIG_TEXT"

// proxyVariable is the secret that names a module proxy, which may need a token.
const proxyVariable = "GOPROXY"

// variables are the caller's secrets by the names of their variables.
func (s *Slipway) variables(ctx context.Context) (map[string]*dagger.Secret, error) {
	all := map[string]*dagger.Secret{}
	for _, secret := range s.Secrets {
		// To Dagger, two secrets with the same value are the same secret, unless they
		// have different cache keys.
		uri, err := secret.URI(ctx)
		if err != nil {
			return nil, err
		}
		name, ok := strings.CutPrefix(uri, "env://")
		if !ok {
			return nil, errors.New("--secrets takes env:NAME, because slipway.yaml names the variable")
		}
		if all[name] != nil {
			return nil, fmt.Errorf("secret %s is given twice, or another secret has the same value, "+
				"which Dagger cannot distinguish (give each once, and those with the same value as env:NAME?cacheKey=NAME)", name)
		}
		all[name] = secret
	}
	return all, nil
}

// reaching gives a container the services and variables of the caller, and returns
// the flags for them.
func (s *Slipway) reaching(ctx context.Context, c *dagger.Container) (*dagger.Container, []string, error) {
	var args []string
	for _, service := range s.Services {
		if _, err := service.Start(ctx); err != nil { // only a running service tells its ports
			return nil, nil, fmt.Errorf("connecting to a port of your machine: %w", err)
		}
		ports, err := service.Ports(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the ports of a service: %w", err)
		}
		for _, p := range ports {
			number, err := p.Port(ctx)
			if err != nil {
				return nil, nil, fmt.Errorf("reading the port of a service: %w", err)
			}
			name := "port-" + strconv.Itoa(number)
			c = c.WithServiceBinding(name, service)
			args = append(args, "--forward", fmt.Sprintf("%d=%s", number, name))
		}
	}
	variables, err := s.variables(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if name != kubeconfigVariable && name != proxyVariable {
			c = c.WithSecretVariable(name, variables[name])
		}
	}
	return c.WithEnvVariable("SLIPWAY_RUN", nonce()), args, nil
}

// atRegistry gives a container what it needs at the registry of the image, and
// returns the flags for it.
func (s *Slipway) atRegistry(ctx context.Context, c *dagger.Container) (*dagger.Container, []string, error) {
	c, args, err := s.reaching(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	r := s.Registry
	if r.Service != nil {
		c = c.WithServiceBinding(registryAlias, r.Service)
		args = append(args, "--registry-server", registryAlias)
	}
	if r.Insecure || r.Service != nil {
		args = append(args, "--insecure")
	}
	if r.Username != "" {
		args = append(args, "--username", r.Username)
	}
	if r.Password != nil {
		c = c.WithSecretVariable("SLIPWAY_REGISTRY_PASSWORD", r.Password)
	}
	if r.DockerConfig != nil {
		c = c.WithMountedSecret(advice.DockerConfigFile, r.DockerConfig)
	}
	return c, args, nil
}

// atCluster gives a container what it needs at the cluster of an environment, and
// returns the flags for it.
func (s *Slipway) atCluster(ctx context.Context, c *dagger.Container, env string) (*dagger.Container, []string, error) {
	kubeconfig := s.Cluster.Kubeconfig
	if kubeconfig == nil {
		variables, err := s.variables(ctx)
		if err != nil {
			return nil, nil, err
		}
		kubeconfig = variables[kubeconfigVariable]
	}
	if kubeconfig == nil {
		return nil, nil, errors.New("there is no kubeconfig: give one with with-cluster --kubeconfig file:$HOME/.kube/config, " +
			"or set SLIPWAY_KUBECONFIG=file:... in .env")
	}
	c = c.WithMountedSecret(advice.KubeconfigFile, kubeconfig)
	args := []string{"--env", env, "--kubeconfig", advice.KubeconfigFile}
	if s.Cluster.Service != nil {
		c = c.WithServiceBinding(clusterAlias, s.Cluster.Service)
		args = append(args, "--cluster-server", clusterAlias)
	}
	return c, args, nil
}

// signing gives a container what signs, and returns the flags for it.
func (s *Slipway) signing(c *dagger.Container) (*dagger.Container, []string) {
	var args []string
	if s.Signer.Key != nil {
		c = c.WithMountedSecret(advice.KeyFile, s.Signer.Key)
		args = append(args, "--key", advice.KeyFile)
	}
	if s.Signer.Password != nil {
		c = c.WithSecretVariable("SLIPWAY_KEY_PASSWORD", s.Signer.Password)
	}
	if s.Signer.IdentityToken != nil {
		c = c.WithMountedSecret(advice.TokenFile, s.Signer.IdentityToken)
		args = append(args, "--identity-token", advice.TokenFile)
	}
	return c, args
}
