package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/provenance"
	helmregistry "helm.sh/helm/v3/pkg/registry"
	"helm.sh/helm/v3/pkg/repo"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
)

// maxPackage is the limit for a packaged chart and for the index of a repository, in bytes.
// Helm itself accepts charts of up to 100 MiB, but a release must fit into a Secret.
const maxPackage = 20 << 20

// Fetch downloads a chart from an OCI registry or a Helm repository. It verifies the digest
// and the provenance (https://helm.sh/docs/topics/provenance/) that the chart must have.
// Other charts are returned as they are.
func Fetch(ctx context.Context, client *registry.Client, from deploy.Chart) (deploy.Chart, error) {
	if from.Remote == "" || from.Package != nil {
		return from, nil
	}
	where, err := ParseRemote(from.Remote)
	if err != nil {
		return from, err
	}
	progress.Statusf(ctx, "downloading the chart %s", from.Remote)
	var signature []byte
	if where.oci() {
		from.Package, signature, err = fetchOCI(ctx, client, where)
	} else {
		from.Package, signature, err = fetchHTTP(ctx, client, where, from.Keyring != "")
	}
	if err != nil {
		return from, err
	}
	if from.Keyring == "" {
		return from, nil
	}
	if len(signature) == 0 {
		return from, fault.Gatef("deploy.chart-provenance", "the chart %s has no provenance, and deploy.chartKeyring requires it", from.Remote).
			WithFix("use a chart that its publisher has signed, or remove deploy.chartKeyring and pin the chart by digest")
	}
	return from, verifyProvenance(from, signature)
}

// Remote is where a chart is published.
type Remote struct {
	Repository string // oci://HOST/PATH or https://HOST/PATH, without the name of the chart
	Chart      string // the name
	Version    string // the exact version; may be empty if there is a digest
	Digest     string // sha256:..., of the manifest in an OCI registry, otherwise of the package
}

func (r Remote) oci() bool { return strings.HasPrefix(r.Repository, "oci://") }

// ParseRemote parses oci://HOST/PATH/NAME:VERSION@sha256:... and https://HOST/PATH/NAME:VERSION.
// Errors are [fault.Input] errors.
func ParseRemote(text string) (Remote, error) {
	bad := func(format string, args ...any) error {
		return fault.Inputf("deploy.chart", "deploy.chart "+redacted(text)+": "+format, args...).
			WithFix("write it as oci://registry.example.com/charts/orders:1.2.3@sha256:... or https://charts.example.com/orders:1.2.3")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return Remote{}, bad("it is not the URL of a chart")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return Remote{}, bad("it must have no user, query or fragment")
	case u.Scheme != "oci" && u.Scheme != "https" && u.Scheme != "http":
		return Remote{}, bad("it is neither in an OCI registry nor in a Helm repository")
	}
	rest, digest, pinned := strings.Cut(u.Path, "@")
	dir, last := path.Split(rest)
	name, version, _ := strings.Cut(last, ":")
	r := Remote{Repository: u.Scheme + "://" + u.Host + strings.TrimSuffix(dir, "/"), Chart: name, Version: version, Digest: digest}
	switch {
	case name == "":
		return Remote{}, bad("it has no name")
	case pinned && !isDigest(digest):
		return Remote{}, bad("%q is not a digest", digest)
	case version == "" && (!pinned || !r.oci()):
		return Remote{}, bad("it has no version")
	}
	return r, nil
}

// redacted returns a URL without its password.
func redacted(text string) string {
	if u, err := url.Parse(text); err == nil {
		return u.Redacted()
	}
	return "URL"
}

func isDigest(s string) bool {
	hash, ok := strings.CutPrefix(s, "sha256:")
	raw, err := hex.DecodeString(hash)
	return ok && err == nil && len(raw) == sha256.Size
}

// fetchOCI returns a chart and its provenance from an OCI registry
// (https://helm.sh/docs/topics/registries/).
func fetchOCI(ctx context.Context, client *registry.Client, r Remote) (chart, signature []byte, err error) {
	reference := strings.TrimPrefix(r.Repository, "oci://") + "/" + r.Chart
	switch {
	case r.Digest != "":
		reference += "@" + r.Digest
	default:
		reference += ":" + strings.ReplaceAll(r.Version, "+", "_") // as Helm does, because a tag has no +
	}
	digest, layers, err := client.Artifact(ctx, reference, []string{helmregistry.ChartLayerMediaType, helmregistry.ProvLayerMediaType}, maxPackage)
	if err != nil {
		return nil, nil, err
	}
	chart = layers[helmregistry.ChartLayerMediaType]
	if chart == nil {
		return nil, nil, fault.Inputf("deploy.chart", "%s is not a Helm chart", digest)
	}
	if r.Version != "" {
		if err := hasVersion(chart, r); err != nil {
			return nil, nil, err
		}
	}
	return chart, layers[helmregistry.ProvLayerMediaType], nil
}

// hasVersion checks that a packaged chart is the one that its reference names.
func hasVersion(data []byte, r Remote) error {
	ch, err := loader.LoadArchive(bytes.NewReader(data))
	if err != nil {
		return fault.Inputf("deploy.chart", "reading the chart %s: %w", r.Chart, err)
	}
	if ch.Name() != r.Chart || ch.Metadata.Version != r.Version {
		return fault.Inputf("deploy.chart", "deploy.chart names %s %s, but what is published there is %s %s", r.Chart, r.Version, ch.Name(), ch.Metadata.Version).
			WithFix("correct the version or the digest, or choose another place to get the chart from")
	}
	return nil
}

// fetchHTTP returns a chart, and its provenance if that is asked for, from a Helm repository
// (https://helm.sh/docs/topics/chart_repository/).
func fetchHTTP(ctx context.Context, client *registry.Client, r Remote, signed bool) (chart, signature []byte, err error) {
	if err := encrypted(client, r.Repository); err != nil {
		return nil, nil, err
	}
	file, digest, err := locate(ctx, client, r)
	if err == nil {
		err = encrypted(client, file)
	}
	if err != nil {
		return nil, nil, err
	}
	chart, ok, err := client.Download(ctx, file, maxPackage)
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, fault.Failedf("deploy.chart", "the index of %s names %s, which does not exist", r.Repository, file)
	}
	sum := sha256.Sum256(chart)
	got := hex.EncodeToString(sum[:])
	for _, want := range []struct{ by, digest string }{{"deploy.chart", r.Digest}, {"the index of the repository", digest}} {
		if d := strings.TrimPrefix(want.digest, "sha256:"); d != "" && d != got {
			return nil, nil, fault.Gatef("deploy.chart-digest", "%s has the digest sha256:%s, but %s says sha256:%s", file, got, want.by, d)
		}
	}
	if err := hasVersion(chart, r); err != nil {
		return nil, nil, err
	}
	if signed {
		signature, _, err = client.Download(ctx, file+".prov", 1<<20)
	}
	return chart, signature, err
}

// encrypted returns an error if a URL is accessed without encryption although its host is not
// known to need that.
func encrypted(client *registry.Client, address string) error {
	u, err := url.Parse(address)
	if err == nil && (u.Scheme == "https" || u.Scheme == "http" && client.Insecure(u.Host)) {
		return nil
	}
	if err != nil || u.Scheme != "http" {
		return fault.Inputf("deploy.chart", "%s is not an address of a Helm repository", redacted(address)).WithFix("use https")
	}
	return fault.Inputf("deploy.chart", "%s would be accessed without encryption", redacted(address)).WithFix("use https, or list %s in registry.insecure", u.Host)
}

// locate returns the URL of a chart and its digest according to the index of a repository.
func locate(ctx context.Context, client *registry.Client, r Remote) (file, digest string, err error) {
	index := r.Repository + "/index.yaml"
	raw, ok, err := client.Download(ctx, index, maxPackage)
	if err != nil {
		return "", "", err
	}
	if !ok {
		return "", "", fault.Inputf("deploy.chart", "%s is not a Helm repository: it has no index.yaml", r.Repository)
	}
	all, err := readIndex(raw)
	if err != nil {
		return "", "", fault.Inputf("deploy.chart", "reading %s: %w", index, err)
	}
	versions := all.Entries[r.Chart]
	i := slices.IndexFunc(versions, func(v *repo.ChartVersion) bool { return v.Metadata != nil && v.Version == r.Version && len(v.URLs) > 0 })
	if i < 0 {
		known := make([]string, 0, 5)
		for _, v := range versions[:min(len(versions), 5)] {
			known = append(known, v.Version)
		}
		err := fault.Inputf("deploy.chart", "the Helm repository %s has no chart %s %s", r.Repository, r.Chart, r.Version)
		if len(known) > 0 {
			return "", "", err.WithFix("choose one of %s", strings.Join(known, ", "))
		}
		return "", "", err
	}
	file, err = repo.ResolveReferenceURL(r.Repository, versions[i].URLs[0])
	if err != nil {
		return "", "", fault.Inputf("deploy.chart", "reading %s: %w", index, err)
	}
	return file, versions[i].Digest, nil
}

// readIndex parses an index.yaml. Helm's parser takes a file.
func readIndex(raw []byte) (*repo.IndexFile, error) {
	dir, err := os.MkdirTemp("", "slipway-index-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "index.yaml")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	return repo.LoadIndexFile(file)
}

// verifyProvenance checks the signature of a chart with the keys of deploy.chartKeyring.
func verifyProvenance(from deploy.Chart, signature []byte) error {
	keys, err := provenance.NewFromKeyring(from.Keyring, "")
	if err != nil {
		return fault.Inputf("deploy.chart-provenance", "reading deploy.chartKeyring: %w", err).WithFix("export the public keys with gpg --export in its binary format")
	}
	// Helm's verification takes files, whose name the provenance contains.
	dir, err := os.MkdirTemp("", "slipway-chart-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ch, err := loader.LoadArchive(bytes.NewReader(from.Package))
	if err != nil {
		return fault.Inputf("deploy.chart", "reading the chart %s: %w", from.Remote, err)
	}
	file := filepath.Join(dir, filepath.Base(ch.Name()+"-"+ch.Metadata.Version+".tgz"))
	for name, data := range map[string][]byte{file: from.Package, file + ".prov": signature} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			return err
		}
	}
	if _, err := keys.Verify(file, file+".prov"); err != nil {
		return fault.Gatef("deploy.chart-provenance", "the provenance of the chart %s: %w", from.Remote, err).
			WithFix("check who has signed it, and that their key is in deploy.chartKeyring")
	}
	return nil
}
