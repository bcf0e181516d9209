package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"dagger/slipway/advice"
	"dagger/slipway/internal/dagger"
	"dagger/slipway/references"
)

// images are the images of the module. The constructor has checked the list.
func (s *Slipway) images() references.Set {
	set, err := references.Parse(s.Images)
	if err != nil {
		return references.Pinned()
	}
	return set
}

// pull is a container of an image, from the mirror if there is one.
func (s *Slipway) pull(reference string) *dagger.Container {
	return dag.Container().From(s.images().Reference(reference))
}

// base is a container of the Go image.
func (s *Slipway) base() *dagger.Container { return s.pull(s.images().Go) }

// volumes are names of cache volumes. What executes an app's code must not share them with
// what is released, because it could plant something there.
type volumes struct {
	modules string // modules of Go
	builds  string // packages that the go command has compiled
	cache   string // slipway's cache
	state   string // the key with which slipway recognises its own entries of the cache
	tests   string // packages that the go command has compiled for tests
}

// released are the volumes of everything that makes, scans, signs or deploys an image.
func released() volumes {
	return volumes{modules: "go-mod", builds: "go-build", cache: "slipway", state: "slipway-state"}
}

// checks are the volumes of lint and test, which execute the app's code.
func checks() volumes {
	return volumes{modules: "checks-go-mod", builds: "checks-go-build", cache: "checks-slipway", state: "checks-slipway-state", tests: "checks-go-test"}
}

// tools are the volumes in which slipway itself is compiled. No app's code sees them.
func tools() volumes { return volumes{modules: "tools-go-mod", builds: "tools-go-build"} }

// golang is a container with Go and its caches.
func (s *Slipway) golang(v volumes) *dagger.Container {
	c := s.base().
		WithEnvVariable("GOMODCACHE", "/go/pkg/mod").
		WithEnvVariable("GOCACHE", "/root/.cache/go-build").
		WithEnvVariable("GOTOOLCHAIN", "auto")
	c = s.cached(c, "/go/pkg/mod", v.modules, v)
	c = s.cached(c, "/root/.cache/go-build", v.builds, v)
	c = s.cached(c, "/root/.cache/go-build-slipway-test", v.tests, v)
	if s.GoProxy != "" {
		c = c.WithEnvVariable("GOPROXY", s.GoProxy)
	}
	return c
}

// cached mounts one of the volumes v. With Hermetic it mounts only those in which slipway
// itself is compiled.
func (s *Slipway) cached(c *dagger.Container, folder, volume string, v volumes) *dagger.Container {
	if volume == "" || s.Fresh && v != tools() {
		return c
	}
	return c.WithMountedCache(folder, dag.CacheVolume(volume))
}

// program adds the slipway program without scanner and signer, and its cache, to a
// container.
func (s *Slipway) program(c *dagger.Container, v volumes) *dagger.Container {
	return s.with(c, dag.Tools().Core(s.golang(tools())), v)
}

// signer adds the slipway program without its scanner, and its cache, to a
// container.
func (s *Slipway) signer(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Signer(s.golang(tools())), released())
}

// deployer adds the slipway program with what deploys but without its scanner, and
// its cache, to a container.
func (s *Slipway) deployer(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Deployer(s.golang(tools())), released())
}

// scanner adds the whole slipway program and its cache to a container.
func (s *Slipway) scanner(c *dagger.Container) *dagger.Container {
	return s.with(c, dag.Tools().Program(s.golang(tools())), released())
}

func (s *Slipway) with(c *dagger.Container, program *dagger.File, v volumes) *dagger.Container {
	if s.Tools != nil {
		program = s.Tools.File("/usr/local/bin/slipway")
	}
	c = s.cached(c, "/cache", v.cache, v)
	c = s.cached(c, "/root/.local/state", v.state, v)
	return c.WithEnvVariable("SLIPWAY_CACHE", "/cache").WithMountedFile("/usr/local/bin/slipway", program)
}

// modules is a container with the app's modules downloaded. It depends on go.mod
// and go.sum files alone, so a changed source does not repeat the download.
func (s *Slipway) modules(ctx context.Context, v volumes) (*dagger.Container, error) {
	pins := s.Checked.Filter(dagger.DirectoryFilterOpts{Include: []string{"**/go.mod", "**/go.sum", "**/go.work", "**/go.work.sum"}})
	c := s.golang(v)
	if s.Netrc != nil {
		// Slipway itself is compiled without it, or it would be compiled again.
		c = c.WithMountedSecret(advice.NetrcFile, s.Netrc)
	}
	variables, err := s.variables(ctx)
	if err != nil {
		return nil, err
	}
	if proxy := variables[proxyVariable]; proxy != nil {
		c = c.WithSecretVariable(proxyVariable, proxy)
	}
	c = c.
		WithDirectory(advice.SourceDir, pins).
		WithWorkdir(path.Join(advice.SourceDir, s.App)).
		// The step that needs a module which cannot be downloaded reports it better.
		WithExec([]string{"go", "mod", "download"}, dagger.ContainerWithExecOpts{Expect: dagger.ReturnTypeAny})
	if v == checks() { // the app's code must not see the credentials
		c = c.WithoutMount(advice.NetrcFile).WithoutSecretVariable(proxyVariable)
	}
	return c, nil
}

// stage is a container in which the program can run a stage on a tree.
func (s *Slipway) stage(ctx context.Context, tree *dagger.Directory, v volumes) (*dagger.Container, error) {
	c, err := s.modules(ctx, v)
	if err != nil {
		return nil, err
	}
	return s.on(s.program(c, v), tree), nil
}

func (s *Slipway) on(c *dagger.Container, tree *dagger.Directory) *dagger.Container {
	return c.
		WithMountedDirectory(advice.SourceDir, tree).
		WithWorkdir(path.Join(advice.SourceDir, s.Root))
}

// flags are the flags that every call of the program has.
func (s *Slipway) flags() []string {
	flags := []string{"--progress", "plain"}
	if s.Config != "" {
		flags = append(flags, "--config", path.Join(advice.SourceDir, s.Config))
	}
	return flags
}

// stageFlags are the flags that a command of the program has if it reads the source.
func (s *Slipway) stageFlags() []string {
	flags := s.flags()
	if s.Dir != "" {
		flags = append(flags, "--dir", s.Dir)
	}
	if s.Versioned {
		flags = append(flags, "--repository-root", advice.SourceDir)
	}
	return flags
}

// stamp is what a build stamps into the program and the image.
type stamp struct {
	Revision string    `json:"revision"`
	Dirty    bool      `json:"dirty"`
	Time     time.Time `json:"time"`
}

// revision finds commit and time, in a step by itself: what follows depends on them
// and not on the history that they were read from.
func (s *Slipway) revision(ctx context.Context, function string) (stamp, error) {
	if s.Commit != "" {
		commit, dirty := strings.CutSuffix(s.Commit, "-dirty")
		return stamp{Revision: commit, Dirty: dirty, Time: time.Unix(0, 0)}, nil
	}
	if s.Linked && s.Git == nil {
		return stamp{}, errors.New("this is a linked work tree or a submodule, whose history is in another folder: " +
			"add --git-dir $(git rev-parse --git-common-dir) after dagger call, " +
			"or name the commit with with-commit --revision $(git rev-parse HEAD) --epoch $(git log -1 --format=%ct)")
	}
	c, err := s.modules(ctx, released())
	if err != nil {
		return stamp{}, err
	}
	out, err := s.withHistory(s.program(c, released())).
		WithExec(append([]string{"slipway", "source", "-o", "json"}, s.stageFlags()...)).
		Stdout(ctx)
	if err != nil {
		return stamp{}, s.explain(function, err)
	}
	var v stamp
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return stamp{}, fmt.Errorf("reading the revision: %w", err)
	}
	return v, nil
}

// withHistory adds the source and its history to a container, so that git can read both.
func (s *Slipway) withHistory(c *dagger.Container) *dagger.Container {
	c = s.versioned(c)
	if s.Git != nil {
		c = c.WithExec(append([]string{"sh", "-c", configure, "sh"}, arguments(slices.Concat(s.Folders, s.Above))...))
	}
	return c.WithWorkdir(path.Join(advice.SourceDir, s.Root))
}

// configure is a script that writes a configuration for the repository in the working
// folder, of which only some files were uploaded, and for its submodules. Its arguments
// are the folders of the modules and the files that were uploaded.
//
// Files of Git LFS are compared by the pointers that Git LFS would make of them
// (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md). Tracked files of other
// folders were not uploaded, and must not look deleted.
const configure = `tab=$(printf '\t')
configure() {
	version=0 extensions=
	if grep -qrE '^[0-9a-f]{64}( |$)' "$1/HEAD" "$1/packed-refs" "$1/refs" 2>/dev/null; then
		version=1 extensions='[extensions]
	objectFormat = sha256'
	fi
	if [ -e "$1/reftable" ]; then
		version=1 extensions="${extensions:-[extensions]}
	refStorage = reftable"
	fi
	printf '[core]\n\trepositoryFormatVersion = %s\n%s\n' "$version" "$extensions" >"$1/config"
}
configure .git
command -v git >/dev/null || exit 0
cat >/usr/local/bin/lfs-pointer <<'SCRIPT'
#!/bin/sh
file=$(mktemp) && cat >"$file"
if [ ! -s "$file" ] || head -c 100 "$file" | grep -q '^version https://git-lfs'; then
	cat "$file"
else
	sum=$(sha256sum <"$file")
	printf 'version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n' "${sum%% *}" "$(wc -c <"$file")"
fi
rm "$file"
SCRIPT
chmod +x /usr/local/bin/lfs-pointer
git config --system filter.lfs.clean lfs-pointer
git -c core.quotePath=false ls-files --stage -- "$@" | sed -n "s/^160000 [^$tab]*$tab//p" | while read -r module; do
	rm -rf "$module/.git"
	if [ -e ".git/modules/$module/HEAD" ]; then
		configure ".git/modules/$module"
		printf 'gitdir: %s/.git/modules/%s\n' "$PWD" "$module" >"$module/.git"
	fi
done
case $1 in ./.) exit 0 ;; esac
for dir; do
	set -- "$@" ":(exclude,literal)${dir#./}"
	shift
done
git ls-files --deleted -z -- . "$@" | git update-index -z --skip-worktree --stdin || true`

// stamped adds revision and time to a call of the program.
func (s *Slipway) stamped(ctx context.Context, function string, c *dagger.Container, args []string) (*dagger.Container, []string, error) {
	v, err := s.revision(ctx, function)
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

// attempt runs a command of the program on what a build gets, for the function that was
// called.
func (s *Slipway) attempt(ctx context.Context, function string, c *dagger.Container, args []string, opts ...dagger.ContainerWithExecOpts) (*dagger.Container, error) {
	run := func(c *dagger.Container) (*dagger.Container, error) { return c.WithExec(args, opts...).Sync(ctx) }
	done, err := run(c)
	if err != nil {
		return nil, s.explain(function, s.unhidden(c, err, run))
	}
	return done, nil
}

// unhidden returns a better error for one of the compiler, if there is one. What the ignore
// file hides is not uploaded to a build. Where it is there, the program hides it too, and
// says which line of the ignore file hides what is missing.
func (s *Slipway) unhidden(c *dagger.Container, err error, run func(*dagger.Container) (*dagger.Container, error)) error {
	failed, ok := errors.AsType[*dagger.ExecError](err)
	if !s.Hides || !ok || !strings.HasPrefix(advice.Errors("build", failed.Stderr), "build: ") {
		return err
	}
	if _, again := run(c.WithMountedDirectory(advice.SourceDir, s.Checked)); again != nil {
		return again
	}
	return err
}

// nonce keeps the engine from answering a step from its cache.
func nonce() string { return strconv.FormatInt(time.Now().UnixNano(), 36) }
