package ship

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/image"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Signing is what signing needs beside the configuration.
type Signing struct {
	Password sign.Secret      // of the private key
	Token    sign.TokenSource // of the signer's identity; default: the CI's own
}

// buildType says how a provenance's parameters are read.
const buildType = "https://github.com/slipway-ci/slipway/blob/main/docs/supply-chain.md#provenance-v1"

// localBuilder is who builds outside the CI systems slipway knows.
const localBuilder = "https://github.com/slipway-ci/slipway/blob/main/docs/supply-chain.md#a-builder-without-a-name"

// checkSigner finds out before any work is done that nothing can sign.
func (p *run) checkSigner() error {
	if p.Signer == nil && slices.ContainsFunc(p.Stages, func(s Name) bool { return s == Sign || s == Attest || s == Verify }) {
		return fault.Inputf("sign.no-signer", "this slipway was built without what signs and verifies").
			WithFix("use the slipway program; slipway-core has everything but scan, sign and verify")
	}
	if !slices.Contains(p.Stages, Sign) {
		return nil
	}
	if s := p.Config.Sign; s.Key == "" && s.Keyless == nil && !p.local() {
		return fault.Inputf("key.missing", "there is nothing to sign with").
			WithFix("set sign.key or sign.keyless in slipway.yaml, make a key with slipway keys generate, or push without signature by --unsigned")
	}
	return nil
}

// local reports whether the image goes to the embedded registry, or is there.
func (p *run) local() bool {
	if p.RegistryServer != "" {
		return false
	}
	if p.Reference != "" {
		host, _, _ := strings.Cut(p.Reference, "/")
		return host == embeddedHost()
	}
	return p.Config.Image.Repository == ""
}

// embeddedHost is the embedded registry's address.
func embeddedHost() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(embedded.Port)) }

// beside makes a path of slipway.yaml absolute; what names a key store stays.
func (p *run) beside(path string) string {
	if path == "" || filepath.IsAbs(path) || strings.Contains(path, "://") {
		return path
	}
	return filepath.Join(p.Root, path)
}

// newSigner gets a key or a certificate. A key of a file is slow to load,
// because its password is hashed, so this starts with the run.
func (p *run) newSigner(ctx context.Context) (sign.Signer, error) {
	s := p.Config.Sign
	o := sign.SignerOptions{Rekor: s.Rekor}
	switch {
	case s.Keyless != nil:
		o.Keyless = &sign.Keyless{
			Fulcio: s.Keyless.Fulcio, Audience: s.Keyless.Audience, TrustedRoot: p.beside(s.Keyless.TrustedRoot), Token: p.Signing.Token,
		}
	case s.Key != "":
		o.Key = sign.Key{Ref: p.beside(s.Key), Password: p.Signing.Password}
	default:
		file, err := p.machineKey(ctx)
		if err != nil {
			return nil, err
		}
		o.Key = sign.Key{Ref: file}
	}
	return p.Signer.NewSigner(ctx, o)
}

// machineKey is the key for the embedded registry, made at the first use. It
// has no password: it proves nothing beyond this machine.
func (p *run) machineKey(ctx context.Context) (string, error) {
	unlock, err := p.Cache.Lock(ctx, "keys", "lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	file := p.Cache.Path("keys", "machine.key")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	_, err = p.Signer.GenerateKeys(ctx, sign.KeysOptions{Private: file, Public: p.Cache.Path("keys", "machine.pub"), Force: true})
	return file, err
}

// subjects are the manifests that are signed and attested, the index first:
// those this run pushed, or those of the image it was given. A given image must
// be what this source builds wherever the run built it.
func (p *run) subjects(ctx context.Context) (*registry.Client, []sign.Subject, error) {
	if p.Reference == "" {
		client, repo, err := p.target(ctx)
		if err != nil {
			return nil, nil, err
		}
		all := []sign.Subject{{Digest: repo.Digest(p.report.Digest)}}
		if p.report.Image.Image.Index == nil {
			all[0].Platform = p.report.Image.Platforms[0].Platform
			return client, all, nil
		}
		for _, f := range p.report.Image.Platforms {
			all = append(all, sign.Subject{Digest: repo.Digest(f.Digest), Platform: f.Platform})
		}
		return client, all, nil
	}
	if given := p.remote.Reference; p.report.Image != nil && p.report.Digest != given.DigestStr() {
		return nil, nil, fault.Inputf("sign.other-image", "%s is not what this source builds, which is %s", given, p.report.Digest).
			WithFix("build with the same commit, version and flags, or attest nothing by --only-signature")
	}
	client, err := p.client(p.Reference)
	if err != nil {
		return nil, nil, err
	}
	all := manifests(p.remote)
	if !slices.ContainsFunc(all, func(s sign.Subject) bool { return s.Digest == p.remote.Reference }) {
		all = slices.Insert(all, 0, sign.Subject{Digest: p.remote.Reference})
	}
	return client, all, nil
}

func manifests(r registry.Remote) []sign.Subject {
	all := make([]sign.Subject, 0, len(r.Platforms))
	for _, f := range r.Platforms {
		all = append(all, sign.Subject{Digest: f.Reference, Platform: f.Platform.String()})
	}
	return all
}

// open finds the image a run was given, before any work is done.
func (p *run) open(ctx context.Context) error {
	if p.Reference == "" {
		return nil
	}
	if len(p.Stages) == 1 && p.Stages[0] == Plan { // what is in it does not matter
		digest, err := name.NewDigest(p.Reference, name.WeakValidation)
		if err != nil {
			return fault.Inputf("reference.no-digest", "%w", err)
		}
		p.remote.Reference = digest
		return nil
	}
	if p.local() {
		if _, err := p.embedded(ctx); err != nil {
			return err
		}
	}
	client, err := p.client(p.Reference)
	if err != nil {
		return err
	}
	p.atEnd(client.Close) // a scan reads the layers later
	if slices.Contains(p.Stages, Sign) {
		if err := mustBeDigest(client, p.Reference); err != nil {
			return err
		}
	}
	progress.Statusf(ctx, "finding %s", p.Reference)
	if p.remote, err = client.Open(ctx, p.Reference); err != nil {
		return err
	}
	p.report.Reference = p.remote.Reference.Name()
	return nil
}

func mustBeDigest(client *registry.Client, reference string) error {
	ref, err := client.Reference(reference)
	if err != nil {
		return err
	}
	if _, ok := ref.(name.Digest); !ok {
		return fault.Inputf("reference.no-digest", "%s names an image by its tag", reference).
			WithFix("sign repository@sha256:...; a tag can point elsewhere a moment later")
	}
	return nil
}

func (p *run) sign(ctx context.Context) (outcome, error) {
	signer, err := p.signer()
	if err != nil {
		return outcome{}, err
	}
	client, subjects, err := p.subjects(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer client.Close()
	r, err := p.Signer.Sign(ctx, sign.Options{Subjects: subjects, Signer: signer, Remote: client.Options(ctx), Backoff: p.Backoff})
	if err != nil {
		return outcome{}, err
	}
	p.report.Sign = &r
	by := r.Signer.String()
	if p.Config.Sign.Key == "" && p.Config.Sign.Keyless == nil {
		by = "this machine's own key"
	}
	return outcome{changed(r.Unchanged), fmt.Sprintf("%d manifests by %s", len(r.Subjects), by)}, nil
}

func changed(unchanged bool) progress.Outcome {
	if unchanged {
		return progress.Unchanged
	}
	return progress.Passed
}

// attest states what the run knows of the image: what is in it, how it was
// made and what the scan said.
func (p *run) attest(ctx context.Context) (outcome, error) {
	if len(p.Config.Sign.Attestations) == 0 {
		return outcome{progress.Skipped, "sign.attestations is empty"}, nil
	}
	signer, err := p.signer()
	if err != nil {
		return outcome{}, err
	}
	client, subjects, err := p.subjects(ctx)
	if err != nil {
		return outcome{}, err
	}
	defer client.Close()
	var statements []sign.Statement
	for _, kind := range p.Config.Sign.Attestations {
		var made []sign.Statement
		switch kind {
		case sign.TypeSBOM:
			made, err = p.attestSBOMs(subjects)
		case sign.TypeProvenance:
			made, err = p.attestProvenance(subjects)
		case sign.TypeScan:
			made, err = p.attestScan(subjects)
		}
		if err != nil {
			return outcome{}, err
		}
		statements = append(statements, made...)
	}
	r, err := p.Signer.Attest(ctx, sign.AttestOptions{Statements: statements, Signer: signer, Remote: client.Options(ctx), Backoff: p.Backoff})
	if err != nil {
		return outcome{}, err
	}
	p.report.Attest = &r
	return outcome{changed(r.Unchanged), fmt.Sprintf("%s of %d manifests", strings.Join(p.Config.Sign.Attestations, ", "), len(subjects))}, nil
}

// attestSBOMs states the SPDX document of each platform of its own manifest,
// and that of all together of the index.
func (p *run) attestSBOMs(subjects []sign.Subject) ([]sign.Statement, error) {
	var statements []sign.Statement
	var all [][]byte
	for _, b := range p.report.SBOMs {
		if b.Format != scan.SPDX {
			continue
		}
		text, err := os.ReadFile(b.Path)
		if err != nil {
			return nil, fmt.Errorf("reading the SBOM: %w", err)
		}
		all = append(all, text)
		for _, s := range subjects {
			if s.Platform == b.Platform {
				statements = append(statements, sign.Statement{PredicateType: sign.PredicateSPDX, Predicate: text, For: []sign.Subject{s}})
			}
		}
	}
	if index := subjects[0]; index.Platform == "" {
		text, err := scan.CombineSPDX(p.source.Name, index.Digest.DigestStr(), all)
		if err != nil {
			return nil, err
		}
		statements = append(statements, sign.Statement{PredicateType: sign.PredicateSPDX, Predicate: text, For: subjects[:1]})
	}
	return statements, nil
}

// attestProvenance states where the image comes from. It holds nothing of the
// run itself but the builder, so that another run of the same commit there
// states the same.
func (p *run) attestProvenance(subjects []sign.Subject) ([]sign.Statement, error) {
	builder := ci.Detect(nil).Builder()
	if builder == "" {
		builder = localBuilder
	}
	s := p.source
	o := sign.ProvenanceOptions{
		BuildType: buildType, Builder: builder, Source: p.sourceURI(), Revision: s.Revision,
		External: map[string]any{"config": p.settings(), "version": s.Version, "main": s.Main, "dirty": s.Dirty},
		Internal: map[string]any{"epoch": s.Time.Unix()},
		Materials: []sign.Material{
			{URI: "pkg:golang/toolchain@" + strings.TrimPrefix(p.report.Build.Toolchain, "go"), Name: "go"},
		},
	}
	if base := p.report.Image.BaseDigest; base != "" {
		algorithm, hex, _ := strings.Cut(base, ":")
		o.Materials = append(o.Materials, sign.Material{URI: "docker://" + p.report.Image.BaseName, Name: "base", Digest: map[string]string{algorithm: hex}})
	}
	predicate, err := sign.Provenance(o)
	if err != nil {
		return nil, err
	}
	return []sign.Statement{{PredicateType: sign.PredicateProvenance, Predicate: predicate, For: subjects}}, nil
}

// settings are those that change the image's bytes.
func (p *run) settings() map[string]any {
	return map[string]any{"app": p.Config.App, "image": p.Config.Image}
}

func (p *run) sourceURI() string {
	uri := image.SourceURL(p.Config.Image.Source, p.source.Module)
	if uri == "" {
		return ""
	}
	return "git+" + uri
}

func (p *run) attestScan(subjects []sign.Subject) ([]sign.Statement, error) {
	r := p.report.Scan
	report, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the scan's result: %w", err)
	}
	c := r.Counts
	predicate, err := sign.ScanPredicate(sign.ScanOptions{
		Scanner: "pkg:golang/github.com/aquasecurity/trivy", Version: r.Scanner.Version,
		Database: r.Database.Source, DatabaseID: r.Database.Digest, Updated: r.Database.UpdatedAt,
		Finished: r.Time, Verdict: sign.ScanPassed, Report: report,
		Counts: map[string]int{"critical": c.Critical, "high": c.High, "medium": c.Medium, "low": c.Low, "unknown": c.Unknown},
	})
	if err != nil {
		return nil, err
	}
	return []sign.Statement{{PredicateType: sign.PredicateScan, Predicate: predicate, For: subjects}}, nil
}

// verify checks the image as a deployment would.
func (p *run) verify(ctx context.Context) (outcome, error) {
	policy, err := p.policy(ctx)
	if err != nil {
		return outcome{}, err
	}
	reference := p.remote.Reference
	var client *registry.Client
	if p.Reference != "" {
		client, err = p.client(p.Reference)
	} else {
		var repo name.Repository
		client, repo, err = p.target(ctx)
		reference = repo.Digest(p.report.Digest)
	}
	if err != nil {
		return outcome{}, err
	}
	defer client.Close()
	r, err := p.Signer.Verify(ctx, sign.VerifyOptions{Reference: reference, Policy: policy, Remote: client.Options(ctx), Backoff: p.Backoff})
	if len(r.Subjects) > 0 {
		p.report.Verify = &r
	}
	if err != nil {
		return outcome{}, err
	}
	return outcome{progress.Passed, summarizeVerify(r, policy)}, nil
}

func summarizeVerify(r sign.VerifyResult, policy sign.Policy) string {
	s := fmt.Sprintf("%d manifests signed", len(r.Subjects))
	if len(policy.Attestations) > 0 {
		s += ", " + strings.Join(policy.Attestations, ", ") + " attested"
	}
	return s
}

// checkPolicy finds out before any work is done that there is no such policy.
func (p *run) checkPolicy() error {
	if !slices.Contains(p.Stages, Verify) {
		return nil
	}
	_, err := p.Config.Policy(p.Environment)
	return err
}

// policy is what must be true of the image.
func (p *run) policy(ctx context.Context) (sign.Policy, error) {
	v, err := p.Config.Policy(p.Environment)
	if err != nil {
		return sign.Policy{}, err
	}
	policy := sign.Policy{
		Identities: identities(v.Identities), TrustedRoot: p.beside(v.TrustedRoot),
		Attestations: v.Attestations, ScanMaxAge: time.Duration(v.ScanMaxAge),
	}
	for _, k := range v.Keys {
		policy.Keys = append(policy.Keys, sign.Key{Ref: p.beside(k)})
	}
	if len(policy.Keys) > 0 || len(policy.Identities) > 0 {
		return policy, nil
	}
	// Nobody is named: whoever this configuration signs with.
	switch s := p.Config.Sign; {
	case s.Keyless != nil:
		return policy, fault.Inputf("verify.nobody", "nobody is named whose signature counts").
			WithFix("set verify.identities in slipway.yaml to who signs keyless")
	case s.Key != "":
		policy.Keys = []sign.Key{{Ref: p.beside(s.Key), Password: p.Signing.Password}}
	case p.local():
		file, err := p.machineKey(ctx)
		if err != nil {
			return policy, err
		}
		policy.Keys = []sign.Key{{Ref: strings.TrimSuffix(file, ".key") + ".pub"}}
	default:
		return policy, fault.Inputf("verify.nobody", "nobody is named whose signature counts").
			WithFix("set verify.keys or verify.identities in slipway.yaml, or give --key")
	}
	return policy, nil
}

func identities(list []config.Identity) []sign.Identity {
	var all []sign.Identity
	for _, i := range list {
		all = append(all, sign.Identity(i))
	}
	return all
}
