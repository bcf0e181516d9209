// Slipway takes a Go service from source to running pods: lint, race tests, a
// reproducible build, a scan, a push, signature and attestations, a deployment
// that is followed and taken back when it fails. The same commit gives the same
// image digest here, in any CI and with the slipway program outside Dagger.
//
// Every setting has a default; slipway.yaml at the root of the repository
// changes them (see docs/configuration.md of slipway).
//
// Examples:
//
//	dagger call lint
//	dagger call test report export --path reports
//	dagger call build as-service up --ports 8080:8080
//	dagger call build-layout export --path image
//	dagger call scan
//	dagger call publish --address ghcr.io/acme/orders
//	dagger call sign --image ghcr.io/acme/orders@sha256:... --key file:cosign.key
//	dagger call verify --image ghcr.io/acme/orders@sha256:... --env prod
//	dagger call deploy --env prod --image ghcr.io/acme/orders@sha256:... --kubeconfig file:$HOME/.kube/config
//	dagger check
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"dagger/slipway/internal/dagger"
	"dagger/slipway/mirror"
	"dagger/slipway/scope"
)

// Slipway is the pipeline of one app at one state of its source.
type Slipway struct {
	// +private
	Config string // path of slipway.yaml from the repository's root
	// +private
	Root string // its folder, from the repository's root
	// +private
	App string // the app's folder, from the repository's root
	// +private
	Checked *dagger.Directory // what lint and tests see
	// +private
	Built *dagger.Directory // what a build sees
	// +private
	Git *dagger.Directory // what versioning needs of .git
	// +private
	Deployed *dagger.Directory // charts and values, from Root
	// +private
	Commit string // given in place of .git
	// +private
	Epoch string
	// +private
	Services []string
	// +private
	Platforms []string
	// +private
	Packed bool
	// +private
	CGO bool
	// +private
	Tools *dagger.Container
	// +private
	GoImage string
	// +private
	LintImage string
	// +private
	PostgresImage string
	// +private
	RedisImage string
	// +private
	Mirror string
	// +private
	GoProxy string
	// +private
	Netrc *dagger.Secret
}

// New reads which files the app is made of. Nothing else is uploaded.
func New(
	ctx context.Context,
	ws *dagger.Workspace,
	// The repository's source, in place of the one dagger is called in: a
	// folder, or a git address such as https://github.com/acme/orders#main.
	// +optional
	source *dagger.Directory,
	// Path of slipway.yaml from the repository's root. Default: the nearest
	// one from the current folder up; without any, slipway's defaults.
	// +optional
	config string,
	// Full commit hash to stamp, in place of reading .git; "-dirty" after it
	// marks changed files.
	// +optional
	revision string,
	// Time to stamp, in seconds since 1970, as SOURCE_DATE_EPOCH. Default: the
	// commit's.
	// +optional
	epoch string,
	// Container with the slipway program at /usr/local/bin/slipway. Default:
	// the program is compiled from this module's own repository, once.
	// +optional
	tools *dagger.Container,
	// Image to compile, test and lint in: Debian with Go and a C compiler.
	// +default="golang:1.26.8-bookworm@sha256:a688600ca24f8a4d3ca77f95b0dd40704a9fc787c826660eb7ba0b641b8b175d"
	goImage string,
	// Image that golangci-lint is taken from, at /usr/bin/golangci-lint. Where
	// its version is not the one slipway.yaml asks for, that one is compiled.
	// +default="golangci/golangci-lint:v2.15.0"
	lintImage string,
	// Image of the Postgres beside the tests.
	// +default="postgres:16.10-bookworm@sha256:38471f330eb885e04de130b768d6db4e10469e2311879c7e5c699f6d2d8a1c74"
	postgresImage string,
	// Image of the Redis beside the tests.
	// +default="redis:7.4-alpine@sha256:ff02b58f971e7d7d156a1267e283fcbbeee91773b6aa36c49dac28ecfe28eadf"
	redisImage string,
	// Registry that every image is pulled from in place of its own, for
	// example mirror.example.com/hub; base images too.
	// +optional
	mirror string,
	// Go module proxy, as GOPROXY. Default: the go command's.
	// +optional
	goProxy string,
	// Credentials for private modules, as a .netrc file: --netrc file:$HOME/.netrc.
	// +optional
	netrc *dagger.Secret,
) (*Slipway, error) {
	s := &Slipway{
		Commit: revision, Epoch: epoch, Tools: tools,
		GoImage: goImage, LintImage: lintImage, PostgresImage: postgresImage, RedisImage: redisImage,
		Mirror: mirror, GoProxy: goProxy, Netrc: netrc,
	}
	repo := repository{ws: ws, dir: source}
	files, err := repo.read(ctx, config)
	if err != nil {
		return nil, err
	}
	build, err := files.Build()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", scope.IgnoreFile, err)
	}
	s.Config, s.Root, s.App = files.Config, files.Root, files.App
	s.Services, s.Platforms = files.Settings.Test.Services, files.Settings.App.Platforms
	s.Packed, s.CGO = files.Settings.Image.UPX, files.Settings.App.CGO
	s.Checked, s.Built = repo.files(files.Check()), repo.files(build)
	s.Deployed = repo.files(files.Deploy()).Directory(files.Root)
	if revision == "" {
		s.Git = repo.files(gitFiles())
	}
	// Side by side; the engine would upload one after the other.
	g, gctx := errgroup.WithContext(ctx)
	for _, dir := range []*dagger.Directory{s.Checked, s.Built, s.Git} {
		if dir != nil {
			g.Go(func() error {
				_, err := dir.Sync(gctx)
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("uploading the source: %w", err)
	}
	return s, nil
}

// gitFiles is what tells commit, time and changed files. Git's configuration
// stays behind, because CI systems keep tokens in it, and so do hooks and logs.
func gitFiles() scope.Filter {
	var f scope.Filter
	for _, name := range []string{"HEAD", "index", "shallow", "packed-refs", "refs/heads", "objects", "info/exclude"} {
		f.Include = append(f.Include, path.Join(".git", name))
	}
	return f
}

// image is where an image is pulled from.
func (s *Slipway) image(reference string) *dagger.Container {
	return dag.Container().From(mirror.Reference(reference, s.Mirror))
}

// golang is a container with Go and the caches that all functions share.
func (s *Slipway) golang() *dagger.Container {
	c := s.image(s.GoImage).
		WithEnvVariable("GOMODCACHE", "/go/pkg/mod").
		WithEnvVariable("GOCACHE", "/root/.cache/go-build").
		WithEnvVariable("GOTOOLCHAIN", "auto").
		WithMountedCache("/go/pkg/mod", dag.CacheVolume("go-mod")).
		WithMountedCache("/root/.cache/go-build", dag.CacheVolume("go-build"))
	if s.GoProxy != "" {
		c = c.WithEnvVariable("GOPROXY", s.GoProxy)
	}
	return c
}

// program adds the slipway program without scanner and signer, and its cache, to
// a container.
func (s *Slipway) program(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Core(s.golang()))
}

// signer adds the slipway program without its scanner and its cache to a
// container.
func (s *Slipway) signer(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Signer(s.golang()))
}

// deployer adds the slipway program without its scanner, but with what deploys,
// and its cache to a container.
func (s *Slipway) deployer(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Deployer(s.golang()))
}

// scanner adds the whole slipway program and its cache to a container.
func (s *Slipway) scanner(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Program(s.golang()))
}

func (s *Slipway) with(c *dagger.Container, program *dagger.File) *dagger.Container {
	if s.Tools != nil {
		program = s.Tools.File("/usr/local/bin/slipway")
	}
	return c.
		WithEnvVariable("SLIPWAY_CACHE", "/cache").
		WithMountedCache("/cache", dag.CacheVolume("slipway")).
		WithMountedFile("/usr/local/bin/slipway", program)
}

// modules is a container with the app's modules downloaded. It depends on
// go.mod and go.sum files alone, so a changed source does not repeat it.
func (s *Slipway) modules() *dagger.Container {
	pins := s.Checked.Filter(dagger.DirectoryFilterOpts{Include: []string{"**/go.mod", "**/go.sum", "**/go.work", "**/go.work.sum"}})
	c := s.golang()
	if s.Netrc != nil {
		// Not for compiling slipway itself: that would be done once more.
		c = c.WithMountedSecret("/root/.netrc", s.Netrc)
	}
	return c.
		WithDirectory("/src", pins).
		WithWorkdir(path.Join("/src", s.App)).
		// A module that cannot be had is reported where it is needed, with more to say.
		WithExec([]string{"go", "mod", "download"}, dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
}

// stage is a container in which the program can run a stage on a tree.
func (s *Slipway) stage(tree *dagger.Directory) *dagger.Container {
	return s.on(s.program(s.modules()), tree)
}

func (s *Slipway) on(c *dagger.Container, tree *dagger.Directory) *dagger.Container {
	return c.
		WithMountedDirectory("/src", tree).
		WithWorkdir(path.Join("/src", s.Root))
}

// flags are the flags every call of the program has.
func (s *Slipway) flags() []string {
	return []string{"--config", path.Join("/src", s.Config), "--progress", "plain"}
}

// stamp is what a build stamps into the program and the image.
type stamp struct {
	Revision string    `json:"revision"`
	Dirty    bool      `json:"dirty"`
	Time     time.Time `json:"time"`
}

// revision finds commit and time, in a step of its own: what follows depends on
// them and not on the history they were read from.
func (s *Slipway) revision(ctx context.Context) (stamp, error) {
	if s.Commit != "" {
		commit, dirty := strings.CutSuffix(s.Commit, "-dirty")
		return stamp{Revision: commit, Dirty: dirty, Time: time.Unix(0, 0)}, nil
	}
	out, err := s.program(s.image(s.GoImage)).
		WithMountedDirectory("/src", s.Built.WithDirectory("/", s.Git)).
		WithWorkdir(path.Join("/src", s.Root)).
		WithExec(append([]string{"slipway", "source", "-o", "json"}, s.flags()...)).
		Stdout(ctx)
	if err != nil {
		return stamp{}, explain(err)
	}
	var v stamp
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return stamp{}, fmt.Errorf("reading the revision: %w", err)
	}
	return v, nil
}

// stamped adds revision and time to a call of the program.
func (s *Slipway) stamped(ctx context.Context, c *dagger.Container, args []string) (*dagger.Container, []string, error) {
	v, err := s.revision(ctx)
	if err != nil {
		return nil, nil, err
	}
	if v.Revision != "" {
		revision := v.Revision
		if v.Dirty {
			revision += "-dirty"
		}
		args = append(args, "--revision", revision)
	}
	epoch := s.Epoch
	if epoch == "" {
		epoch = strconv.FormatInt(v.Time.Unix(), 10)
	}
	return c.WithEnvVariable("SOURCE_DATE_EPOCH", epoch), args, nil
}

// nonce keeps the engine from answering a step from its cache.
func nonce() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }
