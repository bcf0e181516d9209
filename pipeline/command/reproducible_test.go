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

// TestSameCommitSameDigest builds one commit here and in another folder, with
// another umask, time zone, HOME, language, caches, file times, hostile Go
// settings and, where this runs as root, another user.
//
// The wall clock differs between the two builds as it does between any two;
// file times, through which it usually gets in, are moved by decades.
func TestSameCommitSameDigest(t *testing.T) {
	testkit.Slow(t, "builds one commit ten times")
	variants := map[string]struct {
		args    []string
		program string // what it needs
	}{
		"gzip":   {nil, "go"},
		"zstd":   {[]string{"--compression", "zstd"}, "go"},
		"docker": {[]string{"--format", "docker", "--platforms", "linux/amd64,linux/arm64"}, "go"},
		"upx":    {[]string{"--upx"}, "upx"},
		"cgo":    {[]string{"--cgo"}, "musl-gcc"},
	}
	origin := testkit.Repository(t, hello())
	other := stranger(t, origin)
	us := here(t, origin)
	for name, v := range variants {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(v.program); err != nil {
				t.Skipf("%s is not installed", v.program)
			}
			args := append([]string{"build"}, v.args...)
			ours, theirs := us.report(t, args...), other.report(t, args...)
			if ours.Digest == "" || ours.Digest != theirs.Digest {
				t.Errorf("%s here, %s there", ours.Digest, theirs.Digest)
			}
			for i := range ours.Build.Binaries {
				if ours.Build.Binaries[i].SHA256 != theirs.Build.Binaries[i].SHA256 {
					t.Errorf("the binaries for %s differ", ours.Build.Binaries[i].Platform)
				}
			}
			if again := us.report(t, append(args, "--revision", ours.Source.Revision)...); name == "gzip" && again.Source.Version == "" {
				t.Error("a given commit makes no version")
			}
		})
	}
}

// stranger is the program on what looks like another machine.
func stranger(t *testing.T, origin string) *program {
	t.Helper()
	base, err := os.MkdirTemp("", "slipway-stranger-") // t.TempDir is closed to other users
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
		"TZ=Pacific/Kiritimati", "LANG=tr_TR.UTF-8", "USER=stranger", "GOCACHE="+filepath.Join(base, "go-cache"), "TMPDIR="+base,
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
		// The module cache of another user cannot be read; the app needs none.
		p.env = append(p.env, "GOMODCACHE="+filepath.Join(base, "modules"))
	} else {
		t.Log("not root: the other machine has the same user")
	}
	// A process has its parent's umask, and a shell can set it.
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

// TestOneByteChangesOneLayer changes one byte of the source and sees exactly
// one layer change.
func TestOneByteChangesOneLayer(t *testing.T) {
	dir := testkit.Repository(t, hello())
	p := here(t, dir)
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

func TestExcludedFileRebuildsNothing(t *testing.T) {
	dir := testkit.Repository(t, hello())
	p := here(t, dir)
	before := p.report(t, "build")
	testkit.Write(t, dir, map[string]string{"README.md": "changed\n", "docs/new.md": "new\n"})
	after := p.report(t, "build")
	if after.Digest != before.Digest || after.Build.Relinked || after.Source.Dirty {
		t.Errorf("relinked %v, dirty %v, %s became %s", after.Build.Relinked, after.Source.Dirty, before.Digest, after.Digest)
	}

	// A file that is hidden must not be compiled either.
	testkit.Write(t, dir, map[string]string{"broken.go": "this is not Go", ".dockerignore": "**/*.md\nbroken.go\n.dockerignore\n"})
	if hidden := p.report(t, "build"); hidden.Digest != before.Digest {
		t.Errorf("a hidden file changed the image: %s became %s", before.Digest, hidden.Digest)
	}
}

func TestNothingChanged(t *testing.T) {
	p := here(t, testkit.Repository(t, hello()))
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
		t.Errorf("new tags sent %d blobs: %+v", another.Push.Sent, another.Push)
	}
}
