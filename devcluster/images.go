//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The annotations that hold the name of an image in an OCI layout: the first is
// specific to containerd, the second is part of the OCI specification.
const (
	containerdName = "io.containerd.image.name"
	layoutName     = "org.opencontainers.image.ref.name"
)

// file is one entry of a layer. It is a directory if dir is set, a symbolic link
// if target is not empty, and a regular file otherwise.
type file struct {
	path   string
	mode   int64
	data   []byte
	target string
	dir    bool
}

// newImage returns an image with one layer that contains the files.
func newImage(files []file, config v1.Config) (v1.Image, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, f := range files {
		header := &tar.Header{Name: strings.TrimPrefix(f.path, "/"), Mode: f.mode, Size: int64(len(f.data)), Typeflag: tar.TypeReg}
		switch {
		case f.dir:
			header.Typeflag, header.Name = tar.TypeDir, header.Name+"/"
		case f.target != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.target
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("creating an image layer: %s: %w", f.path, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("creating an image layer: %s: %w", f.path, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("creating an image layer: %w", err)
	}
	// Compression would not pay off: the layer is written and read only once, on
	// this machine.
	layer := static.NewLayer(archive.Bytes(), types.OCIUncompressedLayer)
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, fmt.Errorf("creating an image: %w", err)
	}
	about, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("creating an image: %w", err)
	}
	about = about.DeepCopy()
	about.OS, about.Architecture, about.Config = "linux", runtime.GOARCH, config
	return mutate.ConfigFile(image, about)
}

// programImage returns an image that contains only the statically linked
// program at path.
func programImage(path string) (v1.Image, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the program of an image: %w", err)
	}
	entry := "/" + filepath.Base(path)
	return newImage([]file{{path: entry, mode: 0o755, data: data}}, v1.Config{Entrypoint: []string{entry}, User: "65535:65535"})
}

func importPause(ctx context.Context, c *Cluster, r *Record) error {
	image, err := programImage(filepath.Join(r.Programs, "pause"))
	if err != nil {
		return err
	}
	return importImage(ctx, c, r, pauseImage, image)
}

// importImage imports an image, or an index of images, into the node's
// containerd under the given name.
func importImage(ctx context.Context, c *Cluster, r *Record, name string, image partial.WithRawManifest) error {
	temp, err := os.MkdirTemp(c.Dir, "import-")
	if err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	defer os.RemoveAll(temp)
	dir := filepath.Join(temp, "layout")
	to, err := layout.Write(dir, empty.Index)
	if err == nil {
		named := layout.WithAnnotations(map[string]string{containerdName: name, layoutName: name})
		switch image := image.(type) {
		case v1.Image:
			err = to.AppendImage(image, named)
		case v1.ImageIndex:
			err = to.AppendIndex(image, named)
		default:
			err = fmt.Errorf("%T is not an image", image)
		}
	}
	if err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	archive := filepath.Join(temp, "image.tar")
	if err := pack(dir, archive); err != nil {
		return fmt.Errorf("importing %s: %w", name, err)
	}
	return importArchive(ctx, c, r, archive)
}

// importArchive imports the archive with containerd's client ctr. The client
// connects to the socket in the node's mount namespace through /proc.
func importArchive(ctx context.Context, c *Cluster, r *Record, archive string) error {
	ctr, err := lookPath("ctr")
	if err != nil {
		return err
	}
	socket := fmt.Sprintf("/proc/%d/root%s", r.Init.PID, containerdSocket)
	command := exec.CommandContext(ctx, ctr, "--address", socket, "--namespace", "k8s.io",
		"images", "import", "--snapshotter", snapshotter(c.Dir), archive)
	output, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("importing %s into the node: %w\n%s", archive, err, bytes.TrimSpace(output))
	}
	return nil
}

// pack writes the contents of the directory to a tar archive.
func pack(dir, archive string) error {
	f, err := os.Create(archive)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = w.AddFS(os.DirFS(dir))
	return errors.Join(err, w.Close(), f.Close())
}

// load loads an image from an OCI layout, an archive or a registry on this
// machine into the node, and returns its name there. An empty as keeps the name
// that the image has in its source.
func load(ctx context.Context, c *Cluster, r *Record, from, as string) (string, error) {
	info, err := os.Stat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return loadRemote(ctx, c, r, from, as)
	case err != nil:
		return "", fmt.Errorf("reading the image: %w", err)
	case info.IsDir():
		return loadLayout(ctx, c, r, from, as)
	}
	return loadArchive(ctx, c, r, from, as)
}

func loadLayout(ctx context.Context, c *Cluster, r *Record, dir, as string) (string, error) {
	from, err := layout.FromPath(dir)
	if err != nil {
		return "", usageError{fmt.Errorf("%s is not an OCI image layout: %w", dir, err)}
	}
	index, err := from.ImageIndex()
	if err != nil {
		return "", fmt.Errorf("reading the layout %s: %w", dir, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return "", fmt.Errorf("reading the layout %s: %w", dir, err)
	}
	if len(manifest.Manifests) != 1 {
		return "", usageError{fmt.Errorf("the layout %s contains %d images, but load takes exactly one", dir, len(manifest.Manifests))}
	}
	one := manifest.Manifests[0]
	for _, annotation := range []string{containerdName, layoutName} {
		if as == "" {
			as = one.Annotations[annotation]
		}
	}
	if as, err = fullName(as); err != nil {
		return "", err
	}
	var image partial.WithRawManifest
	if one.MediaType.IsIndex() {
		image, err = index.ImageIndex(one.Digest)
	} else {
		image, err = index.Image(one.Digest)
	}
	if err != nil {
		return "", fmt.Errorf("reading the layout %s: %w", dir, err)
	}
	return as, importImage(ctx, c, r, as, image)
}

func loadArchive(ctx context.Context, c *Cluster, r *Record, path, as string) (string, error) {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err == nil { // the format that docker save writes
		if len(manifest) != 1 {
			return "", usageError{fmt.Errorf("the archive %s contains %d images, but load takes exactly one", path, len(manifest))}
		}
		if as == "" && len(manifest[0].RepoTags) > 0 {
			as = manifest[0].RepoTags[0]
		}
		if as, err = fullName(as); err != nil {
			return "", err
		}
		image, err := tarball.ImageFromPath(path, nil)
		if err != nil {
			return "", fmt.Errorf("reading the archive %s: %w", path, err)
		}
		return as, importImage(ctx, c, r, as, image)
	}
	// Otherwise it must be an archive of an OCI layout.
	temp, err := os.MkdirTemp(c.Dir, "load-")
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", path, err)
	}
	defer os.RemoveAll(temp)
	if err := unpack(path, temp); err != nil {
		return "", usageError{fmt.Errorf("%s is neither a docker nor an OCI archive: %w", path, err)}
	}
	return loadLayout(ctx, c, r, temp, as)
}

// unpack extracts the regular files of an archive. It never writes outside the
// directory.
func unpack(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		path := filepath.Clean(header.Name)
		if err := root.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		to, err := root.Create(path)
		if err != nil {
			return err
		}
		_, err = io.CopyN(to, r, header.Size)
		if err := errors.Join(err, to.Close()); err != nil {
			return err
		}
	}
}

func loadRemote(ctx context.Context, c *Cluster, r *Record, from, as string) (string, error) {
	ref, err := name.ParseReference(from)
	if err != nil {
		return "", usageError{fmt.Errorf("%s is neither a directory, nor an archive, nor an image reference: %w", from, err)}
	}
	if host := ref.Context().RegistryStr(); !strings.HasPrefix(host, "127.0.0.1:") && !strings.HasPrefix(host, "localhost:") {
		return "", usageError{fmt.Errorf("%s does not exist as a file, and as an image reference it does not name a registry on 127.0.0.1", from)}
	}
	if as == "" {
		as = ref.Name()
	}
	description, err := remote.Get(ref, remote.WithContext(ctx))
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", from, err)
	}
	var image partial.WithRawManifest
	if description.MediaType.IsIndex() {
		image, err = description.ImageIndex()
	} else {
		image, err = description.Image()
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", from, err)
	}
	return as, importImage(ctx, c, r, as, image)
}

// fullName returns the name by which the kubelet asks for an image: with its
// registry and tag.
func fullName(image string) (string, error) {
	if image == "" {
		return "", usageError{errors.New("the image has no name; set one with --as, for example --as app:dev")}
	}
	ref, err := name.ParseReference(image, name.WithDefaultRegistry("docker.io"))
	if err != nil {
		return "", usageError{fmt.Errorf("invalid image name: %w", err)}
	}
	return ref.Name(), nil
}
