package ship

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Signing holds the options of signing that are not in the configuration.
type Signing struct {
	Password sign.Secret      // of the private key
	Token    sign.TokenSource // OIDC token of the signer; default: that of the CI job
}

// checkSigner returns an error if the program does not include support for signing.
func (p *run) checkSigner() error {
	if p.Signer == nil {
		return fault.Inputf("sign.no-signer", "this slipway was built without support for signing and verification").
			WithFix("use the slipway program; slipway-core does not have it")
	}
	return nil
}

// checkKey returns an error if neither a key nor keyless signing is configured. The
// embedded registry needs neither, see machineKey.
func (p *run) checkKey() error {
	if err := p.checkSigner(); err != nil {
		return err
	}
	if s := p.Config.Sign; s.Key == "" && s.Keyless == nil && !p.local() {
		return fault.Inputf("key.missing", "there is nothing to sign with").
			WithFix("set sign.key or sign.keyless in slipway.yaml, make a key with slipway keys generate, or push without a signature with --unsigned")
	}
	return nil
}

// prepareSigner starts to load the key in the background if the run signs with one.
// Decrypting a key takes noticeable time, because its password is hashed with a function
// that is slow on purpose. The step that uses the key reports its errors.
func (p *run) prepareSigner(ctx context.Context) {
	p.signer = sync.OnceValues(func() (sign.Signer, error) { return p.newSigner(ctx) })
	if !p.includes(Sign) || p.Config.Sign.Keyless != nil {
		return
	}
	var loading sync.WaitGroup
	loading.Go(func() { _, _ = p.signer() })
	p.atEnd(func() error { loading.Wait(); return nil })
}

// newSigner loads the configured key, or gets a certificate for keyless signing.
func (p *run) newSigner(ctx context.Context) (sign.Signer, error) {
	s := p.Config.Sign
	o := sign.SignerOptions{Rekor: s.Rekor, RekorVersion: s.RekorVersion, Timestamp: s.Timestamp}
	switch {
	case s.Keyless != nil:
		o.Keyless = &sign.Keyless{
			Fulcio: s.Keyless.Fulcio, Audience: s.Keyless.Audience, TrustedRoot: p.resolve(s.Keyless.TrustedRoot), Token: p.Signing.Token,
		}
	case s.Key != "":
		o.Key = sign.Key{Ref: p.resolve(s.Key), Password: p.Signing.Password}
	default:
		file, err := p.machineKey(ctx)
		if err != nil {
			return nil, err
		}
		o.Key = sign.Key{Ref: file}
	}
	return p.Signer.NewSigner(ctx, o)
}

// machineKey returns the path of the private key for images in the embedded registry.
// The first call generates it. It has no password, because nobody outside this machine
// trusts it.
func (p *run) machineKey(ctx context.Context) (string, error) {
	unlock, err := p.kept().Lock(ctx, "keys", "lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	file := p.kept().Path("keys", "machine.key")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file, nil
	}
	_, err = p.Signer.GenerateKeys(ctx, sign.KeysOptions{Private: file, Public: publicKeyFile(file), Force: true})
	return file, err
}

// publicKeyFile returns the path of the public key for the private key of machineKey.
func publicKeyFile(private string) string { return strings.TrimSuffix(private, ".key") + ".pub" }

func (p *run) sign(ctx context.Context) (graph.Outcome, error) {
	signer, err := p.signer()
	if err != nil {
		return graph.Outcome{}, err
	}
	subjects, err := p.subjects(ctx)
	if err != nil {
		return graph.Outcome{}, err
	}
	client, err := p.registry()
	if err != nil {
		return graph.Outcome{}, err
	}
	r, err := p.Signer.Sign(ctx, sign.Options{Subjects: subjects, Signer: signer, Formats: p.Config.Sign.Formats, Remote: client.Options(ctx), Backoff: p.Backoff})
	if err != nil {
		return graph.Outcome{}, err
	}
	p.report.Sign = &r
	by := r.Signer.String()
	if p.Config.Sign.Key == "" && p.Config.Sign.Keyless == nil {
		by = "this machine's own key"
	}
	return graph.Outcome{Kind: changed(r.Unchanged), Summary: fmt.Sprintf("%d manifests by %s", len(r.Subjects), by)}, nil
}
