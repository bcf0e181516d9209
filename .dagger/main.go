// Slipway takes a Go service from source to running pods: lint, race tests, a
// reproducible build, a scan, a push, a signature with attestations, and a
// deployment that is followed and rolled back if it fails. The same commit gives
// the same image digest here, in any CI system, and with the slipway program
// outside Dagger.
//
// Settings come from slipway.yaml at the root of the repository; all have defaults
// (see docs/configuration.md of slipway). What several functions need is given
// once, in front of them: with-registry, with-signer, with-cluster. What should
// hold for every call goes into a file .env, for example SLIPWAY_KUBECONFIG.
//
// Examples:
//
//	dagger call lint
//	dagger call test report export --path .slipway/reports
//	dagger call build as-service up --ports 8080:8080
//	dagger call build-layout export --path .slipway/image
//	dagger call scan
//	dagger call publish --address ghcr.io/acme/orders
//	dagger call with-signer --key file:cosign.key sign --image ghcr.io/acme/orders@sha256:...
//	dagger call verify --image ghcr.io/acme/orders@sha256:... --env prod
//	dagger call with-cluster --kubeconfig file:$HOME/.kube/config deploy --env prod --image ghcr.io/acme/orders@sha256:...
//	dagger check
package main

import (
	"context"
	"fmt"
	"path"

	"golang.org/x/sync/errgroup"

	"dagger/slipway/advice"
	"dagger/slipway/internal/dagger"
	"dagger/slipway/references"
	"dagger/slipway/scope"
)

// Slipway is the pipeline of one app at one state of its source.
type Slipway struct {
	// +private
	Config string // path of slipway.yaml from the repository's root; empty if there is none
	// +private
	Root string // its folder, from the repository's root
	// +private
	App string // the app's folder, from the repository's root
	// +private
	Checked *dagger.Directory // what lint and tests see
	// +private
	Built *dagger.Directory // what a build sees
	// +private
	Git *dagger.Directory // what versioning needs of .git; nil if there is none or it is elsewhere
	// +private
	Hides bool // the ignore file hides files from a build
	// +private
	Versioned bool // the source is in a git repository
	// +private
	Linked bool // .git is elsewhere: a linked work tree or a submodule
	// +private
	Folders []string // of the modules that the go command reads, from the repository's root
	// +private
	Above []string // files outside of them that determine what is built
	// +private
	Outside []string // those of them that are outside the repository
	// +private
	Dir string // the app's folder from Root, if the caller names it
	// +private
	Deployed *dagger.Directory // charts and values, from Root
	// +private
	Commit string // given instead of .git
	// +private
	Epoch string
	// +private
	TestServices []string // that the tests need
	// +private
	Platforms []string
	// +private
	Repository string // image.repository of slipway.yaml
	// +private
	Packed bool
	// +private
	CGO bool
	// +private
	Compared bool // lint needs the history, to list only new findings
	// +private
	Fresh bool // cache volumes are not used
	// +private
	Tools *dagger.Container
	// +private
	Images []string // NAME=REFERENCE
	// +private
	GoProxy string
	// +private
	Netrc *dagger.Secret
	// +private
	Services []*dagger.Service // ports of the caller's machine
	// +private
	Secrets []*dagger.Secret // variables of the caller
	// +private
	Registry Registry
	// +private
	Signer Signer
	// +private
	Cluster Cluster
}

// New reads which files the app consists of. Nothing else is uploaded.
func New(
	ctx context.Context,
	ws *dagger.Workspace,
	// The source of the repository, instead of the folder in which dagger is
	// called: a folder, or a git address such as https://github.com/acme/orders#main.
	// +optional
	// +ignore=["**/.git/config", "**/.git/config.worktree", "**/.git/hooks", "**/.git/logs", "**/.git/modules/**/config"]
	source *dagger.Directory,
	// Path of slipway.yaml from the current folder; a path that begins with / is from
	// the root of the repository. Default: the nearest one in the current folder or
	// above it. Without any, slipway's defaults hold for the current folder.
	// +optional
	config string,
	// Folder of the app's module from the folder of slipway.yaml, instead of app.dir.
	// +optional
	dir string,
	// Git's folder, if it is not in the repository, as for a linked work tree or a
	// submodule: $(git rev-parse --git-common-dir).
	// +optional
	// +ignore=["*", "!HEAD", "!index", "!sharedindex.*", "!shallow", "!packed-refs", "!refs/heads", "!refs/remotes", "!refs/tags", "!objects", "!reftable", "!info", "!worktrees/*/HEAD", "!worktrees/*/index", "!worktrees/*/sharedindex.*", "!**/modules/**/HEAD", "!**/modules/**/index", "!**/modules/**/packed-refs", "!**/modules/**/shallow", "!**/modules/**/refs/heads", "!**/modules/**/objects"]
	gitDir *dagger.Directory,
	// Files to upload although git ignores them, as patterns from the root of the
	// repository. Go code, what it embeds, and what slipway.yaml names are uploaded
	// without being listed.
	// +optional
	include []string,
	// Container with the slipway program at /usr/local/bin/slipway. Default: the
	// program is compiled once, from the repository of this module.
	// +optional
	tools *dagger.Container,
	// Images to use instead of the pinned ones, each as NAME=REFERENCE: go (Debian
	// with Go and a C compiler), lint (golangci-lint at /usr/bin), postgres, redis.
	// mirror=REGISTRY pulls all of them, and base images, from a mirror first, for
	// example mirror=mirror.example.com/hub.
	// +optional
	images []string,
	// Credentials for private modules, as a .netrc file: file:$HOME/.netrc.
	// +optional
	netrc *dagger.Secret,
	// The kubeconfig: file:$HOME/.kube/config or env:NAME.
	// +optional
	kubeconfig *dagger.Secret,
	// Ports of your own machine that containers may connect to, each as
	// tcp://127.0.0.1:PORT. A registry or a cluster on 127.0.0.1 or localhost is
	// reached through them.
	// +optional
	services []*dagger.Service,
	// Variables of your environment that the steps which push, sign, verify or
	// deploy may read, each as env:NAME: those that slipway.yaml names, and
	// SLIPWAY_REGISTRY_USERNAME, SLIPWAY_REGISTRY_PASSWORD, SLIPWAY_KEY_PASSWORD,
	// SIGSTORE_ID_TOKEN. KUBECONFIG_TEXT is used as the kubeconfig, and GOPROXY to
	// download modules.
	// +optional
	secrets []*dagger.Secret,
) (*Slipway, error) {
	s := &Slipway{
		Tools: tools, Images: images, Netrc: netrc, Services: services, Secrets: secrets,
		Cluster: Cluster{Kubeconfig: kubeconfig},
	}
	if _, err := references.Parse(images); err != nil {
		return nil, err
	}
	repo := repository{ws: ws, dir: source}
	files, err := repo.read(ctx, place{config: config, dir: dir})
	if err != nil {
		return nil, err
	}
	files.Further = include
	s.Root, s.App, s.Dir, s.Linked = files.Root, files.App, dir, files.Link != ""
	s.Folders, s.Above, s.Outside = files.Folders(), files.Above(), files.Outside()
	if files.Found {
		s.Config = files.Config
	}
	s.TestServices, s.Platforms = files.Settings.Test.Services, files.Settings.App.Platforms
	s.Repository, s.Packed, s.CGO = files.Settings.Image.Repository, files.Settings.Image.UPX, files.Settings.App.CGO
	s.Versioned, s.Compared = files.Versioned, files.Settings.Lint.NewFrom != ""
	if files.Versioned && (!s.Linked || gitDir != nil) {
		if s.Git, err = repo.history(ctx, files, gitDir); err != nil {
			return nil, err
		}
	}
	needs, err := s.upload(ctx, repo, files, gitDir)
	if err != nil {
		return nil, err
	}
	hidden, err := files.Hidden(needs)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", scope.IgnoreFile, err)
	}
	s.Built, s.Hides = s.Checked.Filter(dagger.DirectoryFilterOpts{Exclude: hidden}), len(hidden) > 0
	// The folder may hold nothing of a chart.
	s.Deployed = repo.files(files.Deploy()).WithNewDirectory(files.Root).Directory(files.Root)
	return s, nil
}

// upload uploads the source and returns patterns of the files that are needed although
// git ignores them.
func (s *Slipway) upload(ctx context.Context, repo repository, files scope.Files, gitDir *dagger.Directory) ([]string, error) {
	check := files.Check()
	// Which files are tracked although git ignores them is known from git's index alone.
	check.Unignored = s.Git != nil
	s.Checked = repo.files(check)
	if s.Git == nil {
		return nil, s.sync(ctx, s.Checked)
	}
	compiled := repo.files(files.Ignored())
	if err := s.sync(ctx, s.Checked, compiled, s.Git); err != nil {
		return nil, err
	}
	s.Checked = s.Checked.WithDirectory("/", compiled)
	out, err := s.versioned(s.base()).
		WithExec(append([]string{"sh", "-c", scope.Examine, "sh"}, arguments(s.Folders)...)).
		Stdout(ctx)
	if err != nil {
		return nil, s.explain("", err)
	}
	if modules := scope.Submodules(out, files.Link); len(modules) > 0 {
		s.Git = repo.withSubmodules(s.Git, modules, gitDir)
	}
	needs := scope.Needs(out)
	if len(needs) > 0 {
		s.Checked = s.Checked.WithDirectory("/", repo.files(files.Needed(needs)))
	}
	return needs, nil
}

// sync uploads folders. The engine would upload one after the other; this uploads them at
// the same time.
func (s *Slipway) sync(ctx context.Context, dirs ...*dagger.Directory) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, dir := range dirs {
		g.Go(func() error {
			_, err := dir.Sync(gctx)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("uploading the source: %w", err)
	}
	return nil
}

// versioned is a container with the source and what there is of its history.
func (s *Slipway) versioned(c *dagger.Container) *dagger.Container {
	c = c.WithMountedDirectory(advice.SourceDir, s.Checked)
	if s.Git != nil {
		c = c.WithMountedDirectory(path.Join(advice.SourceDir, ".git"), s.Git)
	}
	return c.WithWorkdir(advice.SourceDir)
}

// arguments returns paths of the repository as arguments of programs in its root. A name
// may begin with a dash.
func arguments(paths []string) []string {
	var all []string
	for _, p := range paths {
		all = append(all, "./"+p)
	}
	return all
}
