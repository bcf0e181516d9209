package command

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Variables that may hold the password of a private key; the second is
// cosign's.
const (
	passwordVariable       = "SLIPWAY_KEY_PASSWORD"
	cosignPasswordVariable = "COSIGN_PASSWORD"
)

// keyPassword is the password in the environment, which may be empty there.
func keyPassword() (password sign.Secret, set bool) {
	for _, name := range []string{passwordVariable, cosignPasswordVariable} {
		if v, ok := os.LookupEnv(name); ok {
			return sign.Hide([]byte(v)), true
		}
	}
	return sign.Secret{}, false
}

// scanFlags adds what narrows the gate down and where its database comes from.
func (r *request) scanFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringSliceVar(&r.severities, "severity", nil, "`SEVERITIES` that fail, for example HIGH,CRITICAL")
	f.BoolVar(&r.ignoreUnfixed, "ignore-unfixed", false, "pass vulnerabilities that no version fixes yet")
	f.BoolVar(&r.reachableOnly, "reachable-only", false, "fail only on Go vulnerabilities that the program calls")
	f.StringArrayVar(&r.databases, "db-repository", nil, "vulnerability database: a `REPOSITORY`, oci:DIR or bundled; repeatable, tried in order")
	f.BoolVar(&r.offline, "offline", false, "use the cached database however old it is")
}

// signFlags adds who signs.
func (r *request) signFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.key, "key", "", "private `KEY`: a file, env://NAME, or a KMS key (password in "+passwordVariable+")")
	f.BoolVar(&r.keyless, "keyless", false, "sign with a certificate for the CI's identity")
	f.StringVar(&r.token, "identity-token", "", "`FILE` with the signer's OIDC token (default: the CI's own)")
}

// accessFlags adds how a registry is reached that an image is in.
func (r *request) accessFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.username, "username", "", "registry user `NAME` (or SLIPWAY_REGISTRY_USERNAME)")
	f.BoolVar(&r.passwordStdin, "password-stdin", false, "read the registry password from standard input (or SLIPWAY_REGISTRY_PASSWORD)")
	f.BoolVar(&r.insecure, "insecure", false, "speak plain HTTP to the registry")
	f.StringVar(&r.registryServer, "registry-server", "", "reach the registry at `HOST[:PORT]` in place of its own address")
}

// applySupply lets the flags of scan, sign and verify win over the configuration.
func (r *request) applySupply(c *config.Config) error {
	if len(r.severities) > 0 {
		c.Scan.Severities = nil
		for _, s := range r.severities {
			c.Scan.Severities = append(c.Scan.Severities, strings.ToUpper(s))
		}
	}
	c.Scan.IgnoreUnfixed = c.Scan.IgnoreUnfixed || r.ignoreUnfixed
	c.Scan.FailOn.ReachableOnly = c.Scan.FailOn.ReachableOnly || r.reachableOnly
	c.Scan.Offline = c.Scan.Offline || r.offline
	if len(r.databases) > 0 {
		c.Scan.Databases = r.databases
	}
	switch {
	case r.key != "" && (r.keyless || r.token != ""):
		return fault.Inputf("usage", "--key and keyless signing exclude each other")
	case r.key != "":
		c.Sign.Key, c.Sign.Keyless = fromHere(r.key), nil
	case (r.keyless || r.token != "") && c.Sign.Keyless == nil:
		c.Sign.Key, c.Sign.Keyless = "", &config.Keyless{}
	}
	return nil
}

// fromHere makes a path given by a flag absolute: those of slipway.yaml are
// relative to its folder.
func fromHere(ref string) string {
	if strings.Contains(ref, "://") {
		return ref
	}
	if abs, err := filepath.Abs(ref); err == nil {
		return abs
	}
	return ref
}

func (r *request) signing() ship.Signing {
	var s ship.Signing
	s.Password, _ = keyPassword()
	if r.token != "" {
		s.Token = sign.FileToken{Path: r.token}
	}
	return s
}

func (a *app) scanCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "scan", "Scan for vulnerabilities, secrets and misconfiguration", `  slipway scan
  slipway scan --severity CRITICAL --reachable-only
  slipway scan --as sarif > scan.sarif
  slipway scan --image ghcr.io/acme/orders:v1.2.3
  slipway scan --offline --db-repository oci:trivy-db`, verdictFlags|buildFlags, ship.Build, ship.Scan)
	cmd.Long = `Scan builds the app and looks for known vulnerabilities in its modules, Go's
library and the base image, for secrets in image and source, and for
misconfigured charts. Findings of the severities in scan.severities fail it;
a Go vulnerability tells whether the program calls it.

The plain binary is scanned, so that packing with UPX hides nothing. Without a
vulnerability database the gate fails. Reports go to .slipway/reports.`
	r.scanFlags(cmd)
	r.accessFlags(cmd)
	cmd.Flags().StringVar(&r.image, "image", "", "scan this `IMAGE` of a registry as it is, in place of building")
	cmd.Flags().StringVar(&r.reportFormat, "as", "", "print the report as `table|json|sarif|junit|gitlab|github`")
	return cmd
}

func (a *app) sbomCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "sbom", "List what is in the image: a software bill of materials", `  slipway sbom                        SPDX and CycloneDX of every platform, into .slipway/reports
  slipway sbom --platforms linux/amd64 --as spdx-json > sbom.spdx.json`, buildFlags, ship.Build, ship.Compress, ship.Image, ship.SBOMs)
	cmd.Flags().StringVar(&r.reports, "reports", "", "folder `DIR` for the documents (default .slipway/reports)")
	cmd.Flags().StringVar(&r.sbomFormat, "as", "", "print one document, as `spdx-json|cyclonedx`; needs a single platform")
	return cmd
}

func (a *app) signCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "sign", "Sign an image by digest and attest what is known of it", `  slipway sign --image ghcr.io/acme/orders@sha256:... --key cosign.key
  slipway sign --image ghcr.io/acme/orders@sha256:... --keyless
  slipway sign --image ghcr.io/acme/orders@sha256:... --only-signature --key awskms:///alias/release`, buildFlags, ship.Build, ship.Compress, ship.Image, ship.SBOMs, ship.Scan, ship.Sign, ship.Attest)
	cmd.Long = `Sign signs the index and every manifest in it as cosign does, and attests SBOM,
provenance and scan result. An attestation says how the image was made, so the
image must be what this source builds: the same commit gives the same digest.
Signing again adds nothing.`
	r.scanFlags(cmd)
	r.signFlags(cmd)
	r.accessFlags(cmd)
	cmd.Flags().StringVar(&r.image, "image", "", "the `IMAGE`, as repository@sha256:...")
	cmd.Flags().BoolVar(&r.onlySignature, "only-signature", false, "sign any image, and attest nothing")
	r.needsImage = true
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "verify", "Check an image's signatures, attestations and the age of its scan", `  slipway verify --image ghcr.io/acme/orders@sha256:... --env prod
  slipway verify --image ghcr.io/acme/orders:v1.2.3 --key cosign.pub
  slipway verify --image ghcr.io/acme/orders:v1.2.3 -o json | jq .verify`, 0, ship.Verify)
	r.accessFlags(cmd)
	cmd.Flags().StringVar(&r.image, "image", "", "the `IMAGE`; a tag is resolved once")
	cmd.Flags().StringVar(&r.environment, "env", "", "`ENVIRONMENT` of slipway.yaml whose policy counts")
	cmd.Flags().StringArrayVar(&r.publicKeys, "key", nil, "public `KEY` that may have signed, in place of the policy's; repeatable")
	r.needsImage = true
	return cmd
}

// checkFormat finds a mistake in --as before any work is done.
func (r *request) checkFormat(c config.Config) error {
	reports, sboms := scan.Formats()
	switch {
	case r.reportFormat != "" && !slices.Contains(reports, scan.Format(r.reportFormat)):
		return fault.Inputf("usage", "--as %q is none of table, json, sarif, junit, gitlab, github", r.reportFormat)
	case r.sbomFormat != "" && !slices.Contains(sboms, scan.Format(r.sbomFormat)):
		return fault.Inputf("usage", "--as %q is neither spdx-json nor cyclonedx", r.sbomFormat)
	case r.sbomFormat != "" && len(c.App.Platforms) != 1:
		return fault.Inputf("usage", "--as prints the document of one platform, this app has %d", len(c.App.Platforms)).
			WithFix("choose one, for example --platforms linux/amd64")
	}
	return nil
}

// document is what --as asks to have printed in place of the summary.
func (r *request) document(report ship.Report) ([]byte, error) {
	switch {
	case r.reportFormat != "" && report.Scan != nil:
		var text bytes.Buffer
		err := scan.Write(&text, *report.Scan, scan.Format(r.reportFormat))
		return text.Bytes(), err
	case r.sbomFormat != "":
		for _, b := range report.SBOMs {
			if string(b.Format) == r.sbomFormat {
				text, err := os.ReadFile(b.Path)
				if err != nil {
					return nil, fmt.Errorf("reading the SBOM: %w", err)
				}
				return text, nil
			}
		}
	}
	return nil, nil
}

func (a *app) keysCommand() *cobra.Command {
	keys := &cobra.Command{
		Use: "keys", Short: "Make keys for signing", Args: cobra.NoArgs,
		Example: "  slipway keys generate",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var private, public string
	var force, stdin bool
	generate := &cobra.Command{
		Use: "generate", Short: "Make a private key and its public key, in cosign's format", Args: cobra.NoArgs,
		Example: `  slipway keys generate               asks for a password; cosign.key and cosign.pub
  ` + passwordVariable + `=... slipway keys generate --private release.key --public release.pub
  pass show slipway | slipway keys generate --password-stdin`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.only(); err != nil {
				return err
			}
			if a.program.Signer == nil {
				return fault.Inputf("sign.no-signer", "this slipway was built without what makes keys").WithFix("use the slipway program")
			}
			password, err := a.newPassword(stdin)
			if err != nil {
				return err
			}
			k, err := a.program.Signer.GenerateKeys(cmd.Context(), sign.KeysOptions{Private: private, Public: public, Password: password, Force: force})
			if err != nil {
				return err
			}
			if a.json {
				a.printJSON(k)
				return nil
			}
			fmt.Fprintf(a.stdout, "wrote %s (keep it secret) and %s\nfingerprint %s\n", k.Private, k.Public, k.Fingerprint)
			fmt.Fprintf(a.stdout, "next: set sign.key: %s and verify.keys: [%s] in slipway.yaml\n", k.Private, k.Public)
			return nil
		},
	}
	f := generate.Flags()
	f.StringVar(&private, "private", "cosign.key", "`FILE` of the private key")
	f.StringVar(&public, "public", "cosign.pub", "`FILE` of the public key")
	f.BoolVar(&force, "force", false, "replace files that are there")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input (or "+passwordVariable+")")
	keys.AddCommand(generate)
	return keys
}

// newPassword is the password of a new key: a person at a terminal types it
// twice. An empty one must be meant: it is set as an empty variable.
func (a *app) newPassword(stdin bool) (sign.Secret, error) {
	if stdin {
		text, err := readPassword(a.stdin)
		return sign.Hide([]byte(text)), err
	}
	if password, set := keyPassword(); set {
		return password, nil
	}
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return sign.Secret{}, fault.Inputf("usage", "no password is given for the key").
			WithFix("set %s, which may be empty, or use --password-stdin", passwordVariable)
	}
	ask := func(what string) ([]byte, error) {
		fmt.Fprint(a.stderr, what)
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.stderr)
		return text, err
	}
	first, err := ask("password for the key: ")
	if err != nil {
		return sign.Secret{}, fmt.Errorf("reading the password: %w", err)
	}
	again, err := ask("once more: ")
	if err != nil {
		return sign.Secret{}, fmt.Errorf("reading the password: %w", err)
	}
	if !bytes.Equal(first, again) {
		return sign.Secret{}, fault.Inputf("usage", "the passwords differ")
	}
	if len(first) == 0 {
		return sign.Secret{}, fault.Inputf("usage", "the password is empty").WithFix("a key without one is made with %s set and empty", passwordVariable)
	}
	return sign.Hide(first), nil
}

// supplyOptions completes the options of a run that scans, signs or verifies.
func (a *app) supplyOptions(r *request, o *ship.Options) error {
	c := &o.Config
	if a.program.Scanner != nil {
		o.Scanner = a.program.Scanner(o.Cache)
	}
	if r.needsImage && r.image == "" {
		return fault.Inputf("usage", "--image is missing").WithFix("name the image, for example --image ghcr.io/acme/orders@sha256:...")
	}
	o.Signer = a.program.Signer
	o.Program = a.program.Version + " " + a.program.Commit
	o.Reference, o.Environment, o.Signing = r.image, r.environment, r.signing()
	o.Deployer, o.Deployment = a.program.Deployer, r.deployment
	o.Deployment.Run, o.RegistryServer = who(), r.registryServer
	switch {
	case r.deploys && r.environment != "":
		o.Stages = append(slices.Clone(o.Stages), ship.Deploy)
	case r.image != "" && slices.Contains(o.Stages, ship.Plan):
		o.Stages = []ship.Name{ship.Plan}
	case r.image != "" && slices.Contains(o.Stages, ship.Deploy):
		o.Stages = []ship.Name{ship.Verify, ship.Deploy}
	case r.image != "" && slices.Contains(o.Stages, ship.Scan) && !slices.Contains(o.Stages, ship.Sign):
		o.Stages = []ship.Name{ship.Scan} // as it is
	case r.onlySignature:
		o.Stages = []ship.Name{ship.Sign}
	}
	if r.unsigned {
		o.Stages = slices.DeleteFunc(slices.Clone(o.Stages), func(s ship.Name) bool { return s == ship.Sign || s == ship.Attest || s == ship.Verify })
	}
	if len(r.publicKeys) > 0 {
		policy, err := c.Policy(r.environment)
		if err != nil {
			return err
		}
		c.Verify = policy
		c.Verify.Keys, c.Verify.Identities = nil, nil
		for _, k := range r.publicKeys {
			c.Verify.Keys = append(c.Verify.Keys, fromHere(k))
		}
		o.Environment = ""
	}
	if r.insecure && r.image != "" {
		host, _, _ := strings.Cut(r.image, "/")
		c.Registry.Insecure = append(c.Registry.Insecure, host)
	}
	return r.checkFormat(*c)
}
