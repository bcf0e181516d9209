package command

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/service"
)

// TestSampleImageRuns builds the sample app's image, starts its root file
// system read-only under runc as the image's user with the image's own command
// line, beside a real Postgres and Redis, and stops it with SIGTERM.
func TestSampleImageRuns(t *testing.T) {
	testkit.Slow(t, "builds the sample app and runs it")
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("runc is not installed")
	}
	if os.Getuid() != 0 {
		t.Skip("not root: runc needs it here")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	p := here(t, repo)
	out := filepath.Join(t.TempDir(), "layout")
	p.report(t, "build", "--platforms", "linux/amd64", "-o", "oci:"+out)
	img := onlyImage(t, out)
	bundle := t.TempDir()
	rootfs := filepath.Join(bundle, "rootfs")
	extract(t, img, rootfs)
	for _, name := range []string{"tmp", "bin", "bin/sh"} {
		if _, err := os.Lstat(filepath.Join(rootfs, name)); err == nil {
			t.Errorf("/%s is in a scratch image", name)
		}
	}
	static(t, filepath.Join(rootfs, "server"))

	c := container{id: "slipway-test-" + filepath.Base(filepath.Dir(bundle)), state: t.TempDir(), ended: make(chan error, 1)}
	api := freeAddress(t)
	c.start(t, bundle, img, api)
	c.answers(t, api)
	if out, err := c.runc("kill", c.id, "TERM").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	select {
	case err := <-c.ended:
		if err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, &c.log)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the service does not stop")
	}
}

// container is an image that runc runs.
type container struct {
	id, state string
	log       bytes.Buffer
	ended     chan error
}

func (c *container) runc(args ...string) *exec.Cmd {
	return exec.Command("runc", append([]string{"--root", c.state}, args...)...)
}

// start runs the image, with Postgres and Redis, so that it listens at an address.
func (c *container) start(t *testing.T, bundle string, img v1.Image, api string) {
	t.Helper()
	services, err := service.Start(t.Context(), service.Options{Kinds: service.Kinds()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(services.Stop)
	testkit.Write(t, bundle, map[string]string{"config.yaml": fmt.Sprintf(
		"server: {listen: %q, metrics_listen: %q}\npayment: {url: ''}\ninventory: {url: ''}\nshutdown: {drain_delay: 100ms}\n", api, freeAddress(t))})
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	spec(t, bundle, cf.Config, filepath.Join(bundle, "config.yaml"), services.Env())
	run := c.runc("run", "--bundle", bundle, c.id)
	run.Stdout, run.Stderr = &c.log, &c.log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.ended <- run.Wait() }()
	t.Cleanup(func() { _ = c.runc("delete", "--force", c.id).Run() })
}

// answers checks that the sample app becomes ready, is healthy and takes an order.
func (c *container) answers(t *testing.T, api string) {
	t.Helper()
	if answer := untilReady(t, "http://"+api+"/health/ready", c.ended, &c.log); answer != http.StatusOK {
		t.Fatalf("/health/ready answers %d\n%s", answer, &c.log)
	}
	if out, err := c.runc("exec", c.id, "/server", "health", "--config", "/etc/app/config.yaml").CombinedOutput(); err != nil {
		t.Errorf("the image's health check: %v\n%s", err, out)
	}
	body := `{"customer_id":"c-1","currency":"EUR","items":[{"sku":"book","quantity":2,"unit_price":1250}]}`
	resp, err := http.Post("http://"+api+"/api/orders", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("an order is answered with %s", resp.Status)
	}
}

func onlyImage(t *testing.T, dir string) v1.Image {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(m.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func extract(t *testing.T, img v1.Image, dir string) {
	t.Helper()
	r := mutate.Extract(img)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, fs.FileMode(h.Mode)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, fs.FileMode(h.Mode))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(f, tr); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// static checks what `file` and `ldd` would say: no interpreter, no libraries.
func static(t *testing.T, path string) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, prog := range f.Progs {
		if prog.Type == elf.PT_INTERP {
			t.Errorf("%s needs a dynamic linker", path)
		}
	}
	if libs, err := f.ImportedLibraries(); err == nil && len(libs) > 0 {
		t.Errorf("%s needs %v", path, libs)
	}
	if f.Section(".symtab") != nil {
		t.Errorf("%s has symbols", path)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// spec writes what a kubelet would ask of the runtime for this image with a
// restricted security context (https://github.com/opencontainers/runtime-spec).
func spec(t *testing.T, bundle string, c v1.Config, settings string, env []string) {
	t.Helper()
	var uid, gid int
	if _, err := fmt.Sscanf(c.User, "%d:%d", &uid, &gid); err != nil {
		t.Fatal(err)
	}
	type m = map[string]any
	data, err := json.Marshal(m{
		"ociVersion": "1.0.2",
		"process": m{
			"user": m{"uid": uid, "gid": gid}, "cwd": c.WorkingDir, "noNewPrivileges": true,
			"args": append(append([]string{}, c.Entrypoint...), c.Cmd...),
			"env":  append(append([]string{}, c.Env...), env...),
		},
		"root": m{"path": "rootfs", "readonly": true},
		"mounts": []m{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/etc/app/config.yaml", "type": "bind", "source": settings, "options": []string{"bind", "ro"}},
		},
		"linux": m{"namespaces": []m{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Write(t, bundle, map[string]string{"config.json": string(data)})
}

// untilReady asks until the service is ready or gone.
func untilReady(t *testing.T, url string, ended <-chan error, log *bytes.Buffer) int {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	status := 0
	for {
		select {
		case err := <-ended:
			t.Fatalf("the service ended: %v\n%s", err, log)
		case <-deadline.C:
			return status
		case <-ask.C:
			resp, err := http.Get(url)
			if err != nil {
				continue
			}
			_ = resp.Body.Close()
			if status = resp.StatusCode; status == http.StatusOK {
				return status
			}
		}
	}
}

// TestForward: a port of the loopback that is forwarded is reached elsewhere, and the
// image keeps its name.
func TestForward(t *testing.T) {
	p := here(t, testkit.Repository(t, hello()))
	host := testkit.Registry(t)
	const nobody = "127.0.0.1:9" // nobody listens there
	r := p.report(t, "publish", "--repository", nobody+"/hello", "--forward", "9="+host)
	if !strings.HasPrefix(r.Reference, nobody+"/hello@sha256:") {
		t.Errorf("reference %s", r.Reference)
	}
	ref, err := name.NewDigest(host + "/hello@" + r.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Head(ref); err != nil {
		t.Error(err)
	}
}
