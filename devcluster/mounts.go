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

// Paths inside the node.
const (
	insideState      = "/run/devcluster"
	containerdSocket = "/run/containerd/containerd.sock"
)

// nodeDirs returns the subdirectories of the state directory that are mounted
// in the node, each with the path where the servers expect it.
func nodeDirs() map[string]string {
	return map[string]string{
		"kubelet":    "/var/lib/kubelet",
		"containerd": "/var/lib/containerd",
		"cni":        "/var/lib/cni",
		"etcd":       "/var/lib/etcd",
	}
}

// wantedSettings returns the kernel settings that the kubelet requires. It would
// change them for the whole machine, so devcluster mounts a file with the
// required value over each of them.
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

// mountNode sets up the mount namespace of the calling process for the node.
// Everything that the servers write goes to a tmpfs or to the state directory.
// The host sees none of these mounts.
func mountNode(c *Cluster, programs string) error {
	m := &mounter{}
	// The host's mounts become read-only here, and mounts no longer propagate
	// between this namespace and the host.
	m.attributes("/", unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE})
	if err := m.mountTemporary(c, programs); err != nil {
		return err
	}
	m.mountProc()
	m.mountSys()
	m.mountData()
	// Mounts propagate within the node, so that the kubelet can pass mounts to
	// the containers that ask for them. This must come last: otherwise unmounting
	// a directory above would also unmount its copies.
	m.mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
	return m.err
}

// mountTemporary mounts the tmpfs of /run and /tmp, and in /run the state
// directory and the programs.
func (m *mounter) mountTemporary(c *Cluster, programs string) error {
	// The tmpfs may cover these directories themselves, so they are opened
	// first and then mounted by file descriptor.
	held := map[string]*os.File{}
	for target, source := range map[string]string{insideState: c.Dir, insideBin: programs} {
		dir, err := os.Open(source)
		if err != nil {
			return fmt.Errorf("opening a directory for the node: %w", err)
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
	m.attributes(insideState, writable())
	return nil
}

// mountProc mounts the /proc of the node's process namespace. Kernel settings
// apply to the whole machine, so neither the kubelet nor privileged pods may
// change them. The network settings belong to the node's network namespace and
// stay writable.
func (m *mounter) mountProc() {
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
	m.unmount("/run/proc-net")
}

// mountSys mounts a new /sys, which shows the interfaces of the network
// namespace in which it is mounted. The cgroup hierarchies stay writable.
func (m *mounter) mountSys() {
	m.mkdir("/run/cgroup")
	m.mount("/sys/fs/cgroup", "/run/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	m.attributes("/run/cgroup", writable())
	m.mount("sysfs", "/sys", "sysfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.mount("/run/cgroup", "/sys/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, "")
	m.unmount("/run/cgroup")
}

// mountData mounts the directories that outlive a restart of a server. They are
// mounted in an overlay of /var/lib, because the mount points must not be
// created in the host's /var/lib.
func (m *mounter) mountData() {
	for _, dir := range []string{"/run/var-lib/upper", "/run/var-lib/work"} {
		m.mkdir(dir)
	}
	m.mount("overlay", "/var/lib", "overlay", 0, "lowerdir=/var/lib,upperdir=/run/var-lib/upper,workdir=/run/var-lib/work")
	for dir, target := range nodeDirs() {
		m.mkdir(target)
		m.mount(filepath.Join(insideState, dir), target, "", unix.MS_BIND, "")
	}
	m.mount(filepath.Join(insideState, "log"), "/var/log", "", unix.MS_BIND, "")
}

func writable() unix.MountAttr {
	return unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
}

// mounter performs a sequence of mount operations. After the first error it
// performs no more of them.
type mounter struct{ err error }

func (m *mounter) mount(source, target, kind string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		m.err = fmt.Errorf("mounting %s for the node: %w; in a container, devcluster needs permission to mount file systems (CAP_SYS_ADMIN)", target, err)
	}
}

// attributes changes the attributes of the mount at target and of all mounts
// below it.
func (m *mounter) attributes(target string, change unix.MountAttr) {
	if m.err != nil {
		return
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &change); err != nil {
		m.err = fmt.Errorf("changing the attributes of the node's mounts at %s: %w; this needs Linux 5.12 or later and permission to mount file systems (CAP_SYS_ADMIN)", target, err)
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

// snapshotter returns the name of the containerd snapshotter that works in the
// directory. In a container the directory may be on an overlayfs, and one
// overlayfs cannot be the upper directory of another.
func snapshotter(dir string) string {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err == nil && s.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

const cgroupRoot = "/sys/fs/cgroup"

// hierarchies returns the mount points of the cgroup hierarchies. Version 1 has
// one hierarchy for each controller; version 2 has a single, unified one.
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
		// Symbolic links such as cpu lead to a directory that is also listed.
		if entry.IsDir() {
			dirs = append(dirs, filepath.Join(cgroupRoot, entry.Name()))
		}
	}
	return dirs, false, nil
}

// makeCgroups creates the parent cgroup of the cluster's pods. The kubelet
// expects it to exist in every hierarchy.
func makeCgroups(c *Cluster) error {
	dirs, unified, err := hierarchies()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if unified {
			for _, controller := range []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb"} {
				// Not every kernel has every controller. If a required one is
				// missing, the kubelet reports it.
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0)
			}
		}
		if err := os.MkdirAll(filepath.Join(dir, c.Cgroup()), 0o755); err != nil {
			return fmt.Errorf("creating the cluster's cgroup: %w", err)
		}
	}
	return nil
}

// removeCgroups removes the cluster's cgroups. It retries for ten seconds,
// because a cgroup can stay busy for a moment after its last process has ended.
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

// removeTree removes a cgroup and its descendants, the innermost first.
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

// unmountBelow unmounts everything that is mounted below the directory in the
// host's mount namespace. The node's mounts are not visible there, so normally
// there is nothing to unmount. It ensures that the deletion that follows does
// not delete files of another file system.
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
