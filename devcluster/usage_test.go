//go:build linux

package main

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A mistake of the caller leads to a message of one line and exit code 2.
func TestUsageErrors(t *testing.T) {
	state := t.TempDir()
	file := filepath.Join(t.TempDir(), "go.mod")
	if err := os.WriteFile(file, []byte("module other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"unknown command":      {"upp"},
		"must be at most 40":   {"up", "--name", "Not_A_Name"},
		"127.0.0.1:PORT":       {"up", "--registry", "ghcr.io"},
		"use another one":      {"up", "--registry", "127.0.0.1:6443"},
		"must be text or json": {"status", "-o", "yaml"},
		"takes no arguments":   {"down", "cluster"},
		"no service":           {"up", "--services", "mysql"},
		"--listen":             {"up", "--listen", "everywhere"},
		"takes one image":      {"load"},
		"unknown flag":         {"up", "--nodes", "3"},
		"first process":        {"init"},
	} {
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), append(args, "--state-dir", state), &stdout, &stderr)
		if code != 2 || !strings.Contains(stderr.String(), want) || strings.Count(stderr.String(), "\n") > 2 || stdout.Len() > 0 {
			t.Errorf("%q: exit code %d, %q\n%s", args, code, stdout.String(), stderr.String())
		}
	}
	if _, err := findSource(filepath.Dir(file)); err == nil || !strings.Contains(err.Error(), "does not require k8s.io/kubernetes") {
		t.Errorf("a directory of another module: %v", err)
	}
}

func TestNoClusterIsNoError(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("devcluster down must run as root")
	}
	state := t.TempDir()
	for args, want := range map[string]int{"status": 0, "down": 0, "down --all": 0, "kubeconfig": 1, "load x": 1} {
		var stdout, stderr bytes.Buffer
		if code := execute(t.Context(), append(strings.Fields(args), "--state-dir", state), &stdout, &stderr); code != want {
			t.Errorf("%s: exit code %d\n%s", args, code, stderr.String())
		}
	}
	if entries, err := os.ReadDir(state); err != nil || len(entries) > 0 {
		t.Errorf("the state directory contains %v: %v", entries, err)
	}
}

// The kernel reuses process IDs, so the start time is part of the identity.
func TestProcessIdentity(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !self.Alive() {
		t.Error("this process is not alive")
	}
	other := self
	other.Start++
	if other.Alive() {
		t.Error("a process with another start time is alive")
	}
	if err := other.Stop(time.Second); err != nil { // must not stop this one
		t.Error(err)
	}
}

func TestNetworksDoNotOverlap(t *testing.T) {
	var all []netip.Prefix
	for i := range 256 {
		n := network(byte(i))
		if !n.Link.Contains(n.Host) || !n.Link.Contains(n.Node) || !n.Services.Contains(n.DNS()) {
			t.Errorf("network %d: %+v", i, n)
		}
		all = append(all, n.Link, n.Pods, n.Services)
	}
	for i, a := range all {
		for _, b := range all[i+1:] {
			if a.Overlaps(b) {
				t.Fatalf("%s overlaps %s", a, b)
			}
		}
	}
}
