package registry_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// helperCase is a Docker configuration that cannot be used for a registry.
type helperCase struct {
	name   string
	config string // HOST stands for the registry of the test, AUTH for me:pw
	helper string // the script docker-credential-test
	// want is the error for the registry of the test. If it is empty, the registry is
	// used, with the login in user or without one.
	want, user string
	// denied is the error if the registry of the test requires a login.
	denied string
}

func helperCases() []helperCase {
	const missing = "docker-credential-desktop, which %s of FILE names, is not installed or not on PATH"
	store, own := fmt.Sprintf(missing, "credsStore"), fmt.Sprintf(missing, "credHelpers")
	return []helperCase{
		{name: "credHelpers without the program", config: `{"credHelpers":{"HOST":"desktop"}}`, want: own, denied: own},
		{name: "credsStore without the program", config: `{"credsStore":"desktop"}`, denied: store},
		{name: "credsStore without the program, after a login", config: `{"credsStore":"desktop","auths":{"HOST":{}}}`, want: store, denied: store},
		{name: "credsStore without the program, after a login with a URL", config: `{"credsStore":"desktop","auths":{"https://HOST/v2/":{}}}`, want: store, denied: store},
		{name: "credsStore without the program, after a login elsewhere", config: `{"credsStore":"desktop","auths":{"other.example":{}}}`, denied: store},
		{name: "login in the file in spite of credsStore", config: `{"credsStore":"desktop","auths":{"HOST":{"auth":"AUTH"}}}`, user: "me"},
		{name: "own helper in spite of credsStore", config: `{"credsStore":"desktop","credHelpers":{"HOST":"test"}}`, helper: `echo '{"Username":"me","Secret":"pw"}'`, user: "me"},
		{name: "helper of the repository", config: `{"credHelpers":{"HOST":"desktop","HOST/acme/orders":"test"}}`, helper: `echo '{"Username":"me","Secret":"pw"}'`, user: "me"},
		{name: "helper prints garbage", config: `{"credHelpers":{"HOST":"test"}}`, helper: "echo s3cret", want: "printed something that is not a login in JSON"},
		{name: "helper prints a part", config: `{"credHelpers":{"HOST":"test"}}`, helper: `printf '{"Username":"me","Secret":"s3cret'`, want: "printed something that is not a login in JSON"},
		{name: "helper prints nothing", config: `{"credHelpers":{"HOST":"test"}}`, helper: "exit 0", want: "printed something that is not a login in JSON"},
		{name: "helper has no login", config: `{"credHelpers":{"HOST":"test"}}`, helper: "echo 'credentials not found in native keychain'; exit 1", denied: "requires credentials"},
		{name: "helper fails", config: `{"credHelpers":{"HOST":"test"}}`, helper: "printf 'the keyring\nis locked'; exit 3", want: "failed: exit status 3: the keyring is locked"},
		{name: "helper fails on standard error", config: `{"credHelpers":{"HOST":"test"}}`, helper: "echo 'no bus' >&2; exit 1", want: "failed: exit status 1: no bus"},
		{name: "credsStore fails", config: `{"credsStore":"test"}`, helper: "echo 'no keyring'; exit 1", denied: "failed: exit status 1: no keyring"},
		{name: "not JSON", config: `{"auths":`, want: "FILE is malformed"},
		{name: "other JSON", config: `{"auths":["HOST"]}`, want: "FILE is malformed"},
		{name: "malformed entry", config: `{"auths":{"HOST":{"auth":"%%%"}}}`, want: "the entry in auths of FILE is malformed"},
		{name: "malformed entry of another registry", config: `{"auths":{"other.example":{"auth":"%%%"},"HOST":{"auth":"AUTH"}}}`, user: "me"},
		{name: "empty file", config: " \n", denied: "requires credentials"},
		{name: "no file", denied: "requires credentials"},
	}
}

// A configuration that cannot be used fails only the registry that needs it, with an
// error that names the helper and the file. Other registries are used without a login.
func TestUnusableHelpersFailOnlyTheirRegistry(t *testing.T) {
	for _, tt := range helperCases() {
		t.Run(tt.name, func(t *testing.T) {
			open, other := newProxy(t, memory(t)), newProxy(t, memory(t))
			text := strings.NewReplacer("HOST", open.host(), "AUTH", basic("me", "pw")).Replace(tt.config)
			dockerConfig(t, text)
			helper(t, tt.helper)
			file := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")

			k := must(registry.Keychain("", registry.Credentials{}, noEnv))(t)
			err := pushTo(t, k, open.host())
			wantHelperError(t, err, tt.want, file)
			if tt.want == "" {
				a := must(authn.Resolve(t.Context(), k, must(name.NewRepository(open.host()+"/acme/orders"))(t)))(t)
				if c := must(authn.Authorization(t.Context(), a))(t); c.Username != tt.user {
					t.Errorf("the user is %q, want %q", c.Username, tt.user)
				}
			}
			if !strings.Contains(tt.want, "is malformed") || strings.Contains(tt.want, "entry") {
				if err := pushTo(t, k, other.host()); err != nil {
					t.Errorf("a registry that the configuration does not mention: %v", err)
				}
			}
			if tt.denied == "" {
				return
			}
			gate := newTokens("pw")
			closed := newProxy(t, gate.wrap(memory(t)))
			gate.realm = closed.URL + "/token"
			dockerConfig(t, strings.NewReplacer("HOST", closed.host(), "AUTH", basic("me", "pw")).Replace(tt.config))
			k = must(registry.Keychain("", registry.Credentials{}, noEnv))(t)
			wantHelperError(t, pushTo(t, k, closed.host()), tt.denied, filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"))
			_, err = client(t, registry.Options{Keychain: k}).Base(t.Context(), closed.host()+"/acme/base:v1", v1.Platform{OS: "linux", Architecture: "amd64"})
			wantHelperError(t, err, tt.denied, filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"))
		})
	}
}

// A mirror whose helper is missing is skipped like one that does not respond.
func TestMirrorWithoutItsHelperIsSkipped(t *testing.T) {
	p, mirror := newProxy(t, memory(t)), newProxy(t, memory(t))
	dockerConfig(t, `{"credHelpers":{"`+mirror.host()+`":"desktop"}}`)
	k := must(registry.Keychain("", registry.Credentials{}, noEnv))(t)
	if err := pushTo(t, k, p.host()); err != nil {
		t.Fatal(err)
	}
	c := client(t, registry.Options{Keychain: k, Settings: config.Registry{Mirrors: map[string][]string{registry.AnyHost: {mirror.host()}}}})
	if _, err := c.Base(t.Context(), p.host()+"/acme/orders:v1", v1.Platform{OS: "linux", Architecture: "amd64"}); err != nil {
		t.Error(err)
	}
}

// pushTo pushes an image and returns the error.
func pushTo(t *testing.T, k authn.Keychain, host string) error {
	t.Helper()
	_, err := push(t, client(t, registry.Options{Keychain: k}), host, "acme/orders", newSingle(t, 10, 1), cache.Dir(t.TempDir()), "v1")
	return err
}

// wantHelperError checks that the error contains want, in which FILE stands for the
// configuration, and no secret.
func wantHelperError(t *testing.T, err error, want, file string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Error(err)
		}
		return
	}
	if want == "requires credentials" {
		wantFailed(t, err, "registry.unauthorized")
		return
	}
	testkit.WantInput(t, err, "registry.docker-config")
	wantOneLine(t, err, strings.ReplaceAll(want, "FILE", file))
	if strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), file) {
		t.Errorf("the error must name %s and contain no secret: %v", file, err)
	}
}

// CI variables have the login although a helper for all registries is missing, and the
// helper is not blamed if the registry denies access with that login.
func TestMissingHelperLeavesTheVariables(t *testing.T) {
	p := newProxy(t, memory(t), rule{postUpload, -1, respond(http.StatusForbidden, errorBody("DENIED", "no push rights"))})
	dockerConfig(t, `{"credsStore":"desktop"}`)
	env := map[string]string{"CI_REGISTRY": p.host(), "CI_REGISTRY_USER": "gl", "CI_REGISTRY_PASSWORD": "glpw"}
	k := must(registry.Keychain("", registry.Credentials{}, func(n string) string { return env[n] }))(t)
	a := must(k.Resolve(must(name.NewRegistry(p.host()))(t)))(t)
	if c := must(authn.Authorization(t.Context(), a))(t); c.Username != "gl" {
		t.Errorf("the user is %q, want gl", c.Username)
	}
	wantFailed(t, pushTo(t, k, p.host()), "registry.forbidden")
}

func TestDockerAuthConfigVariable(t *testing.T) {
	dockerConfig(t, `{"credsStore":"desktop","auths":{"r.example":{"auth":"`+basic("file", "x")+`"}}}`)
	t.Setenv("DOCKER_AUTH_CONFIG", `{"auths":{"r.example":{"auth":"`+basic("variable", "x")+`"}}}`)
	k := must(registry.Keychain("", registry.Credentials{}, noEnv))(t)
	a := must(k.Resolve(must(name.NewRegistry("r.example"))(t)))(t)
	if c := must(authn.Authorization(t.Context(), a))(t); c.Username != "variable" {
		t.Errorf("the user is %q, want variable", c.Username)
	}
}

// A helper that does not end stops with the context, and at its own limit.
func TestHangingHelperIsStopped(t *testing.T) {
	dockerConfig(t, `{"credHelpers":{"r.example":"test"}}`)
	started := filepath.Join(t.TempDir(), "started")
	if err := syscall.Mkfifo(started, 0o600); err != nil {
		t.Fatal(err)
	}
	helper(t, "echo > '"+started+"'; exec sleep 1000\n")
	k := must(registry.Keychain("", registry.Credentials{}, noEnv))(t)
	resolve := func(ctx context.Context) error {
		_, err := authn.Resolve(ctx, k, must(name.NewRegistry("r.example"))(t))
		return err
	}
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		_, _ = os.ReadFile(started) // returns once the helper runs
		cancel()
	}()
	if err := resolve(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the error of the context", err)
	}
	<-opened

	helper(t, "exec sleep 1000\n")
	registry.LimitHelpers(k, 20*time.Millisecond)
	err := resolve(t.Context())
	testkit.WantInput(t, err, "registry.docker-config")
	if !strings.Contains(err.Error(), "docker-credential-test") || !strings.Contains(err.Error(), "did not answer within 20ms") {
		t.Error(err)
	}
}

// Docker makes a folder if it is told to mount a file that does not exist.
func TestDockerConfigIsAFolder(t *testing.T) {
	dockerConfig(t, "")
	if err := os.Mkdir(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := pushTo(t, must(registry.Keychain("", registry.Credentials{}, noEnv))(t), newProxy(t, memory(t)).host()); err != nil {
		t.Error(err)
	}
}

// A configuration that this user must not read, as in a container with the HOME of
// another user, fails only registries that require a login.
func TestUnreadableDockerConfig(t *testing.T) {
	dockerConfig(t, `{}`)
	file := filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json")
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	k := must(registry.Keychain("", registry.Credentials{}, noEnv))(t)
	host := must(name.NewRegistry("r.example"))(t)
	asNobody(t, func() {
		if a, err := k.Resolve(host); err != nil || a != authn.Anonymous {
			t.Errorf("got %v, %v, want no credentials", a, err)
		}
	})
	gate := newTokens("pw")
	closed := newProxy(t, gate.wrap(memory(t)))
	gate.realm = closed.URL + "/token"
	asNobody(t, func() { _, _ = k.Resolve(must(name.NewRegistry(closed.host()))(t)) })
	// The push itself runs in other threads, as root, so the file must be gone.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	err := pushTo(t, k, closed.host())
	if fault.CodeOf(err) != "registry.docker-config" || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("got %v", err)
	}
}

// asNobody calls f in a thread whose access to files is that of another user, because
// root may read every file.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Getuid() != 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Setfsuid(0); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}
