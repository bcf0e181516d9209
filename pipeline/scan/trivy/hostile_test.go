package trivy_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// stream is a layer whose content is generated while it is read. Its digest and
// size do not match its content.
type stream struct {
	diff v1.Hash
	open func() io.ReadCloser
}

func (s *stream) Digest() (v1.Hash, error)             { return s.diff, nil }
func (s *stream) DiffID() (v1.Hash, error)             { return s.diff, nil }
func (s *stream) Compressed() (io.ReadCloser, error)   { return s.open(), nil }
func (s *stream) Uncompressed() (io.ReadCloser, error) { return s.open(), nil }
func (s *stream) Size() (int64, error)                 { return 1000, nil }
func (s *stream) MediaType() (types.MediaType, error)  { return types.OCILayer, nil }

// streamed returns an image with one layer, whose content write generates.
func streamed(t *testing.T, write func(tw *tar.Writer) error) v1.Image {
	t.Helper()
	s := &stream{diff: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("12", 32)}, open: func() io.ReadCloser {
		pr, pw := io.Pipe()
		go func() {
			tw := tar.NewWriter(pw)
			err := write(tw)
			if err == nil {
				err = tw.Close()
			}
			pw.CloseWithError(err)
		}()
		return pr
	}}
	img, err := mutate.AppendLayers(empty.Image, s)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func file(tw *tar.Writer, name string, size int64, r io.Reader) error {
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: size}); err != nil {
		return err
	}
	_, err := io.CopyN(tw, r, size)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// peak returns the maximal size of the heap in bytes while f runs.
func peak(f func()) uint64 {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var highest uint64
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			highest = max(highest, m.HeapAlloc)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	f()
	cancel()
	wg.Wait()
	return highest
}

// truncatedGzip returns an image whose layer is the first half of a gzip stream.
func truncatedGzip(t *testing.T) v1.Image {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	_, _ = zw.Write(bytes.Repeat(archive(t, map[string]string{"etc/passwd": "root:x:0:0\n"}), 100))
	_ = zw.Close()
	half := b.Bytes()[:b.Len()/2]
	s := &stream{diff: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("34", 32)}, open: func() io.ReadCloser {
		zr, err := gzip.NewReader(bytes.NewReader(half))
		if err != nil {
			return io.NopCloser(bytes.NewReader(nil))
		}
		return zr
	}}
	img, err := mutate.AppendLayers(empty.Image, s)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// hostileImage is an image with the error that a scan returns for it.
type hostileImage struct {
	img  v1.Image
	code string // "" if the scan succeeds
	want string // in the text of the error
}

func hostileImages(t *testing.T) map[string]hostileImage {
	t.Helper()
	deep := strings.Repeat("d/", 2000) + "package.json"
	return map[string]hostileImage{
		"huge file": {streamed(t, func(tw *tar.Writer) error { return file(tw, "big", 1<<40, zeros{}) }), "scan.image-hostile", `"big" is 1099511627776 bytes`},
		"many large files": {streamed(t, func(tw *tar.Writer) error {
			for i := 0; ; i++ {
				if err := file(tw, fmt.Sprintf("f%d", i), 1<<20, zeros{}); err != nil {
					return err
				}
			}
		}), "scan.image-hostile", "unpacks to more than 67108864 bytes"},
		"endless files": {streamed(t, func(tw *tar.Writer) error {
			for i := 0; ; i++ {
				if err := file(tw, fmt.Sprintf(".wh.f%d", i), 0, zeros{}); err != nil {
					return err
				}
			}
		}), "scan.image-hostile", "more than 5000 files"},
		"too long path": {streamed(t, func(tw *tar.Writer) error {
			return file(tw, strings.Repeat("a/", 10000)+"package.json", 2, strings.NewReader("{}"))
		}), "scan.image-hostile", "a path of 20012 bytes"},
		"deep path":       {imageOf(t, archive(t, map[string]string{deep: "{}"})), "", ""},
		"path traversal":  {imageOf(t, archive(t, map[string]string{"../../../../tmp/evil/package.json": `{"name":"a","version":"1"}`, "/../etc/os-release": "ID=x"})), "", ""},
		"truncated gzip":  {truncatedGzip(t), "scan.image-corrupt", "unexpected EOF"},
		"truncated tar":   {imageOf(t, archive(t, map[string]string{"a": strings.Repeat("x", 5000)})[:2000]), "scan.image-corrupt", "unexpected EOF"},
		"not a tar":       {imageOf(t, []byte(strings.Repeat("not a tar ", 1000))), "scan.image-corrupt", "not a tar archive"},
		"digest mismatch": {streamed(t, func(tw *tar.Writer) error { return file(tw, "a", 1, zeros{}) }), "scan.image-corrupt", "digest mismatch"},
		"no layers":       {empty.Image, "", ""},
		"no image":        {nil, "scan.no-image", ""},
		"malformed package databases": {imageOf(t, archive(t, map[string]string{
			"etc/os-release": "ID=debian\nVERSION_ID=12\n", "var/lib/dpkg/status": "Package: a\x00\nVersion\n\n\n:::\n", "lib/apk/db/installed": "P:\nV:\n\xff",
			"var/lib/rpm/rpmdb.sqlite": "SQLite format 3\x00garbage", "var/lib/rpm/Packages": "garbage", "usr/lib/sysimage/rpm/Packages.db": "RpmP garbage",
		})), "", ""},
		"malformed packages": {imageOf(t, archive(t, map[string]string{
			"app/package.json": `{"name":`, "app/Gemfile.lock": "\xff", "a.egg": "PK\x03\x04", "x.jar": "PK", "app.deps.json": "{", "a/METADATA": "\x00",
			"usr/lib/python3/dist-packages/x.dist-info/METADATA": "Name: x", "specifications/x.gemspec": "\x00\x01",
			"bin/elf": "\x7fELF\x02\x01\x01" + strings.Repeat("\xff", 200), "bin/go": "\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9) + "\x02\x00\x3e\x00" + strings.Repeat("\xff", 100) + "\xff Go buildinf:\x08\x02",
		})), "", ""},
		"malformed SBOMs": {imageOf(t, archive(t, map[string]string{
			"opt/bitnami/x/.spdx-x.spdx": `{"spdxVersion":"SPDX-2.3","packages":[{"name":"x","SPDXID":"a"}],"relationships":[{"spdxElementId":"none","relatedSpdxElement":"a"}]}`,
			"sbom.cdx.json":              `{"bomFormat":"CycloneDX","specVersion":"1.5","metadata":{},"components":[{"type":"library","name":"x"},{"bom-ref":"a","type":"library","purl":"pkg:npm/@@"}],"dependencies":[{"ref":"a","dependsOn":["a","b"]}]}`,
			"empty.cdx.json":             `{"bomFormat":"CycloneDX"}`, "x.spdx.json": `{"SPDXID":"SPDXRef-DOCUMENT"}`, "y.spdx": "SPDXVersion: 2.2",
		})), "", ""},
	}
}

func TestHostileImages(t *testing.T) {
	for name, c := range hostileImages(t) {
		t.Run(name, func(t *testing.T) {
			o := options(t, scan.Target{Name: "x", Image: c.img})
			o.MaxBytes, o.MaxFiles, o.Timeout = 64<<20, 5000, 20*time.Second
			var err error
			if highest := peak(func() { _, err = scanner.Scan(t.Context(), o) }); highest > 600<<20 {
				t.Errorf("the scan used %d MB of memory", highest>>20)
			}
			if c.code == "" {
				if err != nil {
					t.Errorf("%v", err)
				}
				return
			}
			kind := fault.Failed
			if c.code == "scan.no-image" {
				kind = fault.Input
			}
			wantFault(t, err, kind, c.code, c.want)
		})
	}
}

// The limits apply to all layers together, and a layer that is repeated counts
// every time.
func TestLimitsApplyToTheWholeImage(t *testing.T) {
	var layers [][]byte
	for i := range 20 {
		layers = append(layers, archive(t, map[string]string{fmt.Sprintf("f%d", i): strings.Repeat("x", 1<<20)}))
	}
	o := options(t, scan.Target{Name: "x", Image: imageOf(t, layers...)})
	o.MaxBytes = 10 << 20
	_, err := scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Failed, "scan.image-hostile", "unpacks to more than 10485760 bytes")
	many := make([][]byte, 501)
	for i := range many {
		many[i] = layers[0]
	}
	o.Targets[0].Image = imageOf(t, many...)
	_, err = scanner.Scan(t.Context(), o)
	wantFault(t, err, fault.Failed, "scan.image-hostile", "501 layers")
}

func TestScanOfEndlessImageStopsWhenCancelled(t *testing.T) {
	started := make(chan struct{})
	var once sync.Once
	img := streamed(t, func(tw *tar.Writer) error {
		once.Do(func() { close(started) })
		for i := 0; ; i++ {
			if err := file(tw, fmt.Sprintf("f%d", i), 1<<10, zeros{}); err != nil {
				return err
			}
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-started
		cancel()
	}()
	start := time.Now()
	if _, err := scanner.Scan(ctx, options(t, scan.Target{Name: "x", Image: img})); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

// Scans leave no goroutine running, whether they succeed or fail.
func TestNoGoroutineLeaks(t *testing.T) {
	good := imageOf(t, archive(t, map[string]string{"etc/app.conf": "a=b\n"}))
	if _, err := scanner.Scan(t.Context(), options(t, target(t, good))); err != nil { // starts goroutines that run until the process ends
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	endless := streamed(t, func(tw *tar.Writer) error {
		for i := 0; ; i++ {
			if err := file(tw, fmt.Sprintf("f%d", i), 1<<10, zeros{}); err != nil {
				return err
			}
		}
	})
	for _, img := range []v1.Image{good, endless, imageOf(t, []byte(strings.Repeat("not a tar ", 1000)))} {
		o := options(t, scan.Target{Name: "x", Image: img})
		o.MaxFiles = 100
		_, _ = scanner.Scan(t.Context(), o)
		_, _ = scanner.SBOM(t.Context(), scan.Target{Name: "x", Image: good}, scan.SPDX)
	}
	goleak.VerifyNone(t, before)
}
