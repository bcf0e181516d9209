package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/credentials"
	"github.com/docker/cli/cli/config/types"
	"github.com/docker/docker-credential-helpers/client"
	helpers "github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// dockerConfig is the code of all errors of the dockerKeychain.
const dockerConfig = "registry.docker-config"

// helperLimit is how long a credential helper may take. Some of them ask the user to
// unlock a keyring.
const helperLimit = time.Minute

// dockerKeychain reads Docker's configuration and runs its credential helpers, which the
// authn.DefaultKeychain of go-containerregistry does too. It differs from that in what a
// configuration that cannot be used means:
//
//   - A helper that the configuration names for all registries (credsStore) is often left
//     there by a program that this machine does not have. If it fails for a registry that
//     the configuration does not mention, that registry is used without credentials. If
//     the registry then requires some, [Client] reports why there are none.
//   - An entry that cannot be decoded fails only its own registry.
//   - Helpers stop when the context ends, and after helperLimit in any case.
type dockerKeychain struct {
	limit time.Duration

	mu       sync.Mutex
	problems map[string]error // by registry, why it is used without credentials
}

// Resolve implements [authn.Keychain].
func (k *dockerKeychain) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return k.ResolveContext(context.Background(), r)
}

// ResolveContext implements [authn.ContextKeychain]. All its errors are [fault.Input]
// errors, or the error of ctx.
func (k *dockerKeychain) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	auth, required, err := k.find(ctx, r)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	switch {
	case err != nil && required:
		return nil, err
	case err != nil:
		k.mu.Lock()
		k.problems[r.RegistryStr()] = err
		k.mu.Unlock()
		return authn.Anonymous, nil //nolint:nilerr // the client reports it if the registry denies access
	case auth == (types.AuthConfig{}):
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{
		Username: auth.Username, Password: auth.Password, IdentityToken: auth.IdentityToken, RegistryToken: auth.RegistryToken,
	}), nil
}

// problem returns the reason for which the configuration has no credentials for a
// registry although it may be meant to have some, or nil.
func (k *dockerKeychain) problem(registry string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.problems[registry]
}

// forget removes the problem with a registry, because another keychain has credentials
// for it.
func (k *dockerKeychain) forget(registry string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.problems, registry)
}

// find returns the credentials for r. If it returns an error, required reports whether
// the configuration says that it has credentials for r, so that r must not be used
// without them.
func (k *dockerKeychain) find(ctx context.Context, r authn.Resource) (auth types.AuthConfig, required bool, err error) {
	keys := []string{r.String(), r.RegistryStr()}
	for i, key := range keys {
		if key == name.DefaultRegistry {
			keys[i] = authn.DefaultAuthKey
		}
	}
	keys = slices.Compact(keys)
	// The variable takes precedence over the file, as in Docker.
	for _, key := range keys {
		if auth, err := configfile.New("").GetAuthConfig(key); err == nil && (auth.Username != "" || auth.Password != "") {
			return clean(auth), true, nil
		}
	}
	path := dockerFile()
	if path == "" {
		return auth, false, nil
	}
	file, err := readDocker(path)
	if err != nil {
		return auth, !errors.Is(err, fs.ErrPermission), fault.Inputf(dockerConfig, "reading the credentials for %s: %w", r.RegistryStr(), err).
			WithFix("correct or remove the file, or set DOCKER_CONFIG to another folder")
	}
	for _, key := range keys {
		helper, own := file.CredentialHelpers[key]
		entry, mentioned := entryOf(file, key)
		if key != keys[len(keys)-1] && !own && !mentioned {
			continue // nothing is configured for this repository
		}
		auth, err := decode(entry)
		if err != nil {
			return auth, true, fault.Inputf(dockerConfig, "reading the credentials for %s: the entry in auths of %s is malformed: %w", r.RegistryStr(), path, err).
				WithFix("run docker login %s", r.RegistryStr())
		}
		setting := "credHelpers"
		if !own {
			helper, setting = file.CredentialsStore, "credsStore"
		}
		if helper != "" {
			helped, err := k.ask(ctx, helper, key)
			switch {
			case err != nil && auth == (types.AuthConfig{}):
				return auth, own || mentioned, fault.Inputf(dockerConfig, "reading the credentials for %s: docker-credential-%s, which %s of %s names, %w", r.RegistryStr(), helper, setting, path, err).
					WithFix("correct that file, or give the credentials by --username with --password-stdin")
			case err == nil && helped != (types.AuthConfig{}):
				return helped, true, nil
			}
		}
		if auth != (types.AuthConfig{}) {
			return auth, true, nil
		}
	}
	return auth, false, nil
}

// dockerFile returns the path of the configuration: Docker's or, if there is none, Podman's.
// It is empty if there is neither.
func dockerFile() string {
	home := os.Getenv("HOME")
	docker, config := os.Getenv("DOCKER_CONFIG"), os.Getenv("XDG_CONFIG_HOME")
	if docker == "" && home != "" {
		docker = filepath.Join(home, ".docker")
	}
	if config == "" && home != "" {
		config = filepath.Join(home, ".config")
	}
	for _, place := range []struct{ dir, name string }{
		{docker, "config.json"}, {os.Getenv("REGISTRY_AUTH_FILE"), ""},
		{os.Getenv("XDG_RUNTIME_DIR"), "containers/auth.json"}, {config, "containers/auth.json"},
	} {
		path := filepath.Join(place.dir, place.name)
		// Docker makes a folder if it is told to mount a file that does not exist.
		if fi, err := os.Stat(path); place.dir != "" && (err == nil && !fi.IsDir() || errors.Is(err, fs.ErrPermission)) {
			return path
		}
	}
	return ""
}

// readDocker parses the configuration. It does not decode the entries in auths.
func readDocker(path string) (*configfile.ConfigFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	file := &configfile.ConfigFile{}
	if len(bytes.TrimSpace(data)) == 0 {
		return file, nil // as in Docker
	}
	if err := json.Unmarshal(data, file); err != nil {
		return nil, fmt.Errorf("%s is malformed: %w", path, err)
	}
	return file, nil
}

// entryOf returns the entry in auths for a registry or repository. An entry that says
// nothing but that a helper has the credentials is mentioned, too.
func entryOf(file *configfile.ConfigFile, key string) (entry types.AuthConfig, mentioned bool) {
	if entry, ok := file.AuthConfigs[key]; ok {
		return entry, true
	}
	for address, entry := range file.AuthConfigs {
		if credentials.ConvertToHostname(address) == key {
			return entry, true // with a scheme or a path, in the form of old versions
		}
	}
	return types.AuthConfig{}, false
}

// decode returns the entry with its user name and password.
func decode(entry types.AuthConfig) (types.AuthConfig, error) {
	if entry.Auth == "" {
		return clean(entry), nil
	}
	text, err := json.Marshal(map[string]any{"auths": map[string]any{"x": entry}})
	if err != nil {
		return types.AuthConfig{}, err
	}
	file := configfile.New("")
	if err := file.LoadFromReader(bytes.NewReader(text)); err != nil {
		return types.AuthConfig{}, err
	}
	return clean(file.AuthConfigs["x"]), nil
}

// clean removes what is not a credential.
func clean(auth types.AuthConfig) types.AuthConfig {
	auth.ServerAddress, auth.Auth = "", ""
	return auth
}

// ask runs a credential helper. It returns no credentials and no error if the helper has
// none. The text of its errors follows the name of the helper.
func (k *dockerKeychain) ask(ctx context.Context, helper, key string) (types.AuthConfig, error) {
	limited, cancel := context.WithTimeout(ctx, k.limit)
	defer cancel()
	program := &helperProgram{}
	creds, err := client.Get(func(args ...string) client.Program {
		program.cmd = exec.CommandContext(limited, "docker-credential-"+helper, args...)
		// A child of the helper may keep its output open after the helper is killed.
		program.cmd.WaitDelay = time.Second
		return program
	}, key)
	switch {
	case err == nil:
	case helpers.IsErrCredentialsNotFound(err):
		return types.AuthConfig{}, nil
	case errors.Is(program.err, exec.ErrNotFound):
		return types.AuthConfig{}, errors.New("is not installed or not on PATH")
	case limited.Err() != nil:
		return types.AuthConfig{}, fmt.Errorf("did not answer within %s", k.limit)
	case program.err != nil:
		return types.AuthConfig{}, fmt.Errorf("failed: %w: %s", program.err, program.message())
	default:
		// The output is not quoted, because it may contain the secret.
		return types.AuthConfig{}, errors.New("printed something that is not a login in JSON")
	}
	if creds.Username == "<token>" { // the protocol's mark of an identity token
		return types.AuthConfig{IdentityToken: creds.Secret}, nil
	}
	return types.AuthConfig{Username: creds.Username, Password: creds.Secret}, nil
}

// helperProgram is a credential helper that keeps what it printed.
type helperProgram struct {
	cmd            *exec.Cmd
	stdout, stderr bytes.Buffer
	err            error
}

// Input implements [client.Program].
func (p *helperProgram) Input(in io.Reader) { p.cmd.Stdin = in }

// Output implements [client.Program].
func (p *helperProgram) Output() ([]byte, error) {
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	p.err = p.cmd.Run()
	return p.stdout.Bytes(), p.err
}

// maxMessage bounds the message of a helper in an error.
const maxMessage = 200

// message returns what a helper that failed printed, on one line. By the protocol of
// helpers, that is the reason.
func (p *helperProgram) message() string {
	text := strings.Join(strings.Fields(p.stdout.String()), " ")
	if text == "" {
		text = strings.Join(strings.Fields(p.stderr.String()), " ")
	}
	if text == "" {
		return "it printed nothing"
	}
	return strings.ToValidUTF8(text[:min(len(text), maxMessage)], "")
}
