//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

// source is the module the node's programs are built from.
type source struct {
	dir      string
	versions Versions
	hash     string
}

// findSource uses the folder given, or looks for devcluster/go.mod at or
// above the working directory.
func findSource(given string) (*source, error) {
	dir := given
	if dir == "" {
		at, err := os.Getwd()
		if err != nil {
			return nil, fmt.Errorf("finding the working directory: %w", err)
		}
		for ; ; at = filepath.Dir(at) {
			dir = filepath.Join(at, "devcluster")
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				break
			}
			// Or the working directory is that folder, or lies in it.
			if filepath.Base(at) == "devcluster" {
				if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
					dir = at
					break
				}
			}
			if at == filepath.Dir(at) {
				return nil, usageError{errors.New("no devcluster/go.mod at or above the working directory; name the module's folder with --source")}
			}
		}
	}
	s := &source{dir: dir}
	path := filepath.Join(dir, "go.mod")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, usageError{fmt.Errorf("reading the module to build the node from: %w", err)}
	}
	mod, err := modfile.Parse(path, data, nil)
	if err != nil {
		return nil, usageError{fmt.Errorf("reading the module to build the node from: %w", err)}
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
		return nil, usageError{fmt.Errorf("%s does not require k8s.io/kubernetes: is it devcluster's own?", path)}
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH)
	files := []string{path, filepath.Join(dir, "go.sum")}
	for _, pattern := range []string{"node/*.go", "pause/*.go"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, fmt.Errorf("listing the node's sources: %w", err)
		}
		slices.Sort(found)
		files = append(files, found...)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading the node's sources: %w", err)
		}
		fmt.Fprintln(h, filepath.Base(file), len(data))
		h.Write(data)
	}
	s.hash = fmt.Sprintf("%x", h.Sum(nil))[:16]
	return s, nil
}

// programs builds node and pause into the folder bin unless they are there,
// and returns where they lie. It is the only slow part of a first up.
func (s *source) programs(ctx context.Context, bin string, say func(string, ...any)) (string, error) {
	dir := filepath.Join(bin, s.hash)
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("making the cache of programs: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(bin, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", fmt.Errorf("locking the cache of programs: %w", err)
	}
	defer lock.Close()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for told := false; ; told = true {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return "", fmt.Errorf("locking the cache of programs: %w", err)
		}
		if !told {
			say("another devcluster builds the node's programs; waiting for it")
		}
		select {
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-tick.C:
		}
	}
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	// Left by builds that were killed; this one holds the lock.
	if killed, err := filepath.Glob(filepath.Join(bin, ".building-*")); err == nil {
		for _, dir := range killed {
			if err := os.RemoveAll(dir); err != nil {
				return "", fmt.Errorf("cleaning the cache of programs: %w", err)
			}
		}
	}
	temp, err := os.MkdirTemp(bin, ".building-")
	if err != nil {
		return "", fmt.Errorf("making the cache of programs: %w", err)
	}
	defer os.RemoveAll(temp)
	say("building Kubernetes %s, etcd %s and CoreDNS %s from source, once (minutes on a machine that never did)", s.versions.Kubernetes, s.versions.Etcd, s.versions.CoreDNS)
	began := time.Now()
	if err := s.build(ctx, temp, say); err != nil {
		return "", err
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return "", fmt.Errorf("keeping the programs: %w", err)
	}
	if err := os.Rename(temp, dir); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("keeping the programs: %w", err)
	}
	say("built in %s", time.Since(began).Round(100*time.Millisecond))
	return dir, nil
}

func (s *source) build(ctx context.Context, into string, say func(string, ...any)) error {
	v := s.versions.Kubernetes
	major, rest, _ := strings.Cut(strings.TrimPrefix(v, "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	// What a release's own build stamps in: the API server refuses to serve,
	// and clients to speak, a version of 0.0.
	flags := "-s -w"
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		flags += fmt.Sprintf(" -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s", pkg, v, major, minor)
	}
	command := exec.CommandContext(ctx, "go", "build", "-v", "-buildvcs=false", "-ldflags", flags, "-o", into+string(filepath.Separator), "./node", "./pause")
	command.Dir = s.dir
	command.Env = append(os.Environ(), "GOFLAGS=-trimpath", "GOEXPERIMENT=jsonv2", "CGO_ENABLED=0", "GOWORK=off")
	// So that an interrupt ends the compilers with the command.
	command.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return unix.Kill(-command.Process.Pid, unix.SIGTERM) }
	command.WaitDelay = 5 * time.Second
	output, err := command.StderrPipe()
	if err != nil {
		return fmt.Errorf("building the node: %w", err)
	}
	if err := command.Start(); err != nil {
		return fmt.Errorf("building the node (it needs the go command): %w", err)
	}
	var count atomic.Int64
	var current atomic.Value
	current.Store("reading the module")
	finished := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(5 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-finished:
				return
			case <-tick.C:
				say("compiling: %d packages so far; %s", count.Load(), current.Load())
			}
		}
	}()
	// -v prints a line for every package it compiles; anything else is about
	// why it could not.
	var other bytes.Buffer
	for lines := bufio.NewScanner(output); lines.Scan(); {
		line := lines.Text()
		switch {
		case strings.HasPrefix(line, "go: downloading "):
			current.Store(strings.TrimPrefix(line, "go: "))
		case !strings.ContainsAny(line, " :\t") && line != "":
			count.Add(1)
			current.Store(line)
		default:
			fmt.Fprintln(&other, line)
		}
	}
	err = command.Wait()
	close(finished)
	<-told
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("building the node from %s: %w\n%s", s.dir, err, strings.TrimSpace(other.String()))
	}
	return nil
}
