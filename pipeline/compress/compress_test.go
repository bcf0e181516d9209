package compress_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/compress"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func needUPX(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("upx"); err != nil {
		t.Skip("upx is not installed; on Debian, run apt-get install upx-ucl (from backports)")
	}
}

// program returns a small static Go program, compiled once.
var program = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "compress-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	main := filepath.Join(dir, "main.go")
	if err := os.WriteFile(main, []byte("package main\n\nfunc main() { println(\"hello\") }\n"), 0o644); err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "x"), main)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.New(string(out))
	}
	return os.ReadFile(filepath.Join(dir, "x"))
})

func binary(t *testing.T, data []byte) build.Binary {
	t.Helper()
	path := filepath.Join(t.TempDir(), "server")
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return build.Binary{Platform: v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}, Path: path, Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

func hello(t *testing.T) build.Binary {
	t.Helper()
	data, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return binary(t, data)
}

func options(t *testing.T, b ...build.Binary) compress.Options {
	t.Helper()
	return compress.Options{Binaries: b, Cache: cache.Dir(t.TempDir()), RunDir: t.TempDir()}
}

func TestPackedProgramRunsAndIsReproducible(t *testing.T) {
	needUPX(t)
	b := hello(t)
	o := options(t, b)
	r, err := compress.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	p := r.Binaries[0]
	if p.Size >= b.Size || p.Before != b.Size || r.Reused || !strings.HasPrefix(r.Program, "upx ") {
		t.Errorf("%+v", r)
	}
	out, err := exec.Command(p.Path).CombinedOutput()
	if err != nil || string(out) != "hello\n" {
		t.Errorf("the packed program printed %q, %v", out, err)
	}
	again, err := compress.Run(t.Context(), o)
	if err != nil || !again.Reused || again.Binaries[0].SHA256 != p.SHA256 || again.Binaries[0].Before != b.Size {
		t.Errorf("second run: %+v, %v", again, err)
	}
	elsewhere, err := compress.Run(t.Context(), options(t, hello(t)))
	if err != nil || elsewhere.Reused || elsewhere.Binaries[0].SHA256 != p.SHA256 {
		t.Errorf("with another cache: %+v, want %s, %v", elsewhere, p.SHA256, err)
	}
	if left, err := os.ReadDir(o.RunDir); err != nil || len(left) != 0 {
		t.Errorf("left in the run's folder: %v, %v", left, err)
	}

	for name, damage := range map[string]func(string) error{
		"truncated": func(f string) error { return os.Truncate(f, 1000) },
		"missing":   os.Remove,
	} {
		t.Run("cached program is "+name, func(t *testing.T) {
			if err := damage(p.Path); err != nil {
				t.Fatal(err)
			}
			repacked, err := compress.Run(t.Context(), o)
			if err != nil || repacked.Reused || repacked.Binaries[0].SHA256 != p.SHA256 {
				t.Errorf("%+v, want %s, %v", repacked, p.SHA256, err)
			}
		})
	}
}

func TestRefusedBinaries(t *testing.T) {
	needUPX(t)
	packed, err := compress.Run(t.Context(), options(t, hello(t)))
	if err != nil {
		t.Fatal(err)
	}
	twice, err := os.ReadFile(packed.Binaries[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data   []byte
		reason string
	}{
		"script":         {[]byte("#!/bin/sh\necho hello\n"), "IOException"},
		"garbage":        {[]byte(strings.Repeat("garbage", 1000)), "UnknownExecutableFormatException"},
		"empty":          {nil, "IOException"},
		"truncated ELF":  {[]byte("\x7fELF\x02\x01\x01"), "IOException"},
		"already packed": {twice, "AlreadyPackedException"},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t, binary(t, tt.data))
			_, err := compress.Run(t.Context(), o)
			if !errors.Is(err, compress.ErrRefused) {
				t.Fatalf("got %v, want %v", err, compress.ErrRefused)
			}
			var f *fault.Error
			if !errors.As(err, &f) || f.Kind != fault.Failed || f.Code != "compress.refused" || f.Fix == "" {
				t.Errorf("got %#v", err)
			}
			if strings.ContainsAny(err.Error(), "\r\n") || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("got %q, want one line with %s", err, tt.reason)
			}
			if left, err := os.ReadDir(o.RunDir); err != nil || len(left) != 0 {
				t.Errorf("left in the run's folder: %v, %v", left, err)
			}
		})
	}
}

func TestWithoutUPX(t *testing.T) {
	b := hello(t)
	t.Setenv("PATH", t.TempDir())
	_, err := compress.Run(t.Context(), options(t, b))
	testkit.WantInput(t, err, "program.missing")
}

func TestAnotherProgramNamedUPX(t *testing.T) {
	b := hello(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "upx"), []byte("#!/bin/sh\necho 'Usage: upx'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	_, err := compress.Run(t.Context(), options(t, b))
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Input || f.Code != "program.foreign" {
		t.Errorf("got %v", err)
	}
}

func TestCancelledRun(t *testing.T) {
	needUPX(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := compress.Run(ctx, options(t, hello(t))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSeveralPlatforms(t *testing.T) {
	needUPX(t)
	b := hello(t)
	c := b
	c.Platform.Variant = "v1" // the bytes are the same, so they are packed once
	r, err := compress.Run(t.Context(), options(t, b, c))
	if err != nil || len(r.Binaries) != 2 || r.Binaries[0].SHA256 != r.Binaries[1].SHA256 || r.Binaries[1].Platform.Variant != "v1" {
		t.Errorf("%+v, %v", r, err)
	}
}
