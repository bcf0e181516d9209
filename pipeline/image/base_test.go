package image_test

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/image"
)

// bases is a fake that resolves every name to the same base.
type bases struct{ base image.Base }

func (b bases) Base(context.Context, string, v1.Platform) (image.Base, error) { return b.base, nil }

// newBase returns a base image for linux/amd64, in Docker's or in OCI format.
func newBase(t *testing.T, docker bool) v1.Image {
	t.Helper()
	img, mt := empty.Image, types.OCILayer
	if docker {
		img, mt = mutate.ConfigMediaType(mutate.MediaType(img, types.DockerManifestSchema2), types.DockerConfigJSON), types.DockerLayer
	}
	img, err := mutate.Append(img, mutate.Addendum{Layer: gzipLayer(t, mt), History: v1.History{CreatedBy: "ADD base"}})
	if err != nil {
		t.Fatal(err)
	}
	cf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	cf = cf.DeepCopy()
	cf.OS, cf.Architecture = "linux", "amd64"
	cf.History = append(cf.History, v1.History{CreatedBy: "ENV X", EmptyLayer: true})
	cf.Config = v1.Config{
		Env: []string{"PATH=/usr/bin", "LANG=C", "A=base"}, WorkingDir: "/srv", User: "root", Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c", "x"},
		Labels: map[string]string{"vendor": "base", "org.opencontainers.image.title": "base"}, Volumes: map[string]struct{}{"/var/lib": {}},
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		t.Fatal(err)
	}
	return img
}

// gzipLayer returns a layer that slipway itself created, with the given media type.
func gzipLayer(t *testing.T, mt types.MediaType) v1.Layer {
	t.Helper()
	o := options(t)
	o.Binaries = o.Binaries[:1]
	ls, err := run(t, o).Image.Single.Layers()
	if err != nil {
		t.Fatal(err)
	}
	rc, err := ls[2].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	id, err := ls[2].DiffID()
	if err != nil {
		t.Fatal(err)
	}
	return layerWithID{static.NewLayer(data, mt), ls[2], id}
}

// layerWithID is a layer of compressed bytes that knows its unpacked content.
type layerWithID struct {
	v1.Layer
	plain v1.Layer
	id    v1.Hash
}

func (w layerWithID) DiffID() (v1.Hash, error) { return w.id, nil }

func (w layerWithID) Uncompressed() (io.ReadCloser, error) { return w.plain.Uncompressed() }

func TestOnABase(t *testing.T) {
	for _, baseFormat := range []string{"oci", "docker"} {
		for _, format := range []string{"oci", "docker"} {
			t.Run(baseFormat+" base in "+format, func(t *testing.T) {
				base := newBase(t, baseFormat == "docker")
				digest, err := base.Digest()
				if err != nil {
					t.Fatal(err)
				}
				o := options(t)
				o.Binaries = o.Binaries[:1]
				o.Settings.Base, o.Settings.Format = "registry.example.com/base:1", format
				o.Settings.Env = map[string]string{"A": "app", "B": "2"}
				o.Bases = bases{image.Base{Image: base, Name: "registry.example.com/base:1", Digest: digest}}
				r := run(t, o)
				if err := validate.Image(r.Image.Single); err != nil {
					t.Error(err)
				}
				if r.BaseName != "registry.example.com/base:1" || r.BaseDigest != digest.String() {
					t.Errorf("base is %s with %s, want %s", r.BaseName, r.BaseDigest, digest)
				}
				m, err := r.Image.Single.Manifest()
				if err != nil {
					t.Fatal(err)
				}
				want := types.OCILayer
				if format == "docker" {
					want = types.DockerLayer
				}
				for i, l := range m.Layers {
					if l.MediaType != want {
						t.Errorf("layer %d has type %s, want %s", i, l.MediaType, want)
					}
				}
				cf, err := r.Image.Single.ConfigFile()
				if err != nil {
					t.Fatal(err)
				}
				got := map[string]any{
					"env": cf.Config.Env, "dir": cf.Config.WorkingDir, "user": cf.Config.User, "entrypoint": cf.Config.Entrypoint, "cmd": cf.Config.Cmd,
					"vendor": cf.Config.Labels["vendor"], "title": cf.Config.Labels["org.opencontainers.image.title"],
					"base": cf.Config.Labels["org.opencontainers.image.base.name"], "layers": len(m.Layers),
				}
				wantConfig := map[string]any{
					"env": []string{"PATH=/usr/bin", "LANG=C", "A=app", "B=2"}, "dir": "/srv", "user": "65534:65534", "entrypoint": []string{"/server"}, "cmd": []string(nil),
					"vendor": "base", "title": "orders", "base": "registry.example.com/base:1", "layers": 4,
				}
				if diff := cmp.Diff(wantConfig, got); diff != "" {
					t.Error(diff)
				}
				var history []string
				for _, h := range cf.History {
					history = append(history, fmt.Sprintf("%s %t", h.CreatedBy, h.EmptyLayer))
				}
				if diff := cmp.Diff([]string{"ADD base false", "ENV X true", "slipway: certificates false", "slipway: zones false", "slipway: program false"}, history); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
	t.Run("for another platform", func(t *testing.T) {
		o := options(t)
		o.Settings.Base = "base"
		o.Bases = bases{image.Base{Image: newBase(t, false), Name: "base"}}
		_, err := image.Run(t.Context(), o)
		testkit.WantInput(t, err, "image.base-platform")
	})
}
