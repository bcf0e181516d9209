package sigstore_test

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
	"github.com/slipway-ci/slipway/pipeline/sign/sigstore"
)

// tiles is a transparency log of version 2.
type tiles struct {
	url string
	log map[string]*root.TransparencyLog
}

// startTiles starts Rekor of version 2, which stores its log in a folder.
func startTiles(t *testing.T) tiles {
	t.Helper()
	server := program(t, "github.com/sigstore/rekor-tiles/v2/cmd/rekor-server/posix", "v2.3.0")
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	key := filepath.Join(dir, "key.pem")
	if err := os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(private))(t)}), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	// The shell ends the server when its standard input is closed, so the server also ends
	// if this process is killed.
	cmd := exec.Command("sh", "-c", `"$@" & pid=$!; cat >/dev/null; kill "$pid"; wait "$pid"`, "sh",
		server, "serve", "--hostname", "127.0.0.1", "--http-address", "127.0.0.1", "--grpc-address", "127.0.0.1",
		"--http-port", port, "--grpc-port", freePort(t), "--http-metrics-port", freePort(t),
		"--storage-dir", filepath.Join(dir, "log"), "--signer-filepath", key, "--checkpoint-interval", "1s")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "TMPDIR=" + dir, "PATH=" + os.Getenv("PATH")}
	stdin := must(cmd.StdinPipe())(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the end of the log of Rekor: %.3000s", stderr.String()[max(0, stderr.Len()-3000):])
		}
	})
	_, id, err := note.KeyHash("127.0.0.1", public)
	if err != nil {
		t.Fatal(err)
	}
	l := tiles{url: "http://127.0.0.1:" + port}
	l.log = map[string]*root.TransparencyLog{hex.EncodeToString(id): {
		BaseURL: l.url, ID: id, PublicKey: public, HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA512, ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		req := must(http.NewRequestWithContext(t.Context(), http.MethodGet, l.url+"/healthz", http.NoBody))(t)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return l
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("Rekor did not start within a minute")
		}
	}
}

// freePort returns a port of 127.0.0.1 that was free a moment ago, for a program that cannot
// choose one itself.
func freePort(t *testing.T) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil || l.Close() != nil {
		t.Fatal(err)
	}
	return port
}

// rootWith writes a trusted root with the log and a timestamp authority in addition to what
// is in the file base. Without base the authority is also one for certificates, because a
// root must have one.
func (l tiles) rootWith(t *testing.T, base string, authority *x509.Certificate) string {
	t.Helper()
	logs, ct := maps.Clone(l.log), map[string]*root.TransparencyLog{}
	authorities := []root.CertificateAuthority{&root.FulcioCertificateAuthority{Root: authority, ValidityPeriodStart: time.Now().Add(-time.Hour)}}
	if base != "" {
		tr := must(root.NewTrustedRootFromPath(base))(t)
		authorities, ct = tr.FulcioCertificateAuthorities(), tr.CTLogs()
		maps.Copy(logs, tr.RekorLogs())
	}
	stamps := []root.TimestampingAuthority{
		&root.SigstoreTimestampingAuthority{Root: authority, Leaf: authority, ValidityPeriodStart: time.Now().Add(-time.Hour), URI: "http://stamps.test"},
	}
	tr := must(root.NewTrustedRoot(root.TrustedRootMediaType01, authorities, ct, stamps, logs))(t)
	file := filepath.Join(t.TempDir(), "trusted_root.json")
	if err := os.WriteFile(file, must(tr.MarshalJSON())(t), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestKeyWithTiles signs with a key and a log of version 2. A policy can require the entry.
func TestKeyWithTiles(t *testing.T) {
	l := startTiles(t)
	p := newRepo(t, memory(t))
	keys := keyPair(t, "ours")
	s := must(sigstore.NewSigner(t.Context(), sign.SignerOptions{Key: keys.key(), Rekor: l.url, RekorVersion: 2}))(t)
	subs := p.pushImage(t)
	formats := []sign.Format{sign.FormatBundle}
	before := p.written()
	for _, formats := range [][]sign.Format{nil, {sign.FormatTag, sign.FormatBundle}} {
		_, err := sigstore.Sign(t.Context(), sign.Options{Subjects: subs, Signer: s, Formats: formats, Remote: p.remote(), Backoff: quick})
		wantFault(t, err, fault.Input, "rekor.bundle", "sign.formats: [bundle]")
	}
	if p.written() != before {
		t.Error("something was written although the log cannot take the format")
	}
	if r := p.signAs(t, s, subs, formats...); r.Unchanged || r.Subjects[0].LogIndex == nil {
		t.Errorf("%+v", r)
	}
	p.attestAs(t, s, formats, sbomStatement(subs...))
	policy := keys.trust()
	_, authority := authority(t)
	policy.RequireLog, policy.TrustedRoot, policy.Attestations = true, l.rootWith(t, "", authority), []string{"sbom"}
	if v, err := p.verify(t, subs[0], policy); err != nil || v.Subjects[0].Attestations[0].LogIndex == nil {
		t.Errorf("%v: %+v", err, v)
	}
	if r := p.signAs(t, s, subs, formats...); !r.Unchanged {
		t.Error("the image was signed again")
	}
	other := startTiles(t)
	policy.TrustedRoot = other.rootWith(t, "", authority)
	_, err := p.verify(t, subs[0], policy)
	wantFault(t, err, fault.Gate, sign.CodeNoLogEntry)
}

// TestKeylessWithTiles signs with a certificate of Fulcio, a log of version 2 and a timestamp,
// without which nobody knows whether the certificate was valid.
func TestKeylessWithTiles(t *testing.T) {
	i, l := newIssuer(t), startTiles(t)
	instance := startSigstore(t, i, true)
	server, authority := authority(t)
	trusted := l.rootWith(t, instance.root, authority)
	options := func(stamps string) sign.SignerOptions {
		token := givenToken(i.token("sigstore", keylessIdentity, time.Hour))
		return sign.SignerOptions{Keyless: &sign.Keyless{Fulcio: instance.Fulcio, Token: token, TrustedRoot: trusted}, Rekor: l.url, RekorVersion: 2, Timestamp: stamps}
	}
	_, err := sigstore.NewSigner(t.Context(), options(""))
	wantFault(t, err, fault.Input, "rekor.timestamp", "sign.timestamp")

	p := newRepo(t, memory(t))
	subs := p.pushImage(t)
	s := must(sigstore.NewSigner(t.Context(), options(server.URL)))(t)
	if r := p.signAs(t, s, subs, sign.FormatBundle); r.Unchanged || r.Subjects[0].LogIndex == nil {
		t.Errorf("%+v", r)
	}
	policy := sign.Policy{Identities: []sign.Identity{{Issuer: i.URL, Subject: keylessIdentity}}, TrustedRoot: trusted}
	v, err := p.verify(t, subs[0], policy)
	if err != nil || v.Subjects[0].Signatures[0].Identity != keylessIdentity {
		t.Errorf("%v: %+v", err, v)
	}
	policy.TrustedRoot = instance.root // knows neither the log nor the authority
	_, err = p.verify(t, subs[0], policy)
	wantFault(t, err, fault.Gate, sign.CodeNoLogEntry)
}
