package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	amd64 = v1.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = v1.Platform{OS: "linux", Architecture: "arm64"}
)

// zoneInfo is the zone data of the toolchain that runs the tests.
var zoneInfo = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	return filepath.Join(strings.TrimSpace(string(out)), "lib", "time", "zoneinfo.zip"), err
})

// binary writes three megabytes that hardly compress, so that encoders work in
// several blocks; the same for the same seed.
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

func options(t *testing.T) image.Options {
	t.Helper()
	zones, err := zoneInfo()
	if err != nil {
		t.Fatal(err)
	}
	return image.Options{
		Source: source.Source{
			Name: "orders", Module: "github.com/acme/shop/orders", Version: "v0.0.0-20260304-abcdef", Revision: strings.Repeat("abcdef01", 5),
			Time: time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC),
		},
		Binaries: []build.Binary{binary(t, amd64, 0), binary(t, arm64, 0)},
		Settings: config.Default().Image,
		ZoneInfo: zones,
		Cache:    cache.Dir(t.TempDir()),
		RunDir:   t.TempDir(),
	}
}

func run(t *testing.T, o image.Options) image.Result {
	t.Helper()
	r, err := image.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

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

// The promise to users: nothing of the machine is in the image.
func TestSameInputsSameDigest(t *testing.T) {
	local := time.Local
	t.Cleanup(func() { time.Local = local })
	for _, compression := range []string{"gzip", "zstd"} {
		for _, format := range []string{"oci", "docker"} {
			t.Run(compression+"/"+format, func(t *testing.T) {
				digests := map[string][]string{}
				for _, procs := range []int{1, 2, 8} {
					for _, mask := range []int{0o022, 0o077, 0} {
						for _, zone := range []string{"UTC", "Asia/Shanghai"} {
							o := options(t)
							o.Settings.Compression, o.Settings.Format = compression, format
							old := runtime.GOMAXPROCS(procs)
							oldMask := syscall.Umask(mask)
							loc, err := time.LoadLocation(zone)
							if err != nil {
								t.Fatal(err)
							}
							t.Setenv("TZ", zone)
							time.Local = loc
							r, err := image.Run(t.Context(), o)
							syscall.Umask(oldMask)
							runtime.GOMAXPROCS(old)
							if err != nil {
								t.Fatal(err)
							}
							how := fmt.Sprintf("%d cores, umask %o, %s", procs, mask, zone)
							digests[r.Digest] = append(digests[r.Digest], how)
						}
					}
				}
				if len(digests) != 1 {
					t.Errorf("digests differ: %v", digests)
				}
			})
		}
	}
}

// A changed byte of the program changes the layer of the program and nothing
// else; without a change everything is reused.
func TestOneByteChangesOneLayer(t *testing.T) {
	o := options(t)
	first := run(t, o)
	again := run(t, o)
	if again.Digest != first.Digest {
		t.Errorf("digest %s, then %s", first.Digest, again.Digest)
	}
	for _, l := range again.Platforms[0].Layers {
		if !l.Reused {
			t.Errorf("layer %s was made again", l.Name)
		}
	}
	o.Binaries = []build.Binary{binary(t, amd64, 1), binary(t, arm64, 0)}
	changed := run(t, o)
	if changed.Digest == first.Digest {
		t.Error("the digest is the same for another program")
	}
	for i, p := range changed.Platforms {
		for j, l := range p.Layers {
			same := l.Digest == first.Platforms[i].Layers[j].Digest
			if want := i != 0 || l.Name != "program"; same != want || l.Reused != want {
				t.Errorf("%s layer %s: same %t, reused %t, want %t", p.Platform, l.Name, same, l.Reused, want)
			}
		}
	}
}

func TestImagesAreValid(t *testing.T) {
	for _, compression := range []string{"gzip", "zstd"} {
		for _, format := range []string{"oci", "docker"} {
			t.Run(compression+"/"+format, func(t *testing.T) {
				o := options(t)
				o.Settings.Compression, o.Settings.Format = compression, format
				r := run(t, o)
				whole(t, r)
				o.Binaries = o.Binaries[1:]
				one := run(t, o)
				if one.Image.Index != nil || one.Platforms[0].Digest != r.Platforms[1].Digest || one.Digest != one.Platforms[0].Digest {
					t.Errorf("one platform: %+v", one)
				}
				whole(t, one)
				m, err := r.Image.Index.IndexManifest()
				if err != nil {
					t.Fatal(err)
				}
				wantIndex, wantManifest := types.OCIImageIndex, types.OCIManifestSchema1
				if format == "docker" {
					wantIndex, wantManifest = types.DockerManifestList, types.DockerManifestSchema2
				}
				if m.MediaType != wantIndex || r.MediaType != string(wantIndex) {
					t.Errorf("index is %s", m.MediaType)
				}
				for i, d := range m.Manifests {
					if d.MediaType != wantManifest || !d.Platform.Equals(o0(i)) {
						t.Errorf("manifest %d is %s for %s", i, d.MediaType, d.Platform)
					}
				}
			})
		}
	}
}

func o0(i int) v1.Platform { return []v1.Platform{amd64, arm64}[i] }

// files lists a layer as tar does, and gives its contents.
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

func TestLayerContents(t *testing.T) {
	o := options(t)
	o.Settings.User, o.Settings.Entrypoint = "1000:2000", "/opt/orders/bin/server"
	o.Binaries = o.Binaries[:1]
	layers, err := run(t, o).Image.Single.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) != 4 {
		t.Fatalf("%d layers, want certificates, zones, accounts, program", len(layers))
	}
	var listing strings.Builder
	all := map[string][]byte{}
	for i, l := range layers {
		list, contents := files(t, l)
		if i < 2 { // certificates and zones change with their sources: their form counts
			for _, line := range list {
				f := strings.Fields(line)
				if f[1] != "0644" && f[1] != "0755" || f[2] != "0:0" || f[4] != "1970-01-01T00:00:00Z" {
					t.Errorf("layer %d: %s", i, line)
				}
			}
		} else {
			listing.WriteString(strings.Join(list, "\n") + "\n")
		}
		for name, data := range contents {
			if _, twice := all[name]; twice && !strings.HasSuffix(name, "/") {
				t.Errorf("%s is in two layers", name)
			}
			all[name] = data
		}
	}
	testkit.Golden(t, "testdata/layers.txt", []byte(listing.String()))
	testkit.Golden(t, "testdata/passwd", all["/etc/passwd"])
	testkit.Golden(t, "testdata/group", all["/etc/group"])

	n := 0
	for rest := all["/etc/ssl/certs/ca-certificates.crt"]; ; n++ {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		if _, err := x509.ParseCertificate(b.Bytes); err != nil {
			t.Errorf("certificate %d: %v", n, err)
		}
	}
	if n <= 100 {
		t.Errorf("%d certificates, want more than 100", n)
	}
	for _, zone := range []string{"Asia/Shanghai", "Europe/Berlin", "America/New_York", "UTC"} {
		loc, err := time.LoadLocationFromTZData(zone, all["/usr/share/zoneinfo/"+zone])
		if err != nil {
			t.Errorf("%s: %v", zone, err)
			continue
		}
		if zone == "Asia/Shanghai" {
			if _, offset := time.Unix(1_700_000_000, 0).In(loc).Zone(); offset != 8*3600 {
				t.Errorf("%s is %d seconds off", zone, offset)
			}
		}
	}
	want, err := os.ReadFile(o.Binaries[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if string(all["/opt/orders/bin/server"]) != string(want) {
		t.Error("the program differs")
	}
}

func TestConfigurations(t *testing.T) {
	full := func(s *config.Image) {
		s.Args = []string{"serve", "--port", "8080"}
		s.Env = map[string]string{"TZ": "Asia/Shanghai", "A": "1", "EMPTY": ""}
		s.Labels = map[string]string{"org.opencontainers.image.title": "Orders", "team": "shop"}
		s.Volumes = []string{"/tmp", "/data"}
		s.Source = "https://git.example.com/shop"
	}
	for name, set := range map[string]func(*config.Image){
		"default-oci":    func(*config.Image) {},
		"default-docker": func(s *config.Image) { s.Format = "docker" },
		"full-oci":       full,
		"full-docker": func(s *config.Image) {
			full(s)
			s.Format = "docker"
			s.HealthCheck.Command = []string{"/server", "ping"}
		},
		"no-health-docker": func(s *config.Image) {
			s.Format = "docker"
			s.HealthCheck.Command = []string{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			set(&o.Settings)
			r := run(t, o)
			img := images(t, r)[1]
			cf, err := img.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			m, err := img.Manifest()
			if err != nil {
				t.Fatal(err)
			}
			idx, err := r.Image.Index.IndexManifest()
			if err != nil {
				t.Fatal(err)
			}
			cf = cf.DeepCopy()
			cf.RootFS.DiffIDs = cf.RootFS.DiffIDs[:0] // change with certificates and zones
			text, err := json.MarshalIndent(map[string]any{
				"config": cf, "annotations": m.Annotations, "index_annotations": idx.Annotations,
				"config_type": m.Config.MediaType, "layer_type": m.Layers[0].MediaType,
			}, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			testkit.Golden(t, "testdata/config-"+name+".json", append(text, '\n'))
			if strings.HasSuffix(name, "oci") != (cf.Config.Healthcheck == nil) {
				t.Errorf("health check in %s: %+v", name, cf.Config.Healthcheck)
			}
		})
	}
}

// bases gives every platform the same base.
type bases struct{ base image.Base }

func (b bases) Base(context.Context, string, v1.Platform) (image.Base, error) { return b.base, nil }

func aBase(t *testing.T, docker bool) v1.Image {
	t.Helper()
	img, mt := empty.Image, types.OCILayer
	if docker {
		img, mt = mutate.ConfigMediaType(mutate.MediaType(img, types.DockerManifestSchema2), types.DockerConfigJSON), types.DockerLayer
	}
	r := options(t)
	layers, err := run(t, r).Image.Index.IndexManifest()
	if err != nil || len(layers.Manifests) == 0 {
		t.Fatal(err)
	}
	gz := staticLayer(t, mt)
	img, err = mutate.Append(img, mutate.Addendum{Layer: gz, History: v1.History{CreatedBy: "ADD base"}})
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

func staticLayer(t *testing.T, mt types.MediaType) v1.Layer {
	t.Helper()
	// A real layer, made by slipway itself, under the media type asked for.
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
	return withID{static.NewLayer(data, mt), ls[2], id}
}

// withID gives a layer of bytes what they unpack to.
type withID struct {
	v1.Layer
	plain v1.Layer
	id    v1.Hash
}

func (w withID) DiffID() (v1.Hash, error)             { return w.id, nil }
func (w withID) Uncompressed() (io.ReadCloser, error) { return w.plain.Uncompressed() }

func TestOnABase(t *testing.T) {
	for _, baseFormat := range []string{"oci", "docker"} {
		for _, format := range []string{"oci", "docker"} {
			t.Run(baseFormat+" base in "+format, func(t *testing.T) {
				base := aBase(t, baseFormat == "docker")
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
					t.Errorf("base is %s %s", r.BaseName, r.BaseDigest)
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
						t.Errorf("layer %d is %s, want %s", i, l.MediaType, want)
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
		o.Bases = bases{image.Base{Image: aBase(t, false), Name: "base"}}
		_, err := image.Run(t.Context(), o)
		testkit.WantInput(t, err, "image.base-platform")
	})
}

func TestZoneDataThatCannotBeUsed(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "zoneinfo.zip")
	if err := os.WriteFile(garbage, []byte("no zip"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{garbage, garbage + ".missing", ""} {
		o := options(t)
		o.ZoneInfo = file
		_, err := image.Run(t.Context(), o)
		testkit.WantInput(t, err, "image.zones")
	}
}

// A damaged cache costs time and nothing else.
func TestDamagedCacheIsMended(t *testing.T) {
	damage := func(glob string, how func(t *testing.T, path string)) func(*testing.T, image.Options) {
		return func(t *testing.T, o image.Options) {
			paths, err := filepath.Glob(o.Cache.Path(glob))
			if err != nil || len(paths) == 0 {
				t.Fatalf("nothing at %s, %v", glob, err)
			}
			for _, p := range paths {
				how(t, p)
			}
		}
	}
	write := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func(t *testing.T, path string) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	for name, do := range map[string]func(*testing.T, image.Options){
		"blobs cut":          damage("blobs/sha256/*", func(t *testing.T, p string) { _ = os.Truncate(p, 100) }),
		"blobs gone":         damage("blobs/sha256/*", remove),
		"blobs are folders":  damage("blobs/sha256/*", func(t *testing.T, p string) { remove(t, p); _ = os.Mkdir(p, 0o755); _ = os.Remove(p) }),
		"records gone":       damage("layers/*", remove),
		"records garbage":    damage("layers/*", write("{\"digest\":\"sha256:")),
		"records empty":      damage("layers/*", write("")),
		"records null":       damage("layers/*", write("null")),
		"records of nothing": damage("layers/*", write("{}")),
		"records elsewhere":  damage("layers/*", write(`{"digest":"sha256:../../../x","diff_id":"sha256:x","size":1}`)),
		"records wrong type": damage("layers/*", write(`[1]`)),
	} {
		t.Run(name, func(t *testing.T) {
			o := options(t)
			o.Binaries = o.Binaries[:1]
			want := run(t, o)
			do(t, o)
			got := run(t, o)
			if got.Digest != want.Digest {
				t.Errorf("digest %s, want %s", got.Digest, want.Digest)
			}
			if err := validate.Image(got.Image.Single); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("bytes flipped", func(t *testing.T) {
		o := options(t)
		o.Binaries = o.Binaries[:1]
		want := run(t, o)
		damage("blobs/sha256/*", func(t *testing.T, p string) {
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			write(string(data))(t, p)
		})(t, o)
		// The size is right, so only reading shows it: that fails, and the run
		// after it is good.
		got := run(t, o)
		layers, err := got.Image.Single.Layers()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			rc, err := l.Compressed()
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, rc)
			rc.Close()
			if fault.CodeOf(err) != "cache.damaged" {
				t.Errorf("reading a damaged blob: %v", err)
			}
		}
		mended := run(t, o)
		if mended.Digest != want.Digest {
			t.Errorf("digest %s, want %s", mended.Digest, want.Digest)
		}
		if err := validate.Image(mended.Image.Single); err != nil {
			t.Error(err)
		}
	})
}

func TestRunsShareACache(t *testing.T) {
	o := options(t)
	digests := make([]string, 6)
	var wg sync.WaitGroup
	for i := range digests {
		o := o
		o.RunDir = t.TempDir()
		wg.Go(func() {
			r, err := image.Run(t.Context(), o)
			if err != nil {
				t.Error(err)
			}
			digests[i] = r.Digest
		})
	}
	wg.Wait()
	for _, d := range digests {
		if d != digests[0] {
			t.Errorf("digests differ: %v", digests)
		}
	}
	o.RunDir = t.TempDir()
	if err := validate.Index(run(t, o).Image.Index); err != nil {
		t.Error(err)
	}
}

// endsAfter ends a run when it reads a program for the n-th time.
type endsAfter struct {
	context.Context
	mu   sync.Mutex
	left int
	end  context.CancelFunc
}

func (e *endsAfter) Err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.left--; e.left == 0 {
		e.end()
	}
	return e.Context.Err()
}

// Ended at any moment, a run leaves nothing unfinished.
func TestEndedRunLeavesNothing(t *testing.T) {
	for _, compression := range []string{"gzip", "zstd"} {
		for n := 1; n < 60; n += 4 {
			o := options(t)
			o.Settings.Compression = compression
			ctx, cancel := context.WithCancel(t.Context())
			_, err := image.Run(&endsAfter{Context: ctx, left: n, end: cancel}, o)
			cancel()
			if !errors.Is(err, context.Canceled) {
				if err == nil {
					break // it was done before
				}
				t.Fatalf("after %d checks: %v", n, err)
			}
			if left, err := os.ReadDir(o.RunDir); err != nil || len(left) != 0 {
				t.Errorf("after %d checks: %v, %v is left", n, left, err)
			}
			if n%8 == 1 {
				whole(t, run(t, o)) // what is in the cache is good
			}
		}
	}
}

// TestUnpackedHoldsBaseAndProgram: what is scanned is what is shipped, but for
// packing: the base's files and the linker's bytes at the entrypoint.
func TestUnpackedHoldsBaseAndProgram(t *testing.T) {
	o := options(t)
	base := aBase(t, false)
	o.Settings.Base, o.Bases = "example.com/base", bases{image.Base{Image: base, Name: "example.com/base"}}
	o.Binaries = o.Binaries[:1]
	plain, err := image.Unpacked(t.Context(), o)
	if err != nil || len(plain) != 1 {
		t.Fatal(plain, err)
	}
	if err := validate.Image(plain[0].Image); err != nil {
		t.Error(err)
	}
	layers, err := plain[0].Image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	below, err := base.Layers()
	if err != nil || len(layers) != len(below)+1 {
		t.Fatalf("%d layers on a base of %d, %v", len(layers), len(below), err)
	}
	want, err := os.ReadFile(o.Binaries[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	_, contents := files(t, layers[len(layers)-1])
	if !bytes.Equal(contents["/server"], want) {
		t.Errorf("the program is not as it was built: %d files", len(contents))
	}
}
