//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// checkRegistries validates the values of --registry.
func checkRegistries(registries []string) error {
	for _, registry := range registries {
		host, port, err := net.SplitHostPort(registry)
		n, perr := strconv.ParseUint(port, 10, 16)
		if err != nil || perr != nil || n == 0 || host != "127.0.0.1" {
			return usageError{fmt.Errorf("invalid value %q for --registry: it must have the form 127.0.0.1:PORT, because the registry must run on this machine", registry)}
		}
		if slices.Contains([]uint64{2379, 2380, 6443, 10248, 10249, 10256, 10257, 10259, 8181}, n) {
			return usageError{fmt.Errorf("invalid value %q for --registry: a server of the node listens on this port; use another one", registry)}
		}
	}
	return nil
}

// checkMachine checks that this machine can run a cluster with the services. The
// error lists everything that is missing, and how to install it. checkMachine
// returns the version of containerd.
func checkMachine(ctx context.Context, services []string) (containerd string, err error) {
	if os.Geteuid() != 0 {
		return "", usageError{errors.New("devcluster creates namespaces, mounts and a network interface: run it as root")}
	}
	var missing []string
	need := func(program, pkg string) {
		if _, err := lookPath(program); err != nil && !slices.Contains(missing, pkg) {
			missing = append(missing, pkg)
		}
	}
	need("containerd", "containerd")
	need("ctr", "containerd")
	need("runc", "runc")
	need("iptables", "iptables")
	need("mount", "mount")
	if _, err := pluginDir(); err != nil {
		missing = append(missing, "containernetworking-plugins")
	}
	missing = append(missing, missingServicePackages(services)...)
	if len(missing) > 0 {
		return "", usageError{fmt.Errorf("this machine lacks required packages; to install them, run as root: apt-get install -y %s", strings.Join(missing, " "))}
	}
	program, err := lookPath("containerd")
	if err != nil {
		return "", err
	}
	output, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("reading the version of containerd: %w", err)
	}
	for field := range strings.FieldsSeq(string(output)) {
		if v := strings.TrimPrefix(field, "v"); v != "" && v[0] >= '0' && v[0] <= '9' {
			return "v" + v, nil
		}
	}
	return strings.TrimSpace(string(output)), nil
}

// lookPath returns the path of a program. It searches the PATH of the node, not
// the PATH of the user.
func lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(searchPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("found no program %s in %s: %w", name, searchPath, exec.ErrNotFound)
}
