//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// backing is the namespace of the backing services.
const backing = "backing"

// service is a backing service. Its program comes from the distribution of this
// machine; devcluster builds an image of it.
type service struct {
	name string
	// pkg is the Debian package that contains the program.
	pkg  string
	port int
	// find returns the path of the program on this machine.
	find func() (string, error)
	// files returns the files that the program needs in its image.
	files func(ctx context.Context, program string) ([]file, error)
	// command returns the entrypoint of the image.
	command func(program string) []string
	// version matches the version, as its first group, in what the program
	// prints with the flag --version.
	version *regexp.Regexp
}

func services() []service {
	return []service{
		{
			name: "postgres", pkg: "postgresql", port: 5432,
			find: findPostgres, files: postgresFiles,
			command: func(program string) []string { return []string{"/pause", "postgres", filepath.Dir(program), "/data"} },
			version: regexp.MustCompile(`\(PostgreSQL\) (\S+)`),
		},
		{
			name: "redis", pkg: "redis-server", port: 6379,
			find:  func() (string, error) { return lookPath("redis-server") },
			files: func(ctx context.Context, program string) ([]file, error) { return withLibraries(ctx, program) },
			command: func(program string) []string {
				return []string{program, "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--dir", "/data"}
			},
			version: regexp.MustCompile(`v=(\S+)`),
		},
	}
}

func serviceNames() []string {
	var names []string
	for _, s := range services() {
		names = append(names, s.name)
	}
	return names
}

// missingServicePackages returns the Debian packages that the named services
// need and that are not installed.
func missingServicePackages(names []string) []string {
	var missing []string
	for _, s := range services() {
		if _, err := s.find(); err != nil && slices.Contains(names, s.name) {
			missing = append(missing, s.pkg)
		}
	}
	return missing
}

// addServices starts the named services that the cluster does not have yet, and
// waits until they accept connections.
func addServices(ctx context.Context, c *Cluster, r *Record, names []string, p progress) error {
	a, err := newAPI(c.Path("pki"), r.Server())
	if err != nil {
		return err
	}
	var added []service
	for _, s := range services() {
		if !slices.Contains(names, s.name) || slices.Contains(r.Services, s.name) {
			continue
		}
		image, err := s.image(ctx, c, r)
		if err != nil {
			return err
		}
		p.say("built the image %s from the package %s of this machine and imported it", image, s.pkg)
		if err := s.apply(ctx, a, image); err != nil {
			return err
		}
		added = append(added, s)
	}
	for _, s := range added {
		err := eventually(ctx, "the service "+s.name+" to accept connections", func(ctx context.Context) error {
			addresses, err := resolver(r.Network).LookupHost(ctx, s.name+"."+backing+".svc.cluster.local.")
			if err != nil {
				return err
			}
			return dials("tcp4", addresses[0]+":"+strconv.Itoa(s.port))(ctx)
		})
		if err != nil {
			return err
		}
		p.say("%s accepts connections at %s.%s:%d", s.name, s.name, backing, s.port)
		r.Services = append(r.Services, s.name)
		if err := c.Write(r); err != nil {
			return err
		}
	}
	return nil
}

// image builds the service's image, imports it into the node and returns its
// name.
func (s service) image(ctx context.Context, c *Cluster, r *Record) (string, error) {
	program, err := s.find()
	if err != nil {
		return "", err
	}
	output, err := exec.CommandContext(ctx, program, "--version").Output()
	match := s.version.FindSubmatch(output)
	if err != nil || match == nil {
		return "", fmt.Errorf("reading the version of %s: it printed %q: %w", program, output, err)
	}
	files, err := s.files(ctx, program)
	if err != nil {
		return "", err
	}
	pause, err := os.ReadFile(filepath.Join(r.Programs, "pause"))
	if err != nil {
		return "", fmt.Errorf("reading the program of an image: %w", err)
	}
	files = append(files,
		file{path: "/pause", mode: 0o755, data: pause},
		file{path: "/data", mode: 0o777, dir: true},
		file{path: "/tmp", mode: 0o1777, dir: true},
		file{path: "/etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/:/bin/false\n" + s.name + ":x:10001:10001::/data:/bin/false\n")},
		file{path: "/etc/group", mode: 0o644, data: []byte("root:x:0:\n" + s.name + ":x:10001:\n")})
	image, err := newImage(files, v1.Config{Entrypoint: s.command(program), User: "10001:10001", WorkingDir: "/data"})
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("devcluster.local/%s:%s", s.name, match[1])
	return name, importImage(ctx, c, r, name, image)
}

// apply creates the service's objects and their namespace. The namespace enforces
// the Pod Security Standard restricted.
func (s service) apply(ctx context.Context, a *api, image string) error {
	err := a.create(ctx, "/api/v1/namespaces", object{"metadata": object{
		"name": backing, "labels": object{"pod-security.kubernetes.io/enforce": "restricted"},
	}})
	if err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	err = eventually(ctx, "the service account of the namespace "+backing, func(ctx context.Context) error {
		return a.do(ctx, http.MethodGet, "/api/v1/namespaces/"+backing+"/serviceaccounts/default", nil, nil)
	})
	if err != nil {
		return err
	}
	labels := object{"app": s.name}
	meta := object{"name": s.name, "namespace": backing, "labels": labels}
	err = a.create(ctx, "/api/v1/namespaces/"+backing+"/services", object{"metadata": meta, "spec": object{
		"selector": labels, "ports": []object{{"port": s.port, "targetPort": s.port}},
	}})
	if err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	err = a.create(ctx, "/apis/apps/v1/namespaces/"+backing+"/deployments", object{"metadata": meta, "spec": object{
		"replicas": 1, "selector": object{"matchLabels": labels},
		"strategy": object{"type": "Recreate"},
		"template": object{"metadata": object{"labels": labels}, "spec": s.podSpec(image)},
	}})
	if err != nil {
		return fmt.Errorf("starting %s: %w", s.name, err)
	}
	return nil
}

// podSpec returns a pod that meets the Pod Security Standard restricted.
func (s service) podSpec(image string) object {
	return object{
		"automountServiceAccountToken": false,
		"enableServiceLinks":           false,
		"securityContext": object{
			"runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
			"seccompProfile": object{"type": "RuntimeDefault"},
		},
		"containers": []object{{
			"name": s.name, "image": image, "imagePullPolicy": "Never",
			"ports":          []object{{"containerPort": s.port}},
			"readinessProbe": object{"tcpSocket": object{"port": s.port}, "periodSeconds": 1, "failureThreshold": 60},
			"securityContext": object{
				"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
				"capabilities": object{"drop": []string{"ALL"}},
			},
			"volumeMounts": []object{{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}},
		}},
		"volumes": []object{{"name": "data", "emptyDir": object{}}, {"name": "tmp", "emptyDir": object{}}},
	}
}

// findPostgres returns the newest PostgreSQL server that is installed. Debian does
// not install it in a directory of PATH.
func findPostgres() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("found no PostgreSQL server in /usr/lib/postgresql")
	}
	return slices.MaxFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) }), nil
}

func postgresVersion(program string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(program))))
	return n
}

// postgresFiles returns the files that the server needs: programs, modules,
// libraries, share files and time zones.
func postgresFiles(ctx context.Context, program string) ([]file, error) {
	bin := filepath.Dir(program)
	root := filepath.Dir(bin)
	// initdb starts the server through a shell.
	programs := []string{program, filepath.Join(bin, "initdb"), "/bin/sh"}
	modules, err := filepath.Glob(filepath.Join(root, "lib", "*.so"))
	if err != nil {
		return nil, fmt.Errorf("listing PostgreSQL's modules: %w", err)
	}
	for _, module := range modules {
		// The JIT compiler is optional, and LLVM is larger than everything else.
		if filepath.Base(module) != "llvmjit.so" {
			programs = append(programs, module)
		}
	}
	files, err := withLibraries(ctx, programs...)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join("/usr/share/postgresql", filepath.Base(root)), "/usr/share/zoneinfo"} {
		found, err := dataFiles(dir)
		if err != nil {
			return nil, fmt.Errorf("collecting PostgreSQL's files: %w", err)
		}
		files = append(files, found...)
	}
	return files, nil
}

// dataFiles returns all files in the directory except manual pages.
func dataFiles(dir string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "man":
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		// Some of Debian's symbolic links have no target and cannot be read.
		if data, err := os.ReadFile(path); err == nil { //nolint:gosec // only root can write to these directories
			files = append(files, file{path: path, mode: 0o644, data: data})
		}
		return nil
	})
	return files, err
}

// library matches a line that ldd prints: "name => path (address)" or, for the
// dynamic loader, "path (address)".
var library = regexp.MustCompile(`(?m)^\t(?:\S+ => )?(/\S+) \(0x`)

// withLibraries returns the programs and all libraries that they need, each at
// the path at which the dynamic loader looks for it.
func withLibraries(ctx context.Context, programs ...string) ([]file, error) {
	var files []file
	seen := map[string]bool{}
	add := func(path string) error {
		if seen[path] {
			return nil
		}
		seen[path] = true
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("collecting an image's files: %w", err)
		}
		files = append(files, file{path: path, mode: 0o755, data: data})
		return nil
	}
	for _, program := range programs {
		if err := add(program); err != nil {
			return nil, err
		}
	}
	output, err := exec.CommandContext(ctx, "ldd", programs...).Output()
	if err != nil {
		return nil, fmt.Errorf("listing the libraries of %s with ldd: %w", programs[0], err)
	}
	if bytes.Contains(output, []byte("not found")) {
		return nil, fmt.Errorf("libraries of %s are missing on this machine:\n%s", programs[0], output)
	}
	for _, match := range library.FindAllSubmatch(output, -1) {
		if err := add(string(match[1])); err != nil {
			return nil, err
		}
	}
	return files, nil
}
