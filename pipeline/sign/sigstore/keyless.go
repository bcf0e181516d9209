package sigstore

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/oauthflow"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/theupdateframework/go-tuf/v2/metadata/fetcher"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// PublicRekor is the transparency log of the public instance of Sigstore.
const PublicRekor = "https://rekor.sigstore.dev"

// GitHubToken asks GitHub Actions for a token
// (https://docs.github.com/en/actions/reference/security/oidc).
type GitHubToken struct {
	URL   string      // ACTIONS_ID_TOKEN_REQUEST_URL
	Grant sign.Secret // ACTIONS_ID_TOKEN_REQUEST_TOKEN
	HTTP  *http.Client
}

// Token asks for one.
func (t GitHubToken) Token(ctx context.Context, audience string) (sign.Secret, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Host == "" {
		return sign.Secret{}, fault.Inputf("token.missing", "ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return sign.Secret{}, fault.Inputf("token.missing", "ACTIONS_ID_TOKEN_REQUEST_URL is no URL")
	}
	req.Header.Set("Authorization", "Bearer "+string(t.Grant.Reveal()))
	body, err := exchange(req, t.HTTP)
	if err != nil {
		return sign.Secret{}, failedAt(ctx, "token.refused", "asking GitHub for an identity token", err, "give the job permissions: id-token: write")
	}
	var answer struct{ Value string }
	if json.Unmarshal(body, &answer) != nil || answer.Value == "" {
		return sign.Secret{}, fault.Failedf("token.refused", "asking GitHub for an identity token: its answer holds none").
			WithFix("give the job permissions: id-token: write")
	}
	return sign.Hide([]byte(answer.Value)), nil
}

// FindToken finds the token of the CI it runs in: SIGSTORE_ID_TOKEN (GitLab's
// id_tokens), a file named by SIGSTORE_ID_TOKEN_FILE, or GitHub Actions.
func FindToken(getenv func(string) string) (sign.TokenSource, error) {
	switch {
	case getenv("SIGSTORE_ID_TOKEN") != "":
		return sign.GivenToken{Value: sign.Hide([]byte(getenv("SIGSTORE_ID_TOKEN")))}, nil
	case getenv("SIGSTORE_ID_TOKEN_FILE") != "":
		return sign.FileToken{Path: getenv("SIGSTORE_ID_TOKEN_FILE")}, nil
	case getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "":
		return GitHubToken{URL: getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), Grant: sign.Hide([]byte(getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")))}, nil
	}
	return nil, fault.Inputf("token.missing", "keyless signing needs an identity token and there is none here").
		WithFix("on GitHub give the job permissions: id-token: write, on GitLab set id_tokens: SIGSTORE_ID_TOKEN, elsewhere sign with a key")
}

// keyless makes the signer's key and gets a certificate for it.
func (s *signer) keyless(ctx context.Context, k sign.Keyless) error {
	public := config.DefaultKeyless()
	k.Fulcio, k.Audience = cmp.Or(k.Fulcio, public.Fulcio), cmp.Or(k.Audience, public.Audience)
	if s.logURL == "" {
		s.logURL = PublicRekor
	}
	if err := checkURL("fulcio", k.Fulcio); err != nil {
		return err
	}
	if k.Token == nil {
		var err error
		if k.Token, err = FindToken(os.Getenv); err != nil {
			return err
		}
	}
	self := &policy{}
	if err := self.trust(ctx, k.TrustedRoot); err != nil {
		return err
	}
	token, err := k.Token.Token(ctx, k.Audience)
	if err != nil {
		return err
	}
	private, err := cosign.GeneratePrivateKey()
	if err != nil {
		return fault.Failedf("key.generate", "making a key for this run: %w", err)
	}
	if s.key, err = signature.LoadECDSASignerVerifier(private, crypto.SHA256); err != nil {
		return fault.Failedf("key.generate", "making a key for this run: %w", err)
	}
	if s.cert, s.chain, err = certify(ctx, k, s.key, token); err != nil {
		return err
	}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(s.cert)
	if err != nil || len(certs) != 1 {
		return fault.Failedf("fulcio.answer", "%s gave no certificate that can be read", k.Fulcio)
	}
	s.who.Identity, s.who.Issuer = identityOf(certs[0])
	self.identities = []cosign.Identity{{Issuer: s.who.Issuer, Subject: s.who.Identity}}
	s.self = self
	return nil
}

// certify asks Fulcio for a certificate
// (https://github.com/sigstore/fulcio/blob/v1.8.8/fulcio.proto).
func certify(ctx context.Context, k sign.Keyless, sv signature.SignerVerifier, token sign.Secret) (cert, chain []byte, err error) {
	subject, err := subjectOf(token)
	if err != nil {
		return nil, nil, err
	}
	proof, err := sv.SignMessage(strings.NewReader(subject), options.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("proving that we hold the new key: %w", err)
	}
	pub, err := sv.PublicKey()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the new public key: %w", err)
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("writing the new public key: %w", err)
	}
	body, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey":         map[string]string{"algorithm": "ECDSA", "content": string(text)},
		"proofOfPossession": base64.StdEncoding.EncodeToString(proof),
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("writing the request for a certificate: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(k.Fulcio, "/")+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		return nil, nil, fault.Inputf("fulcio.url", "%q is no address of a certificate authority", k.Fulcio)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	data, err := exchange(req, k.HTTP)
	if err != nil {
		return nil, nil, failedAt(ctx, "fulcio.refused", "asking "+k.Fulcio+" for a certificate", err,
			"check that it trusts the token's issuer and audience and that the token is fresh")
	}
	type answer struct {
		Chain struct {
			Certificates []string `json:"certificates"`
		} `json:"chain"`
	}
	var got struct {
		Embedded answer `json:"signedCertificateEmbeddedSct"`
		Detached answer `json:"signedCertificateDetachedSct"`
	}
	if err := json.Unmarshal(data, &got); err != nil {
		return nil, nil, fault.Failedf("fulcio.answer", "%s gave no certificate: its answer is no JSON", k.Fulcio)
	}
	certs := got.Embedded.Chain.Certificates
	if len(certs) == 0 {
		certs = got.Detached.Chain.Certificates
	}
	if len(certs) == 0 {
		return nil, nil, fault.Failedf("fulcio.answer", "%s gave no certificate", k.Fulcio)
	}
	for i, c := range certs {
		certs[i] = strings.TrimSpace(c) + "\n"
	}
	return []byte(certs[0]), []byte(strings.Join(certs[1:], "")), nil
}

// subjectOf reads who a token is for; Fulcio checks the token.
func subjectOf(token sign.Secret) (string, error) {
	parts := strings.Split(string(token.Reveal()), ".")
	malformed := fault.Inputf("token.malformed", "the identity token is malformed").WithFix("it must be a JWT of the CI, for example GitLab's id_tokens")
	if len(parts) != 3 {
		return "", malformed
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", malformed
	}
	subject, err := oauthflow.SubjectFromUnverifiedToken(claims)
	if err != nil {
		return "", malformed
	}
	return subject, nil
}

const maxAnswer = 1 << 20

// newClient is for a few requests to a few hosts; it leaves nothing open.
func newClient() *http.Client {
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 15 * time.Second}
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// exchange sends a request that holds a secret; its errors do not.
func exchange(req *http.Request, client *http.Client) ([]byte, error) {
	if client == nil {
		client = newClient()
	}
	req.Header.Set("User-Agent", "slipway")
	resp, err := client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // without the URL
		}
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("it answers %d: %s", resp.StatusCode, explained(body))
	}
	return body, nil
}

// explained is what an error body says, where it says so in the usual form.
func explained(body []byte) string {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &e) != nil || e.Message == "" {
		return "no reason given"
	}
	return e.Message
}

func failedAt(ctx context.Context, code, what string, err error, fix string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Failedf(code, "%s: %w", what, oneLine(err)).WithFix("%s", fix)
}

func checkURL(what, s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return fault.Inputf(what+".url", "the address of %s is no URL", what).WithFix("for example https://%s.example.com", what)
	}
	return nil
}

// trust loads the trusted root: certificate authorities, certificate logs and
// transparency logs.
func (p *policy) trust(ctx context.Context, file string) error {
	if file == "" {
		tr, err := publicRoot(ctx)
		if err != nil {
			return failedAt(ctx, "root.unreachable", "getting the trusted root of the public Sigstore instance", err,
				"check that tuf-repo-cdn.sigstore.dev can be reached, or name a trusted_root.json with trustedRoot")
		}
		p.root = tr
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fault.Inputf("root.unreadable", "reading trusted root %s: %w", file, plain(err))
	}
	tr, err := readRoot(data)
	if err != nil {
		return fault.Inputf("root.malformed", "%s is no trusted root: %w", file, oneLine(err)).
			WithFix("it is Sigstore's trusted_root.json; cosign trusted-root create writes one")
	}
	if len(tr.FulcioCertificateAuthorities()) == 0 || len(tr.RekorLogs()) == 0 {
		return fault.Inputf("root.incomplete", "trusted root %s names no certificate authority or no transparency log", file).
			WithFix("certificates live for minutes; only the log says when they were used")
	}
	p.root = tr
	// A private instance may have no certificate log. The public one has.
	p.ignoreSCT = len(tr.CTLogs()) == 0
	return nil
}

// readRoot guards against what the library does with a file that lacks parts.
func readRoot(data []byte) (tr *root.TrustedRoot, err error) {
	defer func() {
		if recover() != nil {
			tr, err = nil, errors.New("it lacks parts")
		}
	}()
	return root.NewTrustedRootFromJSON(data)
}

func publicRoot(ctx context.Context) (*root.TrustedRoot, error) {
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPUserAgent("slipway")
	f.SetHTTPClient(bound{ctx, newClient()})
	return root.FetchTrustedRootWithOptions(tuf.DefaultOptions().WithContext(ctx).WithFetcher(f))
}

// bound ends requests with a context; the library has none.
type bound struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	client *http.Client
}

// Do sends a request.
func (b bound) Do(req *http.Request) (*http.Response, error) {
	return b.client.Do(req.WithContext(b.ctx)) //nolint:gosec // the address is the configured instance's
}
