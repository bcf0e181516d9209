package image_test

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = v1.Platform{OS: "linux", Architecture: "arm64"}
)

// zoneInfo returns the path of the zone data of the toolchain that runs the tests.
var zoneInfo = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	return filepath.Join(strings.TrimSpace(string(out)), "lib", "time", "zoneinfo.zip"), err
})

// binary writes three megabytes that hardly compress, so that the encoders use
// several blocks. The bytes depend on the platform and the seed only.
func binary(t *testing.T, p v1.Platform, seed byte) build.Binary {
	t.Helper()
	data := make([]byte, 3<<20)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(data); err != nil {
		t.Fatal(err)
	}
	data[1<<20] = seed
	data[2<<20] = p.Architecture[1]
	path := filepath.Join(t.TempDir(), "server")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return build.Binary{Platform: p, Path: path, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

// options returns options for two platforms, with an empty cache.
func options(t *testing.T) image.Options {
	t.Helper()
	zones, err := zoneInfo()
	if err != nil {
		t.Fatal(err)
	}
	settings := config.Default().Image
	settings.Ports = config.DefaultPorts()
	return image.Options{
		Source: source.Source{
			Name: "orders", Module: "github.com/acme/shop/orders", Version: "v0.0.0-20260304-abcdef", Revision: strings.Repeat("abcdef01", 5),
			Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		},
		Binaries: []build.Binary{binary(t, amd64, 0), binary(t, arm64, 0)},
		Settings: settings,
		ZoneInfo: zones,
		Cache:    cache.Dir(t.TempDir()),
		RunDir:   t.TempDir(),
	}
}

// run returns the result of image.Run.
func run(t *testing.T, o image.Options) image.Result {
	t.Helper()
	r, err := image.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// images returns the images for the single platforms of a result.
func images(t *testing.T, r image.Result) []v1.Image {
	t.Helper()
	if r.Image.Index == nil {
		return []v1.Image{r.Image.Single}
	}
	m, err := r.Image.Index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var all []v1.Image
	for _, d := range m.Manifests {
		img, err := r.Image.Index.Image(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, img)
	}
	return all
}

// files lists the files of a layer and returns their contents by absolute path.
func files(t *testing.T, l v1.Layer) (list []string, contents map[string][]byte) {
	t.Helper()
	rc, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	contents = map[string][]byte{}
	tr := tar.NewReader(rc)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return list, contents
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%c %04o %d:%d %q:%q %s %d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime.UTC().Format(time.RFC3339), h.Size, h.Name))
		contents["/"+h.Name] = data
	}
}

// cacheIn returns a cache below dir.
func cacheIn(dir string) cache.Dir { return cache.Dir(filepath.Join(dir, "cache")) }

// validateImage checks the digests of an image and of its layers. The library
// cannot validate zstd layers, so that is done here.
func validateImage(t *testing.T, r image.Result) {
	t.Helper()
	for _, img := range images(t, r) {
		m, err := img.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(m.Layers[0].MediaType), "zstd") {
			if err := validate.Image(img); err != nil {
				t.Error(err)
			}
			continue
		}
		if err := validate.Image(img, validate.Fast); err != nil {
			t.Error(err)
		}
		cf, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		layers, err := img.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range layers {
			validateZstdLayer(t, l, m.Layers[i].Digest, cf.RootFS.DiffIDs[i])
		}
	}
	if r.Image.Index != nil {
		if err := validate.Index(r.Image.Index, validate.Fast); err != nil {
			t.Error(err)
		}
	}
}

// validateZstdLayer checks the digests of the compressed and unpacked bytes.
func validateZstdLayer(t *testing.T, l v1.Layer, digest, diffID v1.Hash) {
	t.Helper()
	rc, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	packed, plain := sha256.New(), sha256.New()
	zr, err := zstd.NewReader(io.TeeReader(rc, packed))
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	if _, err := io.Copy(plain, zr); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(packed.Sum(nil)); got != digest.Hex {
		t.Errorf("layer has digest %s, want %s", got, digest)
	}
	if got := hex.EncodeToString(plain.Sum(nil)); got != diffID.Hex {
		t.Errorf("layer %s has DiffID %s, want %s", digest, got, diffID)
	}
}
