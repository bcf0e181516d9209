package command

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// request holds the values of a command's flags. Most flags set an option of the run
// directly or override a setting of slipway.yaml.
type request struct {
	ship.Options
	overrides []func(*config.Config) error // in the order of the flags' declaration

	repository    string // to push to
	mirror        string
	top           string // root of the repository, relative to the working folder
	insecure      bool
	passwordStdin bool
	digestFile    string
	dotenv        string

	reportFormat  string
	sbomFormat    string
	key           string
	keyless       bool
	token         string
	onlySignature bool
	unsigned      bool
	publicKeys    []string

	yes    bool
	gitTag string

	hermetic        bool
	hermeticDefault func() bool // whether --hermetic was not given; nil if the command does not have it
}

// flagGroup adds flags that several commands share.
type flagGroup func(*request, *pflag.FlagSet)

// setting adds a flag that overrides a setting of slipway.yaml. The help shows the default
// in [config.Default].
func setting[T bool | string | float64 | []string](r *request, f *pflag.FlagSet, name, usage string, at func(*config.Config) *T) {
	c := config.Default()
	value := *at(&c)
	declare(f, &value, name, usage)
	r.overrides = append(r.overrides, func(c *config.Config) error {
		if f.Changed(name) {
			*at(c) = value
		}
		return nil
	})
}

// environmentSetting adds a flag that overrides a setting of the environment given by
// --env. The help shows the default in [config.DefaultEnvironment].
func environmentSetting[T bool | config.Duration](r *request, f *pflag.FlagSet, name, usage string, at func(*config.Environment) *T) {
	e := config.DefaultEnvironment()
	value := *at(&e)
	declare(f, &value, name, usage)
	r.environmentSwitch(f, name, func(e *config.Environment) { *at(e) = value })
}

// environmentSwitch changes the environment given by --env if the flag is set.
func (r *request) environmentSwitch(f *pflag.FlagSet, name string, change func(*config.Environment)) {
	r.overrides = append(r.overrides, func(c *config.Config) error {
		e, ok := c.Deploy.Environments[r.Environment]
		if ok && f.Changed(name) { // the lookup of the environment reports an unknown one
			change(&e)
			c.Deploy.Environments[r.Environment] = e
		}
		return nil
	})
}

// declare adds a flag of the type of value, a pointer, with *value as its default.
func declare(f *pflag.FlagSet, value any, name, usage string) {
	switch v := value.(type) {
	case *bool:
		f.BoolVar(v, name, *v, usage)
	case *string:
		f.StringVar(v, name, *v, usage)
	case *float64:
		f.Float64Var(v, name, *v, usage)
	case *[]string:
		f.StringSliceVar(v, name, *v, usage)
	case *config.Duration:
		f.TextVar(v, name, *v, usage)
	}
}

// sourceFlags adds the flag that selects the app.
func sourceFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.top, "repository-root", "", "root `DIR` of the repository if .git is not available (default: the folder of slipway.yaml)")
	setting(r, f, "dir", "the app's module `FOLDER`, relative to slipway.yaml", func(c *config.Config) *string { return &c.App.Dir })
}

func verdictFlags(r *request, f *pflag.FlagSet) {
	f.BoolVar(&r.Force, "force", false, "run lint and tests even if nothing changed since they passed")
	reportsFlag(r, f)
}

func reportsFlag(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.Reports, "reports", "", "folder `DIR` for reports (default .slipway/reports)")
}

// allowFlag adds the flag that lets gates fail.
func allowFlag(r *request, f *pflag.FlagSet) {
	names := f.StringSlice("allow", nil, "`GATES` whose failure does not stop the run: lint, test, scan, license; recorded in the report and in the provenance")
	r.overrides = append(r.overrides, func(*config.Config) (err error) {
		r.Allow, err = ship.ParseAllow(*names)
		return err
	})
}

func testFlags(r *request, f *pflag.FlagSet) {
	f.Bool("no-race", false, "test without the race detector")
	r.overrides = append(r.overrides, func(c *config.Config) error {
		if off, err := f.GetBool("no-race"); err == nil && f.Changed("no-race") {
			c.Test.Race = new(!off)
		}
		return nil
	})
	setting(r, f, "coverage", "lowest coverage that passes, in `PERCENT`", func(c *config.Config) *float64 { return &c.Test.Coverage })
}

func buildFlags(r *request, f *pflag.FlagSet) {
	setting(r, f, "platforms", "`PLATFORMS` to build for", func(c *config.Config) *[]string { return &c.App.Platforms })
	setting(r, f, "main", "main `PACKAGE`, for example ./cmd/server", func(c *config.Config) *string { return &c.App.Main })
	setting(r, f, "base", "base image: scratch, alpine, distroless or any `REFERENCE`", func(c *config.Config) *string { return &c.Image.Base })
	setting(r, f, "upx", "pack the binary with upx --best --lzma", func(c *config.Config) *bool { return &c.Image.UPX })
	setting(r, f, "cgo", "build with cgo, linked statically against musl", func(c *config.Config) *bool { return &c.App.CGO })
	setting(r, f, "compression", "compression of layers: `gzip|zstd`", func(c *config.Config) *string { return &c.Image.Compression })
	setting(r, f, "format", "manifest format: `oci|docker`; docker can hold a health check", func(c *config.Config) *string { return &c.Image.Format })
	f.StringVar(&r.Version, "version", "", "`VERSION` to stamp (default: made from the commit)")
	f.StringVar(&r.Revision, "revision", "", "`COMMIT` to stamp if .git is not available")
	f.StringVar(&r.mirror, "mirror", "", "`REGISTRY` to pull base images from first, for example mirror.example.com/hub")
	r.overrides = append(r.overrides, func(c *config.Config) error {
		if r.mirror != "" {
			mirrors := map[string][]string{registry.AnyHost: {r.mirror}}
			for host, list := range c.Registry.Mirrors {
				mirrors[host] = slices.Concat([]string{r.mirror}, list)
			}
			c.Registry.Mirrors = mirrors
		}
		return nil
	})
}

func digestFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.digestFile, "digest-file", "", "write the digest to `FILE`")
}

func pushFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.repository, "repository", "", "`REPOSITORY` to push to, for example ghcr.io/acme/orders")
	f.StringArrayVar(&r.Tags, "tag", nil, "image `TAG`, repeatable (default: the commit; in CI also the git tag and latest)")
	f.StringVar(&r.dotenv, "dotenv", "", "write SLIPWAY_DIGEST and more to `FILE`, for GitLab's dotenv report")
}

// accessFlags adds the flags for access to the registry of the image.
func accessFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.Credentials.Username, "username", "", "user `NAME` at the registry (or SLIPWAY_REGISTRY_USERNAME)")
	f.BoolVar(&r.passwordStdin, "password-stdin", false, "read the password for the registry from standard input (or SLIPWAY_REGISTRY_PASSWORD)")
	f.BoolVar(&r.insecure, "insecure", false, "use plain HTTP for the registry")
	forwardFlag(r, f)
	f.StringVar(&r.RegistryServer, "registry-server", "", "connect to the registry at `HOST[:PORT]` instead of its own address")
}

// forwardFlag adds the flag that forwards ports of this machine's loopback address to
// other hosts.
func forwardFlag(r *request, f *pflag.FlagSet) {
	if f.Lookup("forward") != nil { // accessFlags and clusterFlags both add it
		return
	}
	list := f.StringArray("forward", nil, "for a container: reach 127.0.0.1:PORT at `PORT=HOST[:PORT]`; repeatable")
	r.overrides = append(r.overrides, func(*config.Config) error {
		r.Forward = map[string]string{}
		for _, entry := range *list {
			port, server, ok := strings.Cut(entry, "=")
			if _, err := strconv.ParseUint(port, 10, 16); err != nil || !ok || server == "" {
				return fault.Inputf("usage", "--forward %q is not PORT=HOST or PORT=HOST:PORT", entry)
			}
			if _, _, err := net.SplitHostPort(server); err != nil {
				server = net.JoinHostPort(server, port)
			}
			r.Forward[port] = server
		}
		r.Deployment.Forward = r.Forward
		return nil
	})
}

// imageFlag returns a flag group with --image, an image in a registry.
func imageFlag(usage string) flagGroup {
	return func(r *request, f *pflag.FlagSet) { f.StringVar(&r.Reference, "image", "", usage) }
}

// gateFlags adds the flags of all gates on the image, for commands that run them all.
func gateFlags(r *request, f *pflag.FlagSet) {
	scanFlags(r, f)
	licenseFlags(r, f)
	allowFlag(r, f)
}

// scanFlags adds the flags that determine which findings fail the scan and which database
// it uses.
func scanFlags(r *request, f *pflag.FlagSet) {
	setting(r, f, "severity", "`SEVERITIES` that fail the scan", func(c *config.Config) *[]string { return &c.Scan.Severities })
	r.overrides = append(r.overrides, func(c *config.Config) error {
		if f.Changed("severity") {
			for i, s := range c.Scan.Severities {
				c.Scan.Severities[i] = strings.ToUpper(s)
			}
		}
		return nil
	})
	setting(r, f, "ignore-unfixed", "pass vulnerabilities that no version fixes yet", func(c *config.Config) *bool { return &c.Scan.IgnoreUnfixed })
	setting(r, f, "reachable-only", "fail only on Go vulnerabilities that the program calls", func(c *config.Config) *bool { return &c.Scan.FailOn.ReachableOnly })
	setting(r, f, "offline", "use the cached database however old it is", func(c *config.Config) *bool { return &c.Scan.Offline })
	databases := f.StringArray("db-repository", nil, "vulnerability database: a `REPOSITORY`, oci:DIR or bundled; repeatable, tried in order (default: Trivy's public ones)")
	r.overrides = append(r.overrides, func(c *config.Config) error {
		if len(*databases) > 0 {
			c.Scan.Databases = *databases
		}
		return nil
	})
}

// licenseFlags adds the flag that determines which licences modules may have.
func licenseFlags(r *request, f *pflag.FlagSet) {
	setting(r, f, "allow-license", "a licence that modules may have, as an `SPDX` identifier; repeatable, instead of license.allow", func(c *config.Config) *[]string { return &c.License.Allow })
}

func scanFormatFlag(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.reportFormat, "as", "", "print the report as `table|json|sarif|junit|gitlab|github`")
}

func sbomFormatFlag(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.sbomFormat, "as", "", "print one document, as `spdx-json|cyclonedx`; needs a single platform")
}

// signFlags adds the flags that select the key or identity that signs.
func signFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.key, "key", "", "private `KEY`: a file, env://NAME, or a KMS key (password in "+passwordVariable+")")
	f.BoolVar(&r.keyless, "keyless", false, "sign with a certificate for the identity of the CI job")
	f.StringVar(&r.token, "identity-token", "", "`FILE` with the signer's OIDC token (default: that of the CI job)")
	r.overrides = append(r.overrides, func(c *config.Config) error {
		keyless := r.keyless || r.token != ""
		switch {
		case r.key != "" && keyless:
			return fault.Inputf("usage", "--key and keyless signing exclude each other")
		case r.key != "":
			c.Sign.Key, c.Sign.Keyless = absolutePath(r.key), nil
		case keyless && c.Sign.Keyless == nil:
			c.Sign.Key, c.Sign.Keyless = "", new(config.DefaultKeyless())
		}
		return nil
	})
}

func onlySignatureFlag(r *request, f *pflag.FlagSet) {
	f.BoolVar(&r.onlySignature, "only-signature", false, "sign any image, and attest nothing")
}

func unsignedFlag(r *request, f *pflag.FlagSet) {
	f.BoolVar(&r.unsigned, "unsigned", false, "push without a signature and attestations")
}

// acceptFlag adds the flag for gates that may have failed when the image was made.
func acceptFlag(r *request, f *pflag.FlagSet) {
	names := f.StringSlice("allow", nil, "`GATES` that may have failed when the image was made: lint, test, scan, license; verify.allow wins")
	r.overrides = append(r.overrides, func(*config.Config) (err error) {
		r.Allow, err = ship.ParseAllow(*names)
		return err
	})
}

// policyFlags adds the flags that select the policy that an image is verified against.
func policyFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.Environment, "env", "", "`ENVIRONMENT` of slipway.yaml whose policy applies")
	acceptFlag(r, f)
	f.StringArrayVar(&r.publicKeys, "key", nil, "public `KEY` that may have signed, instead of those of the policy; repeatable")
	r.overrides = append(r.overrides, func(c *config.Config) error {
		if len(r.publicKeys) == 0 {
			return nil
		}
		policy, err := c.Policy(r.Environment)
		if err != nil {
			return err
		}
		policy.Keys, policy.Identities = nil, nil
		for _, k := range r.publicKeys {
			policy.Keys = append(policy.Keys, absolutePath(k))
		}
		c.Verify, r.Environment = policy, ""
		return nil
	})
}

// clusterFlags adds the flags that select the environment and the address of its cluster.
func clusterFlags(r *request, f *pflag.FlagSet) {
	f.StringVar(&r.Environment, "env", "", "`ENVIRONMENT` of slipway.yaml")
	f.StringVar(&r.Deployment.Kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: KUBECONFIG or ~/.kube/config)")
	forwardFlag(r, f)
	f.StringVar(&r.Deployment.Server, "cluster-server", "", "connect to the API server at `HOST[:PORT]` instead of the kubeconfig's; its certificate must still be valid for the host in the kubeconfig")
}

// deployFlags adds the flags for a deployment.
func deployFlags(r *request, f *pflag.FlagSet) {
	environmentSetting(r, f, "timeout", "how long a rollout may take", func(e *config.Environment) *config.Duration { return &e.Timeout })
	environmentSetting(r, f, "rollback-all", "if a cluster fails, also roll back those before it", func(e *config.Environment) *bool { return &e.RollbackAll })
	environmentSetting(r, f, "test", "run the chart's tests after the rollout", func(e *config.Environment) *bool { return &e.Test })
	f.Bool("no-rollback", false, "leave a failed rollout as it is")
	r.environmentSwitch(f, "no-rollback", func(e *config.Environment) { e.Rollback = new(false) })
	lockFlag(r, f)
	f.BoolVar(&r.yes, "yes", false, "deploy to a protected environment without asking")
	f.StringVar(&r.gitTag, "git-tag", "", "the `TAG` of this commit, if .git is not available")
}

func lockFlag(r *request, f *pflag.FlagSet) {
	f.Bool("no-wait-lock", false, "fail at once if another run is deploying this release")
	r.environmentSwitch(f, "no-wait-lock", func(e *config.Environment) { e.LockTimeout = 0 })
}

func rollbackFlags(r *request, f *pflag.FlagSet) {
	f.BoolVar(&r.yes, "yes", false, "roll back a protected environment without asking")
	lockFlag(r, f)
}

// apply overrides settings of the configuration with flags and validates the result.
func (r *request) apply() error {
	for _, override := range r.overrides {
		if err := override(&r.Config); err != nil {
			return err
		}
	}
	if r.repository != "" {
		r.Config.Image.Repository = r.repository
	}
	target := r.Reference
	if target == "" {
		target = r.Config.Image.Repository
	}
	if r.insecure && target != "" {
		host, _, _ := strings.Cut(target, "/")
		r.Config.Registry.Insecure = append(r.Config.Registry.Insecure, host)
	}
	return r.Config.Check()
}

// absolutePath returns the absolute path for a path in a flag, which is relative to the
// working folder. Without it the path would be resolved relative to the folder of
// slipway.yaml. References with a scheme, such as env://NAME, are returned unchanged.
func absolutePath(ref string) string {
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

// checkFormat validates --as, before any step runs.
func (r *request) checkFormat() error {
	reports, sboms := scan.Formats()
	switch platforms := len(r.Config.App.Platforms); {
	case r.reportFormat != "" && !slices.Contains(reports, scan.Format(r.reportFormat)):
		return fault.Inputf("usage", "--as %q is not table, json, sarif, junit, gitlab or github", r.reportFormat)
	case r.sbomFormat != "" && !slices.Contains(sboms, scan.Format(r.sbomFormat)):
		return fault.Inputf("usage", "--as %q is neither spdx-json nor cyclonedx", r.sbomFormat)
	case r.sbomFormat != "" && platforms != 1:
		return fault.Inputf("usage", "--as prints the document of one platform, but this app has %d", platforms).
			WithFix("choose one, for example --platforms linux/amd64")
	}
	return nil
}

// document returns the text to print instead of the summary if --as is given, and
// otherwise nil.
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
