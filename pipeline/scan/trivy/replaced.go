package trivy

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/aquasecurity/trivy/pkg/dependency"
	ftypes "github.com/aquasecurity/trivy/pkg/fanal/types"
	"github.com/aquasecurity/trivy/pkg/purl"
	"github.com/aquasecurity/trivy/pkg/types"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/slipway-ci/slipway/pipeline/scan"
)

// nameReplaced gives the modules that a Go program takes from a folder, by a replace
// directive of go.mod, their own names. Trivy names them after the folder, for example
// ../lib, which is no package URL and differs from machine to machine if the path is
// absolute.
//
// They have no version, because go.mod's requirement does not say what is in the folder.
func nameReplaced(ctx context.Context, report *types.Report, t scan.Target, maxBytes int64) error {
	programs := map[string]*types.Result{}
	for i, r := range report.Results {
		for _, p := range r.Packages {
			if r.Type == ftypes.GoBinary && localPath(p.Name) {
				programs[path.Clean("/"+r.Target)] = &report.Results[i]
			}
		}
	}
	if len(programs) == 0 {
		return nil
	}
	files := mutate.Extract(t.Image)
	defer files.Close()
	for archive := tar.NewReader(files); len(programs) > 0 && ctx.Err() == nil; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the programs in %s: %w", t.Name, err)
		}
		name := path.Clean("/" + h.Name)
		result, ok := programs[name]
		if !ok {
			continue
		}
		delete(programs, name)
		data, err := io.ReadAll(io.LimitReader(archive, maxBytes))
		if err != nil {
			return fmt.Errorf("reading %s in %s: %w", name, t.Name, err)
		}
		info, err := buildinfo.Read(bytes.NewReader(data))
		if err != nil {
			return fmt.Errorf("reading the modules of %s in %s: %w", name, t.Name, err)
		}
		modules := map[string]string{} // by the path that replaces them
		for _, m := range info.Deps {
			if m.Replace != nil {
				modules[m.Replace.Path] = m.Path
			}
		}
		rename(result, modules)
	}
	return ctx.Err()
}

// rename gives the packages of a Go program the names of their modules, which are given by
// the local path that replaces them.
func rename(r *types.Result, modules map[string]string) {
	ids := map[string]string{}
	r.Packages = slices.Clone(r.Packages) // Trivy's cache has the same slice
	for i := range r.Packages {
		p := &r.Packages[i]
		module, ok := modules[p.Name]
		if !ok || !localPath(p.Name) {
			continue
		}
		id := dependency.ID(ftypes.GoBinary, module, p.Version)
		ids[p.ID] = id
		p.ID, p.Name = id, module
		if url, err := purl.New(ftypes.GoBinary, types.Metadata{}, *p); err == nil && url != nil {
			p.Identifier.PURL = url.Unwrap()
		}
		p.Identifier.UID = ""
		p.Identifier.UID = dependency.UID(r.Target, *p)
	}
	for i := range r.Packages {
		p := &r.Packages[i]
		p.DependsOn = slices.Clone(p.DependsOn)
		for j, id := range p.DependsOn {
			p.DependsOn[j] = cmp.Or(ids[id], id)
		}
	}
	slices.SortFunc(r.Packages, func(a, b ftypes.Package) int { return strings.Compare(a.ID, b.ID) })
}

// localPath reports whether the path of a module that replaces another is that of a
// folder (https://go.dev/ref/mod#go-mod-file-replace).
func localPath(p string) bool {
	return p == "." || p == ".." || strings.HasPrefix(p, "./") || strings.HasPrefix(p, "../") ||
		strings.HasPrefix(p, "/") || strings.Contains(p, `\`) // of a program built on Windows
}
