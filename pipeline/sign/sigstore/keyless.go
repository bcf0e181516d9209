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

// GitHubToken is a [sign.TokenSource] that requests a token from GitHub Actions
// (https://docs.github.com/en/actions/reference/security/oidc).
type GitHubToken struct {
	URL   string       // ACTIONS_ID_TOKEN_REQUEST_URL
	Grant sign.Secret  // ACTIONS_ID_TOKEN_REQUEST_TOKEN
	HTTP  *http.Client // default: a client with a timeout of one minute
}

// Token requests a token for the audience. It returns a [fault.Failed] error with
// the code token.refused if GitHub does not issue one.
func (t GitHubToken) Token(ctx context.Context, audience string) (sign.Secret, error) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Host == "" {
		return sign.Secret{}, fault.Inputf("token.missing", "ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	q := u.Query()
	q.Set("audience", audience)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return sign.Secret{}, fault.Inputf("token.missing", "ACTIONS_ID_TOKEN_REQUEST_URL is not a URL")
	}
	req.Header.Set("Authorization", "Bearer "+string(t.Grant.Reveal()))
	body, err := send(req, t.HTTP)
	if err != nil {
		return sign.Secret{}, requestError(ctx, "token.refused", "requesting an identity token from GitHub", err, "give the job permissions: id-token: write")
	}
	var answer struct{ Value string }
	if json.Unmarshal(body, &answer) != nil || answer.Value == "" {
		return sign.Secret{}, fault.Failedf("token.refused", "requesting an identity token from GitHub: the response contains no token").
			WithFix("give the job permissions: id-token: write")
	}
	return sign.Hide([]byte(answer.Value)), nil
}

// FindToken returns the token source of the CI that slipway runs in: the variable
// SIGSTORE_ID_TOKEN (for GitLab's id_tokens), the file in SIGSTORE_ID_TOKEN_FILE,
// or GitHub Actions. It returns a [fault.Input] error if there is none of them.
func FindToken(getenv func(string) string) (sign.TokenSource, error) {
	switch {
	case getenv("SIGSTORE_ID_TOKEN") != "":
		return sign.GivenToken{Value: sign.Hide([]byte(getenv("SIGSTORE_ID_TOKEN")))}, nil
	case getenv("SIGSTORE_ID_TOKEN_FILE") != "":
		return sign.FileToken{Path: getenv("SIGSTORE_ID_TOKEN_FILE")}, nil
	case getenv("ACTIONS_ID_TOKEN_REQUEST_URL") != "":
		return GitHubToken{URL: getenv("ACTIONS_ID_TOKEN_REQUEST_URL"), Grant: sign.Hide([]byte(getenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")))}, nil
	}
	return nil, fault.Inputf("token.missing", "keyless signing requires an identity token, and the environment contains none of the supported tokens").
		WithFix("on GitHub give the job permissions: id-token: write, on GitLab set id_tokens: SIGSTORE_ID_TOKEN, otherwise sign with a key")
}

// keyless generates the signer's key and requests a certificate for it.
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
	own := &policy{}
	if err := own.loadRoot(ctx, k.TrustedRoot); err != nil {
		return err
	}
	token, err := k.Token.Token(ctx, k.Audience)
	if err != nil {
		return err
	}
	private, err := cosign.GeneratePrivateKey()
	if err != nil {
		return fault.Failedf("key.generate", "generating a key for this run: %w", err)
	}
	if s.key, err = signature.LoadECDSASignerVerifier(private, crypto.SHA256); err != nil {
		return fault.Failedf("key.generate", "generating a key for this run: %w", err)
	}
	if s.cert, s.chain, err = requestCertificate(ctx, k, s.key, token); err != nil {
		return err
	}
	certs, err := cryptoutils.UnmarshalCertificatesFromPEM(s.cert)
	if err != nil || len(certs) != 1 {
		return fault.Failedf("fulcio.answer", "requesting a certificate from %s: the response contains a malformed certificate", k.Fulcio)
	}
	s.identity.Identity, s.identity.Issuer = identityOf(certs[0])
	own.identities = []cosign.Identity{{Issuer: s.identity.Issuer, Subject: s.identity.Identity}}
	s.policy = own
	return nil
}

// requestCertificate requests a certificate from Fulcio
// (https://github.com/sigstore/fulcio/blob/v1.8.8/fulcio.proto).
func requestCertificate(ctx context.Context, k sign.Keyless, sv signature.SignerVerifier, token sign.Secret) (cert, chain []byte, err error) {
	subject, err := subjectOf(token)
	if err != nil {
		return nil, nil, err
	}
	proof, err := sv.SignMessage(strings.NewReader(subject), options.WithContext(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("signing the proof of possession of the new key: %w", err)
	}
	pub, err := sv.PublicKey()
	if err != nil {
		return nil, nil, fmt.Errorf("reading the new public key: %w", err)
	}
	text, err := cryptoutils.MarshalPublicKeyToPEM(pub)
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the new public key: %w", err)
	}
	body, err := json.Marshal(map[string]any{"publicKeyRequest": map[string]any{
		"publicKey":         map[string]string{"algorithm": "ECDSA", "content": string(text)},
		"proofOfPossession": base64.StdEncoding.EncodeToString(proof),
	}})
	if err != nil {
		return nil, nil, fmt.Errorf("encoding the request for a certificate: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(k.Fulcio, "/")+"/api/v2/signingCert", bytes.NewReader(body))
	if err != nil {
		return nil, nil, fault.Inputf("fulcio.url", "the address %q of the certificate authority is malformed", k.Fulcio)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	data, err := send(req, k.HTTP)
	if err != nil {
		return nil, nil, requestError(ctx, "fulcio.refused", "requesting a certificate from "+k.Fulcio, err,
			"check that it trusts the issuer and the audience of the token, and that the token has not expired")
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
		return nil, nil, fault.Failedf("fulcio.answer", "requesting a certificate from %s: the response is not JSON", k.Fulcio)
	}
	certs := got.Embedded.Chain.Certificates
	if len(certs) == 0 {
		certs = got.Detached.Chain.Certificates
	}
	if len(certs) == 0 {
		return nil, nil, fault.Failedf("fulcio.answer", "requesting a certificate from %s: the response contains no certificate", k.Fulcio)
	}
	for i, c := range certs {
		certs[i] = strings.TrimSpace(c) + "\n"
	}
	return []byte(certs[0]), []byte(strings.Join(certs[1:], "")), nil
}

// subjectOf returns the subject of a token, without verifying the token. Fulcio
// verifies it.
func subjectOf(token sign.Secret) (string, error) {
	parts := strings.Split(string(token.Reveal()), ".")
	malformed := fault.Inputf("token.malformed", "the identity token is malformed").WithFix("use a JWT of the CI, for example GitLab's id_tokens")
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

// maxResponse is the maximal size of a response.
const maxResponse = 1 << 20

// newClient returns a client for a few requests. It keeps no connection open.
func newClient() *http.Client {
	tr := &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 15 * time.Second}
	return &http.Client{Transport: tr, Timeout: time.Minute}
}

// send sends a request that contains a secret and returns the body of the response.
// Its errors do not contain the secret.
func send(req *http.Request, client *http.Client) ([]byte, error) {
	if client == nil {
		client = newClient()
	}
	req.Header.Set("User-Agent", "slipway")
	resp, err := client.Do(req)
	if err != nil {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // removes the URL, which may contain a secret
		}
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxResponse))
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("the response has status %d: %s", resp.StatusCode, responseMessage(body))
	}
	return body, nil
}

// responseMessage returns the field message of an error response in JSON.
func responseMessage(body []byte) string {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &e) != nil || e.Message == "" {
		return "no reason given"
	}
	return e.Message
}

// requestError returns an error for a request that failed.
func requestError(ctx context.Context, code, what string, err error, fix string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fault.Failedf(code, "%s: %w", what, oneLine(err)).WithFix("%s", fix)
}

func checkURL(what, s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil {
		return fault.Inputf(what+".url", "the address of %s is not a URL", what).WithFix("use a URL like https://%s.example.com", what)
	}
	return nil
}

// loadRoot loads the trusted root, which has the certificate authorities, the
// certificate logs and the transparency logs. If file is empty, it is the trusted
// root of the public instance.
func (p *policy) loadRoot(ctx context.Context, file string) error {
	if file == "" {
		tr, err := publicRoot(ctx)
		if err != nil {
			return requestError(ctx, "root.unreachable", "fetching the trusted root of the public Sigstore instance", err,
				"check that tuf-repo-cdn.sigstore.dev can be reached, or set trustedRoot to a trusted_root.json")
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
		return fault.Inputf("root.malformed", "%s is not a trusted root: %w", file, oneLine(err)).
			WithFix("use a trusted_root.json of Sigstore; cosign trusted-root create writes one")
	}
	if len(tr.FulcioCertificateAuthorities()) == 0 || len(tr.RekorLogs()) == 0 {
		return fault.Inputf("root.incomplete", "trusted root %s has no certificate authority or no transparency log", file).
			WithFix("add both; certificates are valid for minutes, and only the log proves when they were used")
	}
	p.root = tr
	// A private instance may have no certificate log, unlike the public one.
	p.ignoreSCT = len(tr.CTLogs()) == 0
	return nil
}

// readRoot parses a trusted root. The library panics if parts of it are missing.
func readRoot(data []byte) (tr *root.TrustedRoot, err error) {
	defer func() {
		if recover() != nil {
			tr, err = nil, errors.New("it is incomplete")
		}
	}()
	return root.NewTrustedRootFromJSON(data)
}

func publicRoot(ctx context.Context) (*root.TrustedRoot, error) {
	f := fetcher.NewDefaultFetcher()
	f.SetHTTPUserAgent("slipway")
	f.SetHTTPClient(boundClient{ctx, newClient()})
	return root.FetchTrustedRootWithOptions(tuf.DefaultOptions().WithContext(ctx).WithFetcher(f))
}

// boundClient is a client whose requests end with a context. The library sends
// requests without a context.
type boundClient struct {
	ctx    context.Context
	client *http.Client
}

// Do sends a request.
func (b boundClient) Do(req *http.Request) (*http.Response, error) {
	return b.client.Do(req.WithContext(b.ctx)) //nolint:gosec // the address is that of the public instance
}
