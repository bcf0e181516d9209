package release

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/provenance"
	helmregistry "helm.sh/helm/v3/pkg/registry"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

func TestParseRemote(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for text, want := range map[string]Remote{
		"oci://ghcr.io/acme/charts/orders:1.2.3":               {"oci://ghcr.io/acme/charts", "orders", "1.2.3", ""},
		"oci://localhost:5000/orders@" + digest:                {"oci://localhost:5000", "orders", "", digest},
		"oci://ghcr.io/acme/orders:1.2.3+b1@" + digest:         {"oci://ghcr.io/acme", "orders", "1.2.3+b1", digest},
		"https://charts.example.com/orders:1.2.3":              {"https://charts.example.com", "orders", "1.2.3", ""},
		"https://charts.example.com:8443/a/orders:1@" + digest: {"https://charts.example.com:8443/a", "orders", "1", digest},
	} {
		if got, err := ParseRemote(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"oci://ghcr.io/acme/orders":                   "it has no version",
		"https://charts.example.com/orders@" + digest: "it has no version",
		"oci://ghcr.io/orders:1@sha256:abc":           "is not a digest",
		"ftp://example.com/orders:1":                  "neither in an OCI registry nor in a Helm repository",
		"https://user:hunter2@example.com/orders:1":   "it must have no user",
		"oci:orders:1":                                "it is not the URL of a chart",
		"https://example.com/:1":                      "it has no name",
	} {
		_, err := ParseRemote(text)
		wantChartError(t, err, want)
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error contains the password: %v", err)
		}
	}
}

func FuzzParseRemote(f *testing.F) {
	f.Add("oci://ghcr.io/acme/orders:1.2.3@sha256:00")
	f.Add("https://charts.example.com/%2e/orders:1")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRemote(text)
		if err == nil && (r.Chart == "" || strings.Contains(r.Chart, "/") || r.Version == "" && r.Digest == "") {
			t.Errorf("%q: %+v", text, r)
		}
	})
}

// publisher is a chart with a dependency, packaged and signed.
type publisher struct {
	pack, signature []byte
	keyring         string // of the publisher
	otherKeyring    string
}

func publish(t *testing.T) publisher {
	t.Helper()
	dir := testkit.Tree(t, map[string]string{
		"Chart.yaml":                  "apiVersion: v2\nname: orders\nversion: 1.2.3+b1\ndependencies: [{name: sub, version: 0.1.0}]\n",
		"templates/a.yaml":            "kind: ConfigMap\nmetadata: {name: a}\n",
		"charts/sub/Chart.yaml":       "apiVersion: v2\nname: sub\nversion: 0.1.0\n",
		"charts/sub/templates/b.yaml": "kind: ConfigMap\nmetadata: {name: b}\n",
	})
	ch, err := loader.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	file, err := chartutil.Save(ch, out)
	if err != nil {
		t.Fatal(err)
	}
	p := publisher{keyring: filepath.Join(out, "keys.gpg"), otherKeyring: filepath.Join(out, "other.gpg")}
	if p.pack, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	for _, keyring := range []string{p.otherKeyring, p.keyring} {
		entity, err := openpgp.NewEntity("Acme", "", "charts@example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		var public bytes.Buffer
		if err := entity.Serialize(&public); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(keyring, public.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		text, err := (&provenance.Signatory{Entity: entity}).ClearSign(file)
		if err != nil {
			t.Fatal(err)
		}
		p.signature = []byte(text)
	}
	return p
}

func newClient(t *testing.T) *registry.Client {
	t.Helper()
	client, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// push pushes a chart to an OCI registry as Helm does, and returns the digest of its manifest.
func (p publisher) push(t *testing.T, reference string, signed bool) string {
	t.Helper()
	image := mutate.MediaType(mutate.ConfigMediaType(empty.Image, helmregistry.ConfigMediaType), types.OCIManifestSchema1)
	layers := []mutate.Addendum{{Layer: static.NewLayer(p.pack, helmregistry.ChartLayerMediaType)}}
	if signed {
		layers = append(layers, mutate.Addendum{Layer: static.NewLayer(p.signature, helmregistry.ProvLayerMediaType)})
	}
	image, err := mutate.Append(image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

func TestFetchFromARegistry(t *testing.T) {
	p, client := publish(t), newClient(t)
	host := testkit.Registry(t)
	digest := p.push(t, host+"/charts/orders:1.2.3_b1", true)
	unsigned := p.push(t, host+"/charts/orders:unsigned", false)
	image, err := name.ParseReference(host + "/charts/image:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(image, empty.Image); err != nil {
		t.Fatal(err)
	}
	at := "oci://" + host + "/charts/orders"
	for name, tt := range map[string]struct {
		chart deploy.Chart
		code  string
		want  string
	}{
		"digest":             {chart: deploy.Chart{Remote: at + "@" + digest}},
		"version":            {chart: deploy.Chart{Remote: at + ":1.2.3+b1"}},
		"both":               {chart: deploy.Chart{Remote: at + ":1.2.3+b1@" + digest}},
		"signed":             {chart: deploy.Chart{Remote: at + "@" + digest, Keyring: p.keyring}},
		"another version":    {chart: deploy.Chart{Remote: at + ":2.0.0@" + digest}, code: "deploy.chart", want: "what is published there is orders 1.2.3+b1"},
		"no such version":    {chart: deploy.Chart{Remote: at + ":3.0.0"}, code: "registry.not-found"},
		"signed by others":   {chart: deploy.Chart{Remote: at + "@" + digest, Keyring: p.otherKeyring}, code: "deploy.chart-provenance", want: "signature"},
		"not signed":         {chart: deploy.Chart{Remote: at + "@" + unsigned, Keyring: p.keyring}, code: "deploy.chart-provenance", want: "has no provenance"},
		"no keyring":         {chart: deploy.Chart{Remote: at + "@" + digest, Keyring: "nowhere"}, code: "deploy.chart-provenance", want: "deploy.chartKeyring"},
		"an image, no chart": {chart: deploy.Chart{Remote: "oci://" + host + "/charts/image:1"}, code: "deploy.chart", want: "is not a Helm chart"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Fetch(t.Context(), client, tt.chart)
			checkFetched(t, got, err, tt.code, tt.want)
		})
	}
}

// checkFetched checks that a chart was downloaded, or the error.
func checkFetched(t *testing.T, got deploy.Chart, err error, code, want string) {
	t.Helper()
	if code != "" {
		if fault.CodeOf(err) != code || !strings.Contains(err.Error(), want) {
			t.Errorf("%v (%s), want %s and %q", err, fault.CodeOf(err), code, want)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	ch, err := Load(got, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if objects := render(t, ch); len(objects) != 2 {
		t.Errorf("the chart and its dependency have %d objects, want 2", len(objects))
	}
}

func TestFetchFromAHelmRepository(t *testing.T) {
	p, client := publish(t), newClient(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "orders-1.2.3+b1.tgz")
	for name, data := range map[string][]byte{file: p.pack, file + ".prov": p.signature} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := repo.IndexDirectory(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	digest := "sha256:" + index.Entries["orders"][0].Digest
	if err := index.WriteFile(filepath.Join(dir, "index.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	changed := t.TempDir()
	if err := os.CopyFS(changed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(changed, filepath.Base(file)), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	// An index that gives an old chart as a new one, and one that leaves TLS.
	downgrade, plain := t.TempDir(), t.TempDir()
	for dir, change := range map[string][2]string{downgrade: {"version: 1.2.3+b1", "version: 9.9.9"}, plain: {"- orders-1.2.3+b1.tgz", "- http://charts.invalid/orders-1.2.3+b1.tgz"}} {
		if err := os.CopyFS(dir, os.DirFS(filepath.Dir(file))); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(filepath.Join(dir, "index.yaml"))
		if err != nil || !bytes.Contains(raw, []byte(change[0])) {
			t.Fatalf("%v\n%s", err, raw)
		}
		if err := os.WriteFile(filepath.Join(dir, "index.yaml"), bytes.Replace(raw, []byte(change[0]), []byte(change[1]), 1), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	older, unencrypted := httptest.NewServer(http.FileServer(http.Dir(downgrade))), httptest.NewServer(http.FileServer(http.Dir(plain)))
	t.Cleanup(older.Close)
	t.Cleanup(unencrypted.Close)
	good, bad := httptest.NewServer(http.FileServer(http.Dir(dir))), httptest.NewServer(http.FileServer(http.Dir(changed)))
	t.Cleanup(good.Close)
	t.Cleanup(bad.Close)
	other := "sha256:" + strings.Repeat("b", 64)
	for name, tt := range map[string]struct {
		chart deploy.Chart
		code  string
		want  string
	}{
		"version":           {chart: deploy.Chart{Remote: good.URL + "/orders:1.2.3+b1"}},
		"pinned and signed": {chart: deploy.Chart{Remote: good.URL + "/orders:1.2.3+b1@" + digest, Keyring: p.keyring}},
		"another digest":    {chart: deploy.Chart{Remote: good.URL + "/orders:1.2.3+b1@" + other}, code: "deploy.chart-digest", want: "deploy.chart says " + other},
		"another package":   {chart: deploy.Chart{Remote: bad.URL + "/orders:1.2.3+b1"}, code: "deploy.chart-digest", want: "the index of the repository says"},
		"no such version":   {chart: deploy.Chart{Remote: good.URL + "/orders:2.0.0"}, code: "deploy.chart", want: "choose one of 1.2.3+b1"},
		"no such chart":     {chart: deploy.Chart{Remote: good.URL + "/other:1"}, code: "deploy.chart", want: "has no chart other 1"},
		"no repository":     {chart: deploy.Chart{Remote: good.URL + "/a/orders:1"}, code: "deploy.chart", want: "it has no index.yaml"},
		"an older chart":    {chart: deploy.Chart{Remote: older.URL + "/orders:9.9.9", Keyring: p.keyring}, code: "deploy.chart", want: "what is published there is orders 1.2.3+b1"},
		"index leaves TLS":  {chart: deploy.Chart{Remote: unencrypted.URL + "/orders:1.2.3+b1"}, code: "deploy.chart", want: "without encryption"},
		"plain HTTP":        {chart: deploy.Chart{Remote: "http://charts.example.com/orders:1"}, code: "deploy.chart", want: "without encryption"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Fetch(t.Context(), client, tt.chart)
			checkFetched(t, got, err, tt.code, tt.want)
		})
	}
}
