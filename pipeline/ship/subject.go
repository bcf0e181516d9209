package ship

import (
	"cmp"
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// subject is the image of a run: either the image that it builds, or one that the
// caller gives in [Options.Reference]. Only this file determines which of the two it
// is, in which repository it is located, and how to connect to that.
type subject struct {
	// client returns the client for all registries of the run. The first call
	// creates it.
	client func() (*registry.Client, error)
	// embedded returns the address of the embedded registry in references. The first
	// call starts the registry, which serves until the run ends.
	embedded func() (string, error)
	// remote is the given image in its registry.
	remote registry.Remote
}

// given reports whether the image is given by the caller instead of built.
func (p *run) given() bool { return p.Reference != "" }

// target returns the given reference or, for an image that is built, the configured
// repository. It is empty for the embedded registry.
func (p *run) target() string {
	if p.given() {
		return p.Reference
	}
	return p.Config.Image.Repository
}

// local reports whether the repository of the image is in the embedded registry.
func (p *run) local() bool {
	host := hostOf(p.target())
	if p.RegistryServer != "" {
		return false
	}
	if port, ok := p.embeddedPort(host); ok {
		return p.Forward[strconv.Itoa(port)] == "" // a forwarded port leads to the registry of another machine
	}
	return host == ""
}

// embeddedPort returns the port of the embedded registry that a host in a reference stands
// for.
func (p *run) embeddedPort(host string) (port int, ok bool) {
	for _, port := range embedded.Ports(p.registryDir()) {
		if host == embedded.Host(port) {
			return port, true
		}
	}
	return 0, false
}

// registryDir returns the folder with the data of the embedded registry.
func (p *run) registryDir() string { return p.kept().Path("registry") }

// kept returns the folder for what is not a cache.
func (p *run) kept() cache.Dir { return cmp.Or(p.Kept, p.Cache) }

func hostOf(reference string) string {
	host, _, _ := strings.Cut(reference, "/")
	return host
}

// resolveSubject prepares the client for registries. It does not connect to any
// registry.
func (p *run) resolveSubject() {
	p.subject.client = sync.OnceValues(func() (*registry.Client, error) {
		host := hostOf(p.target())
		keychain, err := registry.Keychain(host, p.Credentials, nil)
		if err != nil {
			return nil, err
		}
		o := registry.Options{Settings: p.Config.Registry, Root: p.Root, Keychain: keychain, Backoff: p.Backoff}
		o.Servers = map[string]string{}
		for port, server := range p.Forward {
			for _, loopback := range []string{"127.0.0.1", "localhost"} {
				o.Servers[net.JoinHostPort(loopback, port)] = server
			}
		}
		if p.RegistryServer != "" {
			address := host
			if !strings.Contains(host, ":") {
				address = net.JoinHostPort(host, "443")
			}
			o.Servers[address] = p.RegistryServer
		}
		client, err := registry.New(o)
		if err == nil {
			p.atEnd(func() error { client.Close(); return nil })
		}
		return client, err
	})
}

// registry returns the client for all registries of the run.
func (p *run) registry() (*registry.Client, error) { return p.subject.client() }

// embedded starts the embedded registry, unless this run has started it already, and
// returns its address in references.
func (p *run) embedded(ctx context.Context) (string, error) {
	p.closersMu.Lock()
	if p.subject.embedded == nil {
		p.subject.embedded = sync.OnceValues(func() (string, error) {
			server, err := p.share(ctx)
			if err != nil {
				return "", err
			}
			p.atEnd(func() error {
				stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
				defer cancel()
				return server.Close(stop)
			})
			return server.Name, nil
		})
	}
	start := p.subject.embedded
	p.closersMu.Unlock()
	return start()
}

// share serves the embedded registry for this run, and makes the client reach it under
// all its names.
func (p *run) share(ctx context.Context) (*embedded.Server, error) {
	client, err := p.registry()
	if err != nil {
		return nil, err
	}
	dir := p.registryDir()
	server, err := embedded.Share(ctx, dir, embedded.Guarded())
	if err != nil {
		return nil, err
	}
	for _, name := range server.Names(dir) {
		client.Route(name, server.Addr, server.Credential)
	}
	if first := embedded.Host(embedded.Port); server.Name != first {
		progress.Warnf(ctx, "another program, or the registry of another cache, uses %s; the registry of this run is %s", first, server.Name)
	}
	return server, nil
}

// repository returns the repository of the image. If that is in the embedded registry,
// it starts the registry.
func (p *run) repository(ctx context.Context) (name.Repository, error) {
	client, err := p.registry()
	if err != nil {
		return name.Repository{}, err
	}
	switch {
	case p.given():
		ref, err := client.Reference(p.Reference)
		if err != nil {
			return name.Repository{}, err
		}
		return ref.Context(), nil
	case p.target() == "":
		address, err := p.embedded(ctx)
		if err != nil {
			return name.Repository{}, err
		}
		return client.Repository(address + "/" + p.source.Name)
	}
	return client.Repository(p.target())
}

// reference returns the image by digest. For an image that is built it is valid after
// the step image.
func (p *run) reference(ctx context.Context) (name.Digest, error) {
	if p.given() {
		return p.subject.remote.Reference, nil
	}
	repository, err := p.repository(ctx)
	if err != nil {
		return name.Digest{}, err
	}
	return repository.Digest(p.report.Digest), nil
}

// plannedReference returns the reference that the image would have after a push.
// Unlike reference it does not start the embedded registry.
func (p *run) plannedReference() (name.Digest, error) {
	if p.given() {
		return p.subject.remote.Reference, nil
	}
	client, err := p.registry()
	if err != nil {
		return name.Digest{}, err
	}
	target := p.target()
	if target == "" {
		target = embedded.Host(embedded.Port) + "/" + p.source.Name
	}
	repository, err := client.Repository(target)
	if err != nil {
		return name.Digest{}, err
	}
	return repository.Digest(p.report.Digest), nil
}

// subjects returns the manifests to sign and attest, the index first. If the image is
// given and the run also builds it, the two digests must be equal.
func (p *run) subjects(ctx context.Context) ([]sign.Subject, error) {
	ref, err := p.reference(ctx)
	if err != nil {
		return nil, err
	}
	if p.report.Image != nil && p.report.Digest != ref.DigestStr() {
		return nil, fault.Inputf("sign.other-image", "%s is not what this source builds, which is %s", ref, p.report.Digest).
			WithFix("build with the same commit, version and flags, or attest nothing with --only-signature")
	}
	var all []sign.Subject
	if p.given() {
		for _, f := range p.subject.remote.Platforms {
			all = append(all, sign.Subject{Digest: f.Reference, Platform: f.Platform.String()})
		}
	} else {
		for _, f := range p.report.Image.Platforms {
			all = append(all, sign.Subject{Digest: ref.Context().Digest(f.Digest), Platform: f.Platform})
		}
	}
	if len(all) == 1 && all[0].Digest == ref {
		return all, nil
	}
	return append([]sign.Subject{{Digest: ref}}, all...), nil
}

// findGiven finds the given image in its registry, before any step starts.
func (p *run) findGiven(ctx context.Context) error {
	if !p.given() {
		return nil
	}
	if p.includes(Sign, Plan, Deploy) {
		var err error
		if p.subject.remote.Reference, err = p.givenDigest(); err != nil {
			return err
		}
	}
	if !p.includes(Scan, Sign, Attest, Verify) { // a plan does not read the image
		return nil
	}
	if _, err := p.openGiven(ctx); err != nil {
		return err
	}
	p.report.Reference = p.subject.remote.Reference.Name()
	return nil
}

// givenDigest returns the given reference, which must have a digest.
func (p *run) givenDigest() (name.Digest, error) {
	client, err := p.registry()
	if err != nil {
		return name.Digest{}, err
	}
	ref, err := client.Reference(p.Reference)
	if err != nil {
		return name.Digest{}, err
	}
	digest, ok := ref.(name.Digest)
	if !ok {
		return name.Digest{}, fault.Inputf("reference.no-digest", "%s names an image by its tag", p.Reference).
			WithFix("give repository@sha256:...; a tag can point to another image a moment later")
	}
	return digest, nil
}

// openGiven returns the given image. The first call reads it from its registry.
func (p *run) openGiven(ctx context.Context) (registry.Remote, error) {
	if len(p.subject.remote.Platforms) > 0 {
		return p.subject.remote, nil
	}
	client, err := p.registry()
	if err != nil {
		return registry.Remote{}, err
	}
	if p.local() {
		if _, err := p.embedded(ctx); err != nil {
			return registry.Remote{}, err
		}
	}
	progress.Statusf(ctx, "finding %s", p.Reference)
	remote, err := client.Open(ctx, p.Reference)
	if err == nil {
		p.subject.remote = remote
	}
	return remote, err
}
