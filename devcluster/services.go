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

// backing is the namespace of the services.
const backing = "backing"

// service is one of --services: a program of this machine's distribution in
// an image made here.
type service struct {
	name    string
	pkg     string // the Debian package it comes from
	port    int
	find    func() (string, error) // the program
	files   func(program string) ([]file, error)
	command func(program string) []string
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
			files: func(program string) ([]file, error) { return withLibraries(program) },
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

// missingServicePackages names the Debian packages the services lack.
func missingServicePackages(names []string) []string {
	var missing []string
	for _, s := range services() {
		if _, err := s.find(); err != nil && slices.Contains(names, s.name) {
			missing = append(missing, s.pkg)
		}
	}
	return missing
}

// addServices starts the services the cluster does not have yet, and waits
// until they take connections.
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
		p.say("image %s is made of this machine's %s and imported", image, s.pkg)
		if err := s.apply(ctx, a, image); err != nil {
			return err
		}
		added = append(added, s)
	}
	for _, s := range added {
		err := eventually(ctx, "service "+s.name, func(ctx context.Context) error {
			addresses, err := resolver(r.Network).LookupHost(ctx, s.name+"."+backing+".svc.cluster.local.")
			if err != nil {
				return err
			}
			return dials("tcp4", addresses[0]+":"+strconv.Itoa(s.port))(ctx)
		})
		if err != nil {
			return err
		}
		p.say("%s takes connections at %s.%s:%d", s.name, s.name, backing, s.port)
		r.Services = append(r.Services, s.name)
		if err := c.Write(r); err != nil {
			return err
		}
	}
	return nil
}

// image makes the service's image and imports it.
func (s service) image(ctx context.Context, c *Cluster, r *Record) (string, error) {
	program, err := s.find()
	if err != nil {
		return "", err
	}
	output, err := exec.CommandContext(ctx, program, "--version").Output()
	match := s.version.FindSubmatch(output)
	if err != nil || match == nil {
		return "", fmt.Errorf("asking %s for its version: it said %q: %w", program, output, err)
	}
	files, err := s.files(program)
	if err != nil {
		return "", err
	}
	pause, err := os.ReadFile(filepath.Join(r.Programs, "pause"))
	if err != nil {
		return "", fmt.Errorf("reading an image's program: %w", err)
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

// apply makes the service's objects; they meet the restricted Pod Security
// standard, and their namespace enforces it.
func (s service) apply(ctx context.Context, a *api, image string) error {
	labels := object{"app": s.name}
	meta := object{"name": s.name, "namespace": backing, "labels": labels}
	probe := object{"tcpSocket": object{"port": s.port}, "periodSeconds": 1, "failureThreshold": 60}
	for _, one := range []struct {
		path   string
		object object
	}{
		{"/api/v1/namespaces", object{"metadata": object{
			"name": backing, "labels": object{"pod-security.kubernetes.io/enforce": "restricted"},
		}}},
		{"/api/v1/namespaces/" + backing + "/services", object{"metadata": meta, "spec": object{
			"selector": labels, "ports": []object{{"port": s.port, "targetPort": s.port}},
		}}},
		{"/apis/apps/v1/namespaces/" + backing + "/deployments", object{"metadata": meta, "spec": object{
			"replicas": 1, "selector": object{"matchLabels": labels},
			"strategy": object{"type": "Recreate"},
			"template": object{"metadata": object{"labels": labels}, "spec": object{
				"automountServiceAccountToken": false,
				"enableServiceLinks":           false,
				"securityContext": object{
					"runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
					"seccompProfile": object{"type": "RuntimeDefault"},
				},
				"containers": []object{{
					"name": s.name, "image": image, "imagePullPolicy": "Never",
					"ports":          []object{{"containerPort": s.port}},
					"readinessProbe": probe,
					"securityContext": object{
						"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
						"capabilities": object{"drop": []string{"ALL"}},
					},
					"volumeMounts": []object{{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}},
				}},
				"volumes": []object{{"name": "data", "emptyDir": object{}}, {"name": "tmp", "emptyDir": object{}}},
			}},
		}}},
	} {
		if err := a.create(ctx, one.path, one.object); err != nil {
			return fmt.Errorf("starting %s: %w", s.name, err)
		}
		if one.path == "/api/v1/namespaces" {
			err := eventually(ctx, "the namespace "+backing, func(ctx context.Context) error {
				return a.do(ctx, http.MethodGet, "/api/v1/namespaces/"+backing+"/serviceaccounts/default", nil, nil)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// findPostgres takes the newest server installed; it is on nobody's path.
func findPostgres() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.New("no PostgreSQL server below /usr/lib/postgresql")
	}
	return slices.MaxFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) }), nil
}

func postgresVersion(program string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(program))))
	return n
}

func postgresFiles(program string) ([]file, error) {
	bin := filepath.Dir(program)
	root := filepath.Dir(bin)
	// initdb starts the server through a shell.
	programs := []string{program, filepath.Join(bin, "initdb"), "/bin/sh"}
	modules, err := filepath.Glob(filepath.Join(root, "lib", "*.so"))
	if err != nil {
		return nil, fmt.Errorf("listing PostgreSQL's modules: %w", err)
	}
	for _, module := range modules {
		// LLVM is larger than all the rest, and only ever an optimization.
		if filepath.Base(module) != "llvmjit.so" {
			programs = append(programs, module)
		}
	}
	files, err := withLibraries(programs...)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{filepath.Join("/usr/share/postgresql", filepath.Base(root)), "/usr/share/zoneinfo"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() {
				if entry.Name() == "man" {
					return fs.SkipDir
				}
				return nil
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil // a link that leads nowhere, as Debian has a few
			}
			files = append(files, file{path: path, mode: 0o644, data: data})
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("collecting PostgreSQL's files: %w", err)
		}
	}
	return files, nil
}

// library is a line of ldd's: either "name => path (address)" or, for the
// loader, "path (address)".
var library = regexp.MustCompile(`(?m)^\t(?:\S+ => )?(/\S+) \(0x`)

// withLibraries collects the programs and every library ldd names, each at
// the path it is asked for by.
func withLibraries(programs ...string) ([]file, error) {
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
	output, err := exec.Command("ldd", programs...).Output()
	if err != nil {
		return nil, fmt.Errorf("asking ldd for the libraries of %s: %w", programs[0], err)
	}
	if bytes.Contains(output, []byte("not found")) {
		return nil, fmt.Errorf("%s lacks libraries on this machine:\n%s", programs[0], output)
	}
	for _, match := range library.FindAllSubmatch(output, -1) {
		if err := add(string(match[1])); err != nil {
			return nil, err
		}
	}
	return files, nil
}
