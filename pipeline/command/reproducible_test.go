package command

import (
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// TestSameCommitSameDigest builds one commit twice. The second build has a different
// folder, umask, time zone, home folder, language, cache and different file times and Go
// settings. If the test runs as root, it also has a different user.
//
// The clock is not changed. It usually affects a build through file times, which differ by
// decades.
func TestSameCommitSameDigest(t *testing.T) {
	testkit.Slow(t, "builds one commit ten times")
	variants := map[string]struct {
		args    []string
		program string // that the build requires
	}{
		"gzip":   {nil, "go"},
		"zstd":   {[]string{"--compression", "zstd"}, "go"},
		"docker": {[]string{"--format", "docker", "--platforms", "linux/amd64,linux/arm64"}, "go"},
		"upx":    {[]string{"--upx"}, "upx"},
		"cgo":    {[]string{"--cgo"}, "musl-gcc"},
	}
	origin := testkit.Repository(t, helloApp())
	first, second := newProgram(t, origin), otherMachine(t, origin)
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(v.program); err != nil {
				t.Skipf("%s is not installed", v.program)
			}
			args := append([]string{"build"}, v.args...)
			want, got := first.report(t, args...), second.report(t, args...)
			if want.Digest == "" || want.Digest != got.Digest {
				t.Errorf("digest mismatch: %s and %s", want.Digest, got.Digest)
			}
			for i := range want.Build.Binaries {
				if want.Build.Binaries[i].SHA256 != got.Build.Binaries[i].SHA256 {
					t.Errorf("the binaries for %s differ", want.Build.Binaries[i].Platform)
				}
			}
			if again := first.report(t, append(args, "--revision", want.Source.Revision)...); name == "gzip" && again.Source.Version == "" {
				t.Error("no version with --revision")
			}
		})
	}
}

// otherMachine returns the program with a copy of the source in an environment like that
// of a different machine.
func otherMachine(t *testing.T, origin string) *program {
	t.Helper()
	base, err := os.MkdirTemp("", "slipway-other-machine-") // other users cannot read t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir := filepath.Join(base, "somewhere else", "deep", "checkout")
	old := time.Date(1999, 1, 2, 3, 4, 5, 6, time.UTC)
	err = filepath.WalkDir(origin, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(origin, path)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o777)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(target, data, 0o666); err != nil {
			return err
		}
		return os.Chtimes(target, old, old)
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &program{dir: dir, path: filepath.Join(base, "slipway.test"), env: environment(t, filepath.Join(base, "home"))}
	p.env = append(p.env,
		"TZ=Pacific/Kiritimati", "LANG=tr_TR.UTF-8", "USER=other", "GOCACHE="+filepath.Join(base, "go-cache"), "TMPDIR="+base,
		"GOFLAGS=-tags=hostile", "GOAMD64=v3", "CGO_CFLAGS=-O0", "CC=/nonexistent", "GOMAXPROCS=1")
	copyFile(t, os.Args[0], p.path)
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		p.attr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if err := filepath.WalkDir(base, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Lchown(path, 65534, 65534)
		}); err != nil {
			t.Fatal(err)
		}
		// The user cannot read root's module cache. The app does not need one.
		p.env = append(p.env, "GOMODCACHE="+filepath.Join(base, "modules"))
	} else {
		t.Log("not root, so both builds have the same user")
	}
	// A process inherits the umask of its parent, so a shell script sets it.
	script := filepath.Join(base, "run")
	if err := os.WriteFile(script, []byte("#!/bin/sh\numask 077\nexec \""+p.path+"\" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p.path = script
	return p
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestOneByteChangesOneLayer changes one byte of the source and checks that only the layer
// of the program changes.
func TestOneByteChangesOneLayer(t *testing.T) {
	dir := testkit.Repository(t, helloApp())
	p := newProgram(t, dir)
	layers := func(r ship.Report) []image.Layer { return r.Image.Platforms[0].Layers }
	before := p.report(t, "build", "--revision", "0123456789abcdef0123456789abcdef01234567")
	testkit.Write(t, dir, map[string]string{"greet/text.txt": "hallo"})
	after := p.report(t, "build", "--revision", "0123456789abcdef0123456789abcdef01234567")
	var changed []string
	for i, l := range layers(before) {
		if layers(after)[i].Digest != l.Digest {
			changed = append(changed, l.Name)
		}
	}
	if !slices.Equal(changed, []string{"program"}) || len(layers(before)) != 4 {
		t.Errorf("changed layers: %v of %d", changed, len(layers(before)))
	}
}

// TestExcludedFileRebuildsNothing checks that a change of a file that .dockerignore
// excludes does not change the image, and that the file is not compiled.
func TestExcludedFileRebuildsNothing(t *testing.T) {
	dir := testkit.Repository(t, helloApp())
	p := newProgram(t, dir)
	before := p.report(t, "build")
	testkit.Write(t, dir, map[string]string{"README.md": "changed\n", "docs/new.md": "new\n"})
	after := p.report(t, "build")
	if after.Digest != before.Digest || after.Build.Relinked || after.Source.Dirty {
		t.Errorf("relinked %v, dirty %v, digest %s changed to %s", after.Build.Relinked, after.Source.Dirty, before.Digest, after.Digest)
	}

	// An excluded Go file must not be compiled.
	testkit.Write(t, dir, map[string]string{"broken.go": "this is not Go", ".dockerignore": "**/*.md\nbroken.go\n.dockerignore\n"})
	if excluded := p.report(t, "build"); excluded.Digest != before.Digest {
		t.Errorf("an excluded file changed the digest %s to %s", before.Digest, excluded.Digest)
	}
}

func TestPublishAgainSendsNothing(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, helloApp()))
	repo := testkit.Registry(t) + "/acme/hello"
	first := p.report(t, "publish", "--repository", repo, "--platforms", "linux/amd64,linux/arm64")
	if first.Outcome != progress.Passed || first.Push.Sent == 0 || len(first.Push.Tags) != 1 {
		t.Fatalf("got %+v", first.Push)
	}
	second := p.report(t, "publish", "--repository", repo, "--platforms", "linux/amd64,linux/arm64")
	if second.Outcome != progress.Unchanged || second.Push.Sent != 0 || second.Reference != first.Reference {
		t.Errorf("outcome %s, %+v", second.Outcome, second.Push)
	}
	another := p.report(t, "publish", "--repository", repo, "--platforms", "linux/amd64,linux/arm64", "--tag", "v1", "--tag", "latest")
	if another.Digest != first.Digest || another.Push.Sent != 0 || !slices.Equal(another.Push.Tags, []string{"v1", "latest"}) {
		t.Errorf("with new tags, %d blobs were sent: %+v", another.Push.Sent, another.Push)
	}
}
