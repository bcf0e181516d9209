package image_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/image"
)

// The digest does not depend on the number of cores, the umask or the time zone.
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

// A changed byte of a program changes the layer of this program only. Without a
// change all layers are reused.
func TestOneByteChangesOneLayer(t *testing.T) {
	o := options(t)
	first := run(t, o)
	again := run(t, o)
	if again.Digest != first.Digest {
		t.Errorf("second run has digest %s, want %s", again.Digest, first.Digest)
	}
	for _, l := range again.Platforms[0].Layers {
		if !l.Reused {
			t.Errorf("layer %s was not reused", l.Name)
		}
	}
	o.Binaries = []build.Binary{binary(t, amd64, 1), binary(t, arm64, 0)}
	changed := run(t, o)
	if changed.Digest == first.Digest {
		t.Error("another program has the same digest")
	}
	for i, p := range changed.Platforms {
		for j, l := range p.Layers {
			same := l.Digest == first.Platforms[i].Layers[j].Digest
			if want := i != 0 || l.Name != "program"; same != want || l.Reused != want {
				t.Errorf("%s layer %s: same digest %t, reused %t, want %t", p.Platform, l.Name, same, l.Reused, want)
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
				validateImage(t, r)
				o.Binaries = o.Binaries[1:]
				one := run(t, o)
				if one.Image.Index != nil || one.Platforms[0].Digest != r.Platforms[1].Digest || one.Digest != one.Platforms[0].Digest {
					t.Errorf("image of one platform: %+v, want the manifest with digest %s", one, r.Platforms[1].Digest)
				}
				validateImage(t, one)
				m, err := r.Image.Index.IndexManifest()
				if err != nil {
					t.Fatal(err)
				}
				wantIndex, wantManifest := types.OCIImageIndex, types.OCIManifestSchema1
				if format == "docker" {
					wantIndex, wantManifest = types.DockerManifestList, types.DockerManifestSchema2
				}
				if m.MediaType != wantIndex || r.MediaType != string(wantIndex) {
					t.Errorf("index has type %s, result %s, want %s", m.MediaType, r.MediaType, wantIndex)
				}
				platforms := []v1.Platform{amd64, arm64}
				for i, d := range m.Manifests {
					if d.MediaType != wantManifest || !d.Platform.Equals(platforms[i]) {
						t.Errorf("manifest %d has type %s for %s, want %s for %s", i, d.MediaType, d.Platform, wantManifest, platforms[i])
					}
				}
			})
		}
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
		t.Fatalf("got %d layers, want certificates, zones, accounts and program", len(layers))
	}
	var listing strings.Builder
	all := map[string][]byte{}
	for i, l := range layers {
		list, contents := files(t, l)
		if i < 2 { // certificates and zones change with their sources, so only their headers are checked
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
				t.Errorf("%s is in more than one layer", name)
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
		t.Errorf("got %d certificates, want more than 100", n)
	}
	for _, zone := range []string{"Asia/Shanghai", "Europe/Berlin", "America/New_York", "UTC"} {
		loc, err := time.LoadLocationFromTZData(zone, all["/usr/share/zoneinfo/"+zone])
		if err != nil {
			t.Errorf("%s: %v", zone, err)
			continue
		}
		if zone == "Asia/Shanghai" {
			if _, offset := time.Unix(1_700_000_000, 0).In(loc).Zone(); offset != 8*3600 {
				t.Errorf("%s has the offset %d s, want %d s", zone, offset, 8*3600)
			}
		}
	}
	want, err := os.ReadFile(o.Binaries[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	if string(all["/opt/orders/bin/server"]) != string(want) {
		t.Error("the program in the layer differs from the binary")
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
		"no-ports-oci": func(s *config.Image) { s.Ports = nil },
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
			cf.RootFS.DiffIDs = cf.RootFS.DiffIDs[:0] // they change with the certificates and zones
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

func TestUnusableZoneData(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "zoneinfo.zip")
	if err := os.WriteFile(garbage, []byte("not a zip archive"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{garbage, garbage + ".missing", ""} {
		o := options(t)
		o.ZoneInfo = file
		_, err := image.Run(t.Context(), o)
		testkit.WantInput(t, err, "image.zones")
	}
}

// The image for the scanner has the layers of the base and the program as the
// linker wrote it.
func TestUnpackedHoldsBaseAndProgram(t *testing.T) {
	o := options(t)
	base := newBase(t, false)
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
	baseLayers, err := base.Layers()
	if err != nil || len(layers) != len(baseLayers)+1 {
		t.Fatalf("got %d layers on a base with %d, %v", len(layers), len(baseLayers), err)
	}
	want, err := os.ReadFile(o.Binaries[0].Path)
	if err != nil {
		t.Fatal(err)
	}
	_, contents := files(t, layers[len(layers)-1])
	if !bytes.Equal(contents["/server"], want) {
		t.Errorf("the program differs from the binary; the layer has %d files", len(contents))
	}
}
