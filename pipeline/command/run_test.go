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

// TestSampleImageRuns builds the image of the sample app, runs it with runc, with real
// Postgres and Redis servers, and stops it with SIGTERM. The root file system is
// read-only, and the user and the command are those of the image.
func TestSampleImageRuns(t *testing.T) {
	testkit.Slow(t, "builds the sample app and runs it")
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("runc is not installed")
	}
	if os.Getuid() != 0 {
		t.Skip("not root, which this test needs for runc")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	p := newProgram(t, repo)
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
	wantStatic(t, filepath.Join(rootfs, "server"))

	c := container{id: "slipway-test-" + filepath.Base(filepath.Dir(bundle)), state: t.TempDir(), exited: make(chan error, 1)}
	api := freeAddress(t)
	c.start(t, bundle, img, api)
	c.wantWorking(t, api)
	if out, err := c.runc("kill", c.id, "TERM").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	select {
	case err := <-c.exited:
		if err != nil {
			t.Errorf("after SIGTERM: %v\n%s", err, &c.log)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the service has not stopped after 30 seconds")
	}
}

// container is a container that runs with runc.
type container struct {
	id, state string // state is runc's state folder
	log       bytes.Buffer
	exited    chan error // receives the result of runc run
}

func (c *container) runc(args ...string) *exec.Cmd {
	return exec.Command("runc", append([]string{"--root", c.state}, args...)...)
}

// start starts Postgres, Redis and the image, whose API listens on the given address.
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
	writeSpec(t, bundle, cf.Config, filepath.Join(bundle, "config.yaml"), services.Env())
	run := c.runc("run", "--bundle", bundle, c.id)
	run.Stdout, run.Stderr = &c.log, &c.log
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.exited <- run.Wait() }()
	t.Cleanup(func() { _ = c.runc("delete", "--force", c.id).Run() })
}

// wantWorking checks that the sample app becomes ready, that its health check succeeds, and
// that it accepts an order.
func (c *container) wantWorking(t *testing.T, api string) {
	t.Helper()
	if status := waitUntilReady(t, "http://"+api+"/health/ready", c.exited, &c.log); status != http.StatusOK {
		t.Fatalf("/health/ready responds with %d\n%s", status, &c.log)
	}
	if out, err := c.runc("exec", c.id, "/server", "health", "--config", "/etc/app/config.yaml").CombinedOutput(); err != nil {
		t.Errorf("the health check of the image failed: %v\n%s", err, out)
	}
	body := `{"customer_id":"c-1","currency":"EUR","items":[{"sku":"book","quantity":2,"unit_price":1250}]}`
	resp, err := http.Post("http://"+api+"/api/orders", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		t.Errorf("the response to an order is %s", resp.Status)
	}
}

// onlyImage returns the image in an OCI layout with one platform.
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

// extract writes the file system of an image to a folder.
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

// wantStatic checks that an executable is statically linked and stripped: without an
// interpreter, imported libraries and symbols.
func wantStatic(t *testing.T, path string) {
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

// writeSpec writes a config.json like that of a kubelet for the image with a restricted
// security context (https://github.com/opencontainers/runtime-spec).
func writeSpec(t *testing.T, bundle string, c v1.Config, settings string, env []string) {
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

// waitUntilReady requests the URL until the response has status 200 or a minute has passed,
// and returns the last status. The test fails if the service exits.
func waitUntilReady(t *testing.T, url string, exited <-chan error, log *bytes.Buffer) int {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	status := 0
	for {
		select {
		case err := <-exited:
			t.Fatalf("the service exited: %v\n%s", err, log)
		case <-deadline.C:
			return status
		case <-ticker.C:
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

// TestForward checks that --forward redirects connections to a port of the loopback
// address, and that the name of the image does not change.
func TestForward(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, helloApp()))
	host := testkit.Registry(t)
	const unused = "127.0.0.1:9" // no server listens on this port
	r := p.report(t, "publish", "--repository", unused+"/hello", "--forward", "9="+host)
	if !strings.HasPrefix(r.Reference, unused+"/hello@sha256:") {
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
