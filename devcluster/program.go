//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/sys/unix"
)

// source is the Go module from which the node's programs are built.
type source struct {
	dir      string
	versions Versions
	// hash identifies everything that determines the built programs.
	hash string
}

// findSource reads the module in the given directory, or the nearest devcluster
// module in the working directory or above it if given is empty.
func findSource(given string) (*source, error) {
	dir := given
	if dir == "" {
		var err error
		if dir, err = searchSource(); err != nil {
			return nil, err
		}
	}
	s := &source{dir: dir}
	if err := s.readVersions(); err != nil {
		return nil, err
	}
	return s, s.computeHash()
}

// searchSource returns the directory of the nearest devcluster/go.mod in the
// working directory or above it. The working directory may also be inside the
// module.
func searchSource() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("finding the working directory: %w", err)
	}
	for ; ; at = filepath.Dir(at) {
		dir := filepath.Join(at, "devcluster")
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Base(at) == "devcluster" {
			if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
				return at, nil
			}
		}
		if at == filepath.Dir(at) {
			return "", usageError{errors.New("found no devcluster/go.mod in the working directory or above it; set the directory of devcluster's Go module with --source")}
		}
	}
}

// readVersions reads the versions of Kubernetes, etcd and CoreDNS from go.mod.
func (s *source) readVersions() error {
	path := filepath.Join(s.dir, "go.mod")
	data, err := os.ReadFile(path)
	if err != nil {
		return usageError{fmt.Errorf("reading the Go module of the node: %w", err)}
	}
	mod, err := modfile.Parse(path, data, nil)
	if err != nil {
		return usageError{fmt.Errorf("reading the Go module of the node: %w", err)}
	}
	for _, r := range mod.Require {
		switch r.Mod.Path {
		case "k8s.io/kubernetes":
			s.versions.Kubernetes = r.Mod.Version
		case "go.etcd.io/etcd/server/v3":
			s.versions.Etcd = r.Mod.Version
		case "github.com/coredns/coredns":
			s.versions.CoreDNS = r.Mod.Version
		}
	}
	if s.versions.Kubernetes == "" {
		return usageError{fmt.Errorf("%s does not require k8s.io/kubernetes; --source must be the directory of devcluster's Go module", path)}
	}
	return nil
}

// computeHash computes the hash from the Go version and the module's files.
func (s *source) computeHash() error {
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	files := []string{filepath.Join(s.dir, "go.mod"), filepath.Join(s.dir, "go.sum")}
	for _, pattern := range []string{"node/*.go", "pause/*.go"} {
		found, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			return fmt.Errorf("listing the source files of the node: %w", err)
		}
		slices.Sort(found)
		files = append(files, found...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("reading the source files of the node: %w", err)
		}
		fmt.Fprintln(h, filepath.Base(file), len(data))
		h.Write(data)
	}
	s.hash = hex.EncodeToString(h.Sum(nil))[:16]
	return nil
}

// programs returns the directory of the programs node and pause in the cache
// bin. It builds them if they are not in the cache, which takes minutes.
func (s *source) programs(ctx context.Context, bin string, say func(string, ...any)) (string, error) {
	dir := filepath.Join(bin, s.hash)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	unlock, err := lockPrograms(ctx, bin, say)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// Because of the lock no other build is running, so these directories remain
	// from builds that were killed.
	if killed, err := filepath.Glob(filepath.Join(bin, ".building-*")); err == nil {
		for _, dir := range killed {
			if err := os.RemoveAll(dir); err != nil {
				return "", fmt.Errorf("deleting the remains of an earlier build: %w", err)
			}
		}
	}
	temp, err := os.MkdirTemp(bin, ".building-")
	if err != nil {
		return "", fmt.Errorf("creating the cache of programs: %w", err)
	}
	defer os.RemoveAll(temp)
	say("building Kubernetes %s, etcd %s and CoreDNS %s from source; this happens only once and takes several minutes", s.versions.Kubernetes, s.versions.Etcd, s.versions.CoreDNS)
	began := time.Now()
	if err := s.build(ctx, temp, say); err != nil {
		return "", err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", fmt.Errorf("adding the programs to the cache: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("adding the programs to the cache: %w", err)
	}
	say("built in %s", time.Since(began).Round(100*time.Millisecond))
	return dir, nil
}

// lockPrograms creates the cache of programs if it does not exist, and locks it
// so that only one devcluster at a time builds programs.
func lockPrograms(ctx context.Context, bin string, say func(string, ...any)) (unlock func(), err error) {
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return nil, fmt.Errorf("creating the cache of programs: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(bin, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("locking the cache of programs: %w", err)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { lock.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			lock.Close()
			return nil, fmt.Errorf("locking the cache of programs: %w", err)
		}
		if !told {
			say("waiting for another devcluster that is building the node's programs")
		}
		select {
		case <-ctx.Done():
			lock.Close()
			return nil, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// build builds node and pause into the directory and reports its progress every
// five seconds.
func (s *source) build(ctx context.Context, into string, say func(string, ...any)) error {
	command := s.buildCommand(ctx, into)
	output, err := command.StderrPipe()
	if err != nil {
		return fmt.Errorf("building the node: %w", err)
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("building the node: %w; this needs the go command", err)
	}
	b := &buildOutput{}
	b.current.Store("reading the module")
	stop := b.report(say)
	b.read(output)
	err = command.Wait()
	stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("building the node from %s: %w\n%s", s.dir, err, strings.TrimSpace(b.other.String()))
	}
	return nil
}

func (s *source) buildCommand(ctx context.Context, into string) *exec.Cmd {
	v := s.versions.Kubernetes
	major, rest, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	// The official build sets these variables, too. With the default version 0.0
	// the API server does not serve and clients do not send requests.
	var flags strings.Builder
	flags.WriteString("-s -w")
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&flags, " -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s", pkg, v, major, minor)
	}
	command := exec.CommandContext(ctx, "go", "build", "-v", "-buildvcs=false", "-ldflags", flags.String(), "-o", into+string(filepath.Separator), "./node", "./pause")
	command.Dir = s.dir
	command.Env = append(os.Environ(), "GOFLAGS=-trimpath", "GOEXPERIMENT=jsonv2", "CGO_ENABLED=0", "GOWORK=off")
	// An interrupt stops the compilers as well, which are in the same process
	// group as the go command.
	command.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return unix.Kill(-command.Process.Pid, unix.SIGTERM) }
	command.WaitDelay = 5 * time.Second
	return command
}

// buildOutput collects the output of go build.
type buildOutput struct {
	count   atomic.Int64 // packages compiled so far
	current atomic.Value // string: what go build is doing
	other   bytes.Buffer // error messages
}

// read reads the output of go build -v to its end. For every package that it
// compiles, go build prints one line. Other lines explain why the build failed.
func (b *buildOutput) read(output io.Reader) {
	for lines := bufio.NewScanner(output); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			b.current.Store(strings.TrimPrefix(line, "go: "))
		case !strings.ContainsAny(line, " :\t") && line != "":
			b.count.Add(1)
			b.current.Store(line)
		default:
			fmt.Fprintln(&b.other, line)
		}
	}
}

// report reports the progress of the build until stop is called.
func (b *buildOutput) report(say func(string, ...any)) (stop func()) {
	finished, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return
			case <-tick.C:
				say("compiling: %d packages so far; %s", b.count.Load(), b.current.Load())
			}
		}
	}()
	return func() {
		close(finished)
		<-stopped
	}
}
