//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// trace returns everything of a cluster that exists on the host.
func trace(t *testing.T, c *Cluster, namespace string) (left []string) {
	t.Helper()
	for _, pid := range members(t, namespace) {
		name, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		left = append(left, fmt.Sprintf("process %d %s", pid, name))
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if link.Attrs().Name == c.Link() {
			left = append(left, "interface "+c.Link())
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), c.Dir) {
		left = append(left, "mounts")
	}
	for _, pattern := range []string{cgroupRoot + c.Cgroup(), cgroupRoot + "/*" + c.Cgroup(), c.Dir} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

// namespaceOf returns the process namespace of the node. The namespace is held
// open until the test ends, because otherwise the kernel could reuse its number.
func (b *bench) namespaceOf(t *testing.T, c *Cluster) string {
	t.Helper()
	r, err := c.Record()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/pid", r.Init.PID)
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	b.t.Cleanup(func() { held.Close() })
	namespace, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return namespace
}

// members returns the IDs of the processes in a process namespace.
func members(t *testing.T, namespace string) (pids []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		if now, err := os.Readlink(path); err == nil && now == namespace {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// settings returns the kernel settings that a kubelet would change.
func settings(t *testing.T) string {
	t.Helper()
	var all []string
	for name := range wantedSettings() {
		data, err := os.ReadFile(filepath.Join("/proc/sys", name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, name+" "+strings.TrimSpace(string(data)))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}
