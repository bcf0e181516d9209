//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Where things lie inside the node.
const (
	insideState      = "/run/devcluster"
	containerdSocket = "/run/containerd/containerd.sock"
)

// nodeFolders of the state folder become the node's own, at the places the
// servers expect them.
func nodeFolders() map[string]string {
	return map[string]string{
		"kubelet":    "/var/lib/kubelet",
		"containerd": "/var/lib/containerd",
		"cni":        "/var/lib/cni",
		"etcd":       "/var/lib/etcd",
	}
}

// wantedSettings are the kernel settings the kubelet insists on and would
// change for the whole machine. It finds files that say they are so already.
func wantedSettings() map[string]string {
	return map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	}
}

// mountNode turns the fresh mount namespace of the calling process into the
// node's: what the servers write ends up on a tmpfs or in the state folder,
// and nothing of it is visible to the host.
func mountNode(c *Cluster, programs string) error {
	m := &mounter{}
	// Cut off from the host, and nothing of the host's can be written.
	m.attributes("/", unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE})
	writable := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}

	// These folders may themselves lie below one that is about to be covered,
	// so they are held by descriptors.
	held := map[string]*os.File{}
	for target, source := range map[string]string{insideState: c.Dir, insideBin: programs} {
		dir, err := os.Open(source)
		if err != nil {
			return fmt.Errorf("opening a folder for the node: %w", err)
		}
		defer dir.Close()
		held[target] = dir
	}
	m.mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
	m.mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
	for target, dir := range held {
		m.mkdir(target)
		m.mount(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()), target, "", unix.MS_BIND, "")
	}
	m.attributes(insideState, writable)

	// /proc of the new process namespace. Kernel settings are the whole
	// machine's: the kubelet and privileged pods may not change them. Those
	// of the network are the node's own.
	m.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mkdir("/run/proc-net")
	m.mount("/proc/sys/net", "/run/proc-net", "", unix.MS_BIND, "")
	m.mount("/proc/sys", "/proc/sys", "", unix.MS_BIND, "")
	m.mount("", "/proc/sys", "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mount("/run/proc-net", "/proc/sys/net", "", unix.MS_BIND, "")
	for name, value := range wantedSettings() {
		file := filepath.Join("/run/kernel", name)
		m.mkdir(filepath.Dir(file))
		if m.err == nil {
			m.err = os.WriteFile(file, []byte(value+"\n"), 0o644)
		}
		m.mount(file, filepath.Join("/proc/sys", name), "", unix.MS_BIND, "")
	}

	// /sys shows the network interfaces of whoever mounted it.
	m.mkdir("/run/cgroup")
	m.mount("/sys/fs/cgroup", "/run/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	m.attributes("/run/cgroup", writable)
	m.mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mount("/run/cgroup", "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	m.unmount("/run/cgroup")
	m.unmount("/run/proc-net")

	// An overlay lets folders appear in /var/lib without being made on the
	// host's.
	for _, dir := range []string{"/run/var-lib/upper", "/run/var-lib/work"} {
		m.mkdir(dir)
	}
	m.mount("overlay", "/var/lib", "overlay", 0, "lowerdir=/var/lib,upperdir=/run/var-lib/upper,workdir=/run/var-lib/work")
	for folder, target := range nodeFolders() {
		m.mkdir(target)
		m.mount(filepath.Join(insideState, folder), target, "", unix.MS_BIND, "")
	}
	m.mount(filepath.Join(insideState, "log"), "/var/log", "", unix.MS_BIND, "")
	// Shared among the node's own namespaces: the kubelet hands mounts to
	// containers that ask for them. Last, as what is unmounted above would
	// vanish from its copies too.
	m.mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	return m.err
}

// mounter keeps the first failure.
type mounter struct{ err error }

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mounting %s for the node (is this a container without the right to mount?): %w", target, err)
	}
}

// attributes changes the mount and all below it.
func (m *mounter) attributes(target string, change unix.MountAttr) {
	if m.err != nil {
		return
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &change); err != nil {
		m.err = fmt.Errorf("changing the node's mounts at %s (it needs Linux 5.12 and the right to mount): %w", target, err)
	}
}

func (m *mounter) unmount(target string) {
	if m.err != nil {
		return
	}
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
		m.err = fmt.Errorf("unmounting %s: %w", target, err)
	}
}

func (m *mounter) mkdir(dir string) {
	if m.err == nil {
		m.err = os.MkdirAll(dir, 0o755)
	}
}

// snapshotter is how containerd stacks layers in the folder: overlayfs does
// not stack on itself, as it would in a container.
func snapshotter(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err == nil && s.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies are the mount points of the cgroup controllers, each holding a
// tree of its own under version 1; version 2 has a single one.
func hierarchies() (dirs []string, unified bool, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &s); err != nil {
		return nil, false, fmt.Errorf("reading the cgroups: %w", err)
	}
	if s.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupRoot}, true, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, false, fmt.Errorf("reading the cgroups: %w", err)
	}
	for _, entry := range entries {
		// Links such as cpu,cpuacct lead to a directory listed as well.
		if entry.IsDir() {
			dirs = append(dirs, filepath.Join(cgroupRoot, entry.Name()))
		}
	}
	return dirs, false, nil
}

// makeCgroups makes the parent of the cluster's pods; the kubelet wants to
// find it in every hierarchy.
func makeCgroups(c *Cluster) error {
	dirs, unified, err := hierarchies()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if unified {
			for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"} {
				// Which there are differs; the kubelet names one it misses.
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, c.Cgroup()), 0o755); err != nil {
			return fmt.Errorf("making the cluster's cgroup: %w", err)
		}
	}
	return nil
}

// removeCgroups removes the cluster's cgroups from the leaves up. The kernel
// may take a moment to empty them after their last process.
func removeCgroups(c *Cluster) error {
	dirs, _, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		var failed error
		for _, dir := range dirs {
			failed = errors.Join(failed, removeTree(filepath.Join(dir, c.Cgroup())))
		}
		if failed == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("removing the cluster's cgroups: %w", failed)
		case <-tick.C:
		}
	}
}

func removeTree(root string) error {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	sort.Sort(sort.Reverse(sort.StringSlice(dirs)))
	for _, dir := range dirs {
		if rerr := unix.Rmdir(dir); rerr != nil && !errors.Is(rerr, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("%s: %w", dir, rerr))
		}
	}
	return err
}

// unmountBelow detaches what is mounted below the folder on the host. The
// node's own mounts are never there; it guards the removal that follows.
func unmountBelow(dir string) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("reading the mounts: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmounting %s: %w", fields[4], err)
			}
		}
	}
	return nil
}
