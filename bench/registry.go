package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// server is an image registry on an ephemeral port of 127.0.0.1.
type server struct {
	addr string
	http *http.Server
	done chan error
}

// serve starts a registry that stores its blobs in dir.
func serve(ctx context.Context, dir string) (*server, error) {
	var listen net.ListenConfig
	ln, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("starting the registry: %w", err)
	}
	handler := registry.New(
		registry.Logger(log.New(io.Discard, "", 0)),
		registry.WithBlobHandler(registry.NewDiskBlobHandler(dir)),
	)
	s := &server{
		addr: ln.Addr().String(),
		http: &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second},
		done: make(chan error, 1),
	}
	go func() { s.done <- s.http.Serve(ln) }()
	return s, nil
}

func (s *server) close() error {
	err := s.http.Close()
	if serveErr := <-s.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	if err != nil {
		return fmt.Errorf("stopping the registry: %w", err)
	}
	return nil
}

// file is a file in a base image. If link is not empty, it is a symbolic link.
type file struct {
	path string
	mode int64
	data []byte
	link string
}

// staticFiles returns the files of a base image for static programs: root
// certificates, time zone data and accounts. All of them come from pinned sources.
func staticFiles(goroot string) ([]file, error) {
	var roots bytes.Buffer
	for root := range bundle.Roots() {
		if err := pem.Encode(&roots, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("writing root certificates: %w", err)
		}
	}
	files := append(accountFiles(), file{path: "etc/ssl/certs/ca-certificates.crt", mode: 0o644, data: roots.Bytes()})
	zones, err := zip.OpenReader(filepath.Join(goroot, "lib", "time", "zoneinfo.zip"))
	if err != nil {
		return nil, fmt.Errorf("reading time zone data: %w", err)
	}
	defer zones.Close()
	for _, z := range zones.File {
		if z.FileInfo().IsDir() {
			continue
		}
		r, err := z.Open()
		if err != nil {
			return nil, fmt.Errorf("reading time zone data: %w", err)
		}
		data, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if err := errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("reading time zone data: %w", err)
		}
		files = append(files, file{path: "usr/share/zoneinfo/" + z.Name, mode: 0o644, data: data})
	}
	return files, nil
}

func accountFiles() []file {
	return []file{
		{path: "etc/group", mode: 0o644, data: []byte("root:x:0:\nnobody:x:65534:\n")},
		{path: "etc/passwd", mode: 0o644, data: []byte("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")},
	}
}

// shellFiles returns the files of a minimal userland with a shell.
func shellFiles(busybox string) ([]file, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("reading busybox: %w", err)
	}
	return []file{
		{path: "bin/busybox", mode: 0o755, data: program},
		{path: "bin/sh", link: "busybox"},
	}, nil
}

// pushBase pushes a base image with one layer and returns its reference with the
// digest.
func pushBase(ctx context.Context, repository string, files []file) (string, error) {
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		var b bytes.Buffer
		err := writeTar(&b, files)
		return io.NopCloser(&b), err
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return "", fmt.Errorf("creating a base image: %w", err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	if img, err = mutate.AppendLayers(img, layer); err != nil {
		return "", fmt.Errorf("creating a base image: %w", err)
	}
	img, err = mutate.ConfigFile(img, configured(img))
	if err != nil {
		return "", fmt.Errorf("creating a base image: %w", err)
	}
	digest, err := img.Digest()
	if err != nil {
		return "", fmt.Errorf("creating a base image: %w", err)
	}
	repo, err := name.NewRepository(repository, name.Insecure)
	if err != nil {
		return "", fmt.Errorf("parsing the name of a base image: %w", err)
	}
	if err := remote.Write(repo.Tag("latest"), img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("pushing a base image: %w", err)
	}
	return repo.Digest(digest.String()).Name(), nil
}

// configured returns the configuration of a base image.
func configured(img v1.Image) *v1.ConfigFile {
	cf, err := img.ConfigFile()
	if err != nil {
		return &v1.ConfigFile{}
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.Config.User, cf.Config.WorkingDir = "65534:65534", "/"
	return cf
}

func writeTar(w io.Writer, files []file) error {
	tw := tar.NewWriter(w)
	made := map[string]bool{".": true}
	var folder func(dir string) error
	folder = func(dir string) error {
		if made[dir] {
			return nil
		}
		made[dir] = true
		if err := folder(path.Dir(dir)); err != nil {
			return err
		}
		return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0)})
	}
	for _, f := range files {
		if err := folder(path.Dir(f.path)); err != nil {
			return err
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: f.path, Mode: f.mode, Size: int64(len(f.data)), ModTime: time.Unix(0, 0)}
		if f.link != "" {
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, f.link, 0o777
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := tw.Write(f.data); err != nil {
			return err
		}
	}
	return tw.Close()
}

// imageSize contains the sizes of a pushed image.
type imageSize struct {
	Compressed int64   `json:"compressed_bytes"` // layers, configuration and manifest together
	Layers     []int64 `json:"layer_bytes"`
	Unpacked   int64   `json:"unpacked_bytes"` // all files together
	Program    int64   `json:"program_bytes"`  // the largest file
}

// pull returns an image for linux/amd64 from a registry.
func pull(ctx context.Context, reference string) (v1.Image, error) {
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		return nil, fmt.Errorf("parsing an image reference: %w", err)
	}
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: "amd64"}))
	if err != nil {
		return nil, fmt.Errorf("reading the pushed image: %w", err)
	}
	return img, nil
}

// weigh returns the sizes of a pushed image.
func weigh(ctx context.Context, reference string) (*imageSize, error) {
	img, err := pull(ctx, reference)
	if err != nil {
		return nil, err
	}
	manifest, err := img.Manifest()
	if err != nil {
		return nil, fmt.Errorf("reading the pushed manifest: %w", err)
	}
	own, err := img.Size()
	if err != nil {
		return nil, fmt.Errorf("reading the pushed manifest: %w", err)
	}
	s := &imageSize{Compressed: own + manifest.Config.Size}
	for _, l := range manifest.Layers {
		s.Compressed += l.Size
		s.Layers = append(s.Layers, l.Size)
	}
	files := mutate.Extract(img)
	defer files.Close()
	for tr := tar.NewReader(files); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the pushed layers: %w", err)
		}
		s.Unpacked += h.Size
		s.Program = max(s.Program, h.Size)
	}
}

// unpack writes an image's files to the new directory dir and returns the image's
// entry point.
func unpack(ctx context.Context, reference, dir string) (string, error) {
	img, err := pull(ctx, reference)
	if err != nil {
		return "", err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("reading the pushed configuration: %w", err)
	}
	if len(cf.Config.Entrypoint) == 0 {
		return "", errors.New("the pushed image has no entry point")
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpacking the image: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("unpacking the image: %w", err)
	}
	defer root.Close()
	files := mutate.Extract(img)
	defer files.Close()
	for tr := tar.NewReader(files); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return cf.Config.Entrypoint[0], nil
		}
		if err == nil {
			err = unpackEntry(root, h, tr)
		}
		if err != nil {
			return "", fmt.Errorf("unpacking the image: %w", err)
		}
	}
}

func unpackEntry(root *os.Root, h *tar.Header, content io.Reader) error {
	target := strings.Trim(path.Clean(h.Name), "/")
	if parent := path.Dir(target); parent != "." {
		if err := root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(target, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, target)
	case tar.TypeReg:
		f, err := root.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, io.LimitReader(content, h.Size))
		return errors.Join(err, f.Close())
	default:
		return fmt.Errorf("%s is neither a file, nor a directory, nor a symbolic link", h.Name)
	}
}
