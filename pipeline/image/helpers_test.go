package image_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/klauspost/compress/zstd"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/image"
)

// cacheIn is a cache on a file system of its own.
func cacheIn(dir string) cache.Dir { return cache.Dir(filepath.Join(dir, "cache")) }

// whole checks an image down to the bytes of its layers. The library's own
// check unpacks gzip alone, so zstd layers are unpacked here.
func whole(t *testing.T, r image.Result) {
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
			zstdLayer(t, l, m.Layers[i].Digest, cf.RootFS.DiffIDs[i])
		}
	}
	if r.Image.Index != nil {
		if err := validate.Index(r.Image.Index, validate.Fast); err != nil {
			t.Error(err)
		}
	}
}

func zstdLayer(t *testing.T, l v1.Layer, digest, diffID v1.Hash) {
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
		t.Errorf("layer %s has the bytes of %s", digest, got)
	}
	if got := hex.EncodeToString(plain.Sum(nil)); got != diffID.Hex {
		t.Errorf("layer %s unpacks to %s, want %s", digest, got, diffID)
	}
}
