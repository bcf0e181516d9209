// Package config reads slipway.yaml: the one file that tells slipway about an
// app. Every setting has a default that works for an ordinary Go service, so
// an empty or missing file is valid.
//
// Mistakes are reported one a line as file:line:column, with the nearest valid
// key where a key is not known.
package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// FileName is the configuration's name at the root of a repository.
const FileName = "slipway.yaml"

// Config is the whole of slipway.yaml.
type Config struct {
	App      App      `json:"app,omitzero" yaml:"app" jsonschema_description:"The Go program to build."`
	Image    Image    `json:"image,omitzero" yaml:"image" jsonschema_description:"The container image around it."`
	Lint     Lint     `json:"lint,omitzero" yaml:"lint" jsonschema_description:"The golangci-lint gate."`
	Test     Test     `json:"test,omitzero" yaml:"test" jsonschema_description:"The go test gate."`
	Scan     Scan     `json:"scan,omitzero" yaml:"scan" jsonschema_description:"The gate for vulnerabilities, secrets and misconfiguration."`
	Sign     Sign     `json:"sign,omitzero" yaml:"sign" jsonschema_description:"How the image is signed and attested."`
	Verify   Verify   `json:"verify,omitzero" yaml:"verify" jsonschema_description:"What must be true of an image before it is deployed anywhere."`
	Deploy   Deploy   `json:"deploy,omitzero" yaml:"deploy" jsonschema_description:"Where the image runs."`
	Registry Registry `json:"registry,omitzero" yaml:"registry" jsonschema_description:"How registries are reached."`
}

// App says what is built.
type App struct {
	Dir       string            `json:"dir,omitzero" yaml:"dir" jsonschema:"minLength=1,default=." jsonschema_description:"The app's module folder (the one with go.mod), relative to slipway.yaml."`
	Name      string            `json:"name,omitzero" yaml:"name" jsonschema:"pattern=^[a-z0-9]+([._-][a-z0-9]+)*$" jsonschema_description:"The app's name. Default: the last element of the module path."`
	Main      string            `json:"main,omitzero" yaml:"main" jsonschema:"minLength=1" jsonschema_description:"The main package, relative to dir, for example ./cmd/server. Default: the only main package there is."`
	Platforms []string          `json:"platforms,omitzero" yaml:"platforms" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"What to build for, as os/arch or os/arch/variant. Default: linux/amd64 and linux/arm64."`
	LDFlags   []string          `json:"ldflags,omitzero" yaml:"ldflags" jsonschema_description:"More linker flags after -s -w. {{.Version}} {{.Commit}} and {{.Date}} are replaced."`
	Tags      []string          `json:"tags,omitzero" yaml:"tags" jsonschema_description:"Build tags."`
	CGO       bool              `json:"cgo,omitzero" yaml:"cgo" jsonschema:"default=false" jsonschema_description:"Build with cgo and link statically against musl."`
	CC        map[string]string `json:"cc,omitzero" yaml:"cc" jsonschema_description:"The musl C compiler for each platform of a cgo build. Default: musl-gcc for the machine's own."`
	Toolchain string            `json:"toolchain,omitzero" yaml:"toolchain" jsonschema:"pattern=^go1[.][0-9]+([.][0-9]+|rc[0-9]+)?$" jsonschema_description:"The exact Go toolchain, for example go1.26.8. Default: the toolchain line of go.mod, else the installed one."`
	Env       map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Go settings of the build, for example GOAMD64: v3. The caller's own are ignored, so that every machine builds the same."`
}

// Image says what the image looks like.
type Image struct {
	Repository  string            `json:"repository,omitzero" yaml:"repository" jsonschema:"minLength=1" jsonschema_description:"Where the image is pushed, for example ghcr.io/acme/orders. Default: the embedded registry."`
	Base        string            `json:"base,omitzero" yaml:"base" jsonschema:"default=scratch,minLength=1" jsonschema_description:"scratch, alpine, distroless or any image reference; pin references by digest."`
	Entrypoint  string            `json:"entrypoint,omitzero" yaml:"entrypoint" jsonschema:"default=/server,pattern=^/[^/].*[^/]$" jsonschema_description:"The absolute path of the program in the image."`
	Args        []string          `json:"args,omitzero" yaml:"args" jsonschema_description:"Default arguments of the program."`
	User        string            `json:"user,omitzero" yaml:"user" jsonschema:"default=65534:65534,pattern=^[0-9]+(:[0-9]+)?$" jsonschema_description:"Numeric uid:gid, so that runAsNonRoot can be verified."`
	Ports       []int             `json:"ports,omitzero" yaml:"ports" jsonschema:"uniqueItems=true" jsonschema_description:"Exposed TCP ports. Default: 8080 and 9090."`
	Env         map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Environment of the program, for example TZ: Asia/Shanghai. Never put secrets here."`
	Labels      map[string]string `json:"labels,omitzero" yaml:"labels" jsonschema_description:"More labels and annotations."`
	Source      string            `json:"source,omitzero" yaml:"source" jsonschema:"format=uri" jsonschema_description:"URL of the source repository. Default: from the module path where it names a known forge."`
	Volumes     []string          `json:"volumes,omitzero" yaml:"volumes" jsonschema:"uniqueItems=true" jsonschema_description:"Declared volumes, for example /tmp. The image itself has no /tmp."`
	Compression string            `json:"compression,omitzero" yaml:"compression" jsonschema:"default=gzip,enum=gzip,enum=zstd" jsonschema_description:"How layers are compressed. zstd is faster; it needs containerd 1.5 or Docker 23."`
	UPX         bool              `json:"upx,omitzero" yaml:"upx" jsonschema:"default=false" jsonschema_description:"Pack the binary with upx --best --lzma."`
	Format      string            `json:"format,omitzero" yaml:"format" jsonschema:"default=oci,enum=oci,enum=docker" jsonschema_description:"Manifest format. Only docker can hold a health check."`
	HealthCheck HealthCheck       `json:"healthCheck,omitzero" yaml:"healthCheck" jsonschema_description:"Docker's HEALTHCHECK, written in docker format only."`
}

// HealthCheck is Docker's HEALTHCHECK
// (https://docs.docker.com/reference/dockerfile/#healthcheck).
type HealthCheck struct {
	Command     []string `json:"command,omitzero" yaml:"command" jsonschema_description:"Default: the entrypoint with the argument health. An empty list disables the check."`
	Interval    Duration `json:"interval,omitzero" yaml:"interval" jsonschema:"default=30s" jsonschema_description:"Time between checks."`
	Timeout     Duration `json:"timeout,omitzero" yaml:"timeout" jsonschema:"default=5s" jsonschema_description:"Time one check may take."`
	StartPeriod Duration `json:"startPeriod,omitzero" yaml:"startPeriod" jsonschema:"default=10s" jsonschema_description:"Time the program may need to start."`
	Retries     int      `json:"retries,omitzero" yaml:"retries" jsonschema:"default=3,minimum=1" jsonschema_description:"Failures in a row until unhealthy."`
}

// Lint steers golangci-lint.
type Lint struct {
	Version string   `json:"version,omitzero" yaml:"version" jsonschema:"default=v2.15.0,pattern=^v[0-9]+[.][0-9]+[.][0-9]+$" jsonschema_description:"The golangci-lint release to run."`
	Timeout Duration `json:"timeout,omitzero" yaml:"timeout" jsonschema:"default=5m" jsonschema_description:"How long it may take."`
	Config  string   `json:"config,omitzero" yaml:"config" jsonschema:"minLength=1" jsonschema_description:"Its configuration file, relative to slipway.yaml. Default: the nearest .golangci.yml from the app up to the repository's root."`
}

// Test steers go test.
type Test struct {
	Packages      []string          `json:"packages,omitzero" yaml:"packages" jsonschema:"minItems=1" jsonschema_description:"Package patterns. Default: ./..."`
	CoverPackages []string          `json:"coverPackages,omitzero" yaml:"coverPackages" jsonschema_description:"Packages whose coverage counts. Default: each test's own package."`
	Race          *bool             `json:"race,omitzero" yaml:"race" jsonschema:"default=true" jsonschema_description:"Run with the race detector; it needs a C compiler."`
	Coverage      float64           `json:"coverage,omitzero" yaml:"coverage" jsonschema:"default=0,minimum=0,maximum=100" jsonschema_description:"The lowest total coverage that passes, in percent."`
	Timeout       Duration          `json:"timeout,omitzero" yaml:"timeout" jsonschema:"default=10m" jsonschema_description:"How long one package's tests may take."`
	Services      []string          `json:"services,omitzero" yaml:"services" jsonschema:"uniqueItems=true,enum=postgres,enum=redis" jsonschema_description:"Servers the tests need: postgres gives DATABASE_URL, redis gives REDIS_URL."`
	Env           map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Environment of the tests. Never put secrets here."`
}

// Scan steers the gate for vulnerabilities, secrets and misconfiguration.
type Scan struct {
	Severities    []string   `json:"severities,omitzero" yaml:"severities" jsonschema:"minItems=1,uniqueItems=true,enum=UNKNOWN,enum=LOW,enum=MEDIUM,enum=HIGH,enum=CRITICAL" jsonschema_description:"Severities that fail the gate. Default: HIGH and CRITICAL."`
	FailOn        ScanFailOn `json:"failOn,omitzero" yaml:"failOn" jsonschema_description:"Which of those findings fail the gate."`
	IgnoreFile    string     `json:"ignoreFile,omitzero" yaml:"ignoreFile" jsonschema:"minLength=1" jsonschema_description:"File of findings to ignore, relative to slipway.yaml, in Trivy's format; exp:2026-12-31 behind an entry ends it. Default: .trivyignore.yaml or .trivyignore beside slipway.yaml, where there is one."`
	IgnoreUnfixed bool       `json:"ignoreUnfixed,omitzero" yaml:"ignoreUnfixed" jsonschema:"default=false" jsonschema_description:"Pass vulnerabilities that no version fixes yet."`
	VEX           []string   `json:"vex,omitzero" yaml:"vex" jsonschema:"uniqueItems=true" jsonschema_description:"OpenVEX, CSAF or CycloneDX VEX files, relative to slipway.yaml."`
	Secrets       *bool      `json:"secrets,omitzero" yaml:"secrets" jsonschema:"default=true" jsonschema_description:"Look for secrets in the image and the source."`
	Reachability  *bool      `json:"reachability,omitzero" yaml:"reachability" jsonschema:"default=true" jsonschema_description:"Find out which vulnerable functions the program calls, as govulncheck does."`
	Charts        []string   `json:"charts,omitzero" yaml:"charts" jsonschema:"uniqueItems=true" jsonschema_description:"Helm charts to render and check for misconfiguration, as folders relative to slipway.yaml."`
	Databases     []string   `json:"databases,omitzero" yaml:"databases" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"Where the vulnerability database comes from, tried in order: repositories, oci:DIR for an OCI layout, or bundled for the few advisories inside slipway. Default: Trivy's public ones."`
	MaxAge        Duration   `json:"maxAge,omitzero" yaml:"maxAge" jsonschema:"default=24h" jsonschema_description:"How old the cached database may be before it is fetched again."`
	Offline       bool       `json:"offline,omitzero" yaml:"offline" jsonschema:"default=false" jsonschema_description:"Use the cached database however old it is; never fetch."`
}

// ScanFailOn narrows down what fails the gate.
type ScanFailOn struct {
	ReachableOnly bool `json:"reachableOnly,omitzero" yaml:"reachableOnly" jsonschema:"default=false" jsonschema_description:"Go vulnerabilities fail only where the program calls what is vulnerable, or where that is not known."`
}

// Sign says how the image is signed and attested. Without a key or keyless the
// embedded registry gets a key of this machine, any other registry none.
type Sign struct {
	Key          string   `json:"key,omitzero" yaml:"key" jsonschema:"minLength=1" jsonschema_description:"The private key: a file relative to slipway.yaml, env://NAME, or a KMS key as awskms://, gcpkms://, azurekms:// or hashivault://."`
	Keyless      *Keyless `json:"keyless,omitzero" yaml:"keyless" jsonschema_description:"Sign with a certificate for the CI's identity in place of a key."`
	Rekor        string   `json:"rekor,omitzero" yaml:"rekor" jsonschema:"format=uri" jsonschema_description:"Transparency log to write to. Default: none with a key, https://rekor.sigstore.dev with keyless."`
	Attestations []string `json:"attestations,omitzero" yaml:"attestations" jsonschema:"uniqueItems=true,enum=sbom,enum=provenance,enum=scan" jsonschema_description:"What is attested. Default: sbom, provenance and scan."`
}

// Keyless is signing with a short-lived certificate
// (https://docs.sigstore.dev/cosign/signing/overview/).
type Keyless struct {
	Fulcio      string `json:"fulcio,omitzero" yaml:"fulcio" jsonschema:"format=uri" jsonschema_description:"Certificate authority. Default: https://fulcio.sigstore.dev"`
	Audience    string `json:"audience,omitzero" yaml:"audience" jsonschema:"minLength=1" jsonschema_description:"Audience asked of the CI's identity provider. Default: sigstore"`
	TrustedRoot string `json:"trustedRoot,omitzero" yaml:"trustedRoot" jsonschema:"minLength=1" jsonschema_description:"Sigstore's trusted_root.json of a private instance, relative to slipway.yaml. Default: the public instance's."`
}

// Verify is a policy: what must be true of an image.
type Verify struct {
	Keys         []string   `json:"keys,omitzero" yaml:"keys" jsonschema:"uniqueItems=true" jsonschema_description:"Public keys, any of which may have signed: files relative to slipway.yaml, env://NAME or KMS keys. Default: the public half of sign.key."`
	Identities   []Identity `json:"identities,omitzero" yaml:"identities" jsonschema_description:"Identities, any of which may have signed keyless."`
	TrustedRoot  string     `json:"trustedRoot,omitzero" yaml:"trustedRoot" jsonschema:"minLength=1" jsonschema_description:"Sigstore's trusted_root.json of a private instance, relative to slipway.yaml. Default: the public instance's."`
	Attestations []string   `json:"attestations,omitzero" yaml:"attestations" jsonschema:"uniqueItems=true,enum=sbom,enum=provenance,enum=scan" jsonschema_description:"Attestations the image must have. Default: those of sign.attestations."`
	ScanMaxAge   Duration   `json:"scanMaxAge,omitzero" yaml:"scanMaxAge" jsonschema_description:"How old the attested scan may be, for example 168h. Default: any age."`
}

// Identity is who may sign keyless. A pattern is a Go regular expression that
// must match the whole text.
type Identity struct {
	Issuer         string `json:"issuer,omitzero" yaml:"issuer" jsonschema:"minLength=1" jsonschema_description:"The identity provider, for example https://token.actions.githubusercontent.com"`
	IssuerPattern  string `json:"issuerPattern,omitzero" yaml:"issuerPattern" jsonschema:"minLength=1,format=regex" jsonschema_description:"A pattern in place of issuer."`
	Subject        string `json:"subject,omitzero" yaml:"subject" jsonschema:"minLength=1" jsonschema_description:"The identity, for example a workflow's URL or a mail address."`
	SubjectPattern string `json:"subjectPattern,omitzero" yaml:"subjectPattern" jsonschema:"minLength=1,format=regex" jsonschema_description:"A pattern in place of subject."`
}

// Deploy says where the image runs.
type Deploy struct {
	Chart        string                 `json:"chart,omitzero" yaml:"chart" jsonschema:"minLength=1" jsonschema_description:"The Helm chart: a folder or a packed chart, relative to slipway.yaml. Default: chart, or charts/NAME of the app, where there is one."`
	Release      string                 `json:"release,omitzero" yaml:"release" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=53" jsonschema_description:"The Helm release. Default: the app's name."`
	ImageValues  ImageValues            `json:"imageValues,omitzero" yaml:"imageValues" jsonschema_description:"The chart's values that say which image runs, as paths with dots."`
	Environments map[string]Environment `json:"environments,omitzero" yaml:"environments" jsonschema_description:"The environments by name, for example staging and prod."`
}

// ImageValues names a chart's values.
type ImageValues struct {
	Repository  string `json:"repository,omitzero" yaml:"repository" jsonschema:"default=image.repository,minLength=1" jsonschema_description:"Where the repository goes."`
	Digest      string `json:"digest,omitzero" yaml:"digest" jsonschema:"default=image.digest,minLength=1" jsonschema_description:"Where the digest goes, as sha256:..."`
	Version     string `json:"version,omitzero" yaml:"version" jsonschema:"minLength=1" jsonschema_description:"Where the app's version goes, for example version. Default: nowhere."`
	PullSecrets string `json:"pullSecrets,omitzero" yaml:"pullSecrets" jsonschema:"default=imagePullSecrets,minLength=1" jsonschema_description:"Where the list of pull secrets goes, as - name: NAME, when slipway makes one."`
}

// Environment is one place the image is deployed to.
type Environment struct {
	Context         string                       `json:"context,omitzero" yaml:"context" jsonschema:"minLength=1" jsonschema_description:"Context of the kubeconfig. Default: its current one."`
	Clusters        []Cluster                    `json:"clusters,omitzero" yaml:"clusters" jsonschema:"minItems=1" jsonschema_description:"Several clusters in place of context: they get the same digest in this order, and the first failure stops."`
	Namespace       string                       `json:"namespace,omitzero" yaml:"namespace" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=63" jsonschema_description:"The namespace; it is made where it is missing. Default: the release's name."`
	PodSecurity     string                       `json:"podSecurity,omitzero" yaml:"podSecurity" jsonschema:"default=restricted,enum=restricted,enum=baseline,enum=privileged,enum=none" jsonschema_description:"The Pod Security Standard the namespace enforces; none leaves the namespace's labels alone."`
	Values          []string                     `json:"values,omitzero" yaml:"values" jsonschema:"uniqueItems=true" jsonschema_description:"Values files, relative to slipway.yaml; later ones win."`
	Set             map[string]any               `json:"set,omitzero" yaml:"set" jsonschema_description:"Values that win over the files. Never put secrets here."`
	Secrets         map[string]map[string]string `json:"secrets,omitzero" yaml:"secrets" jsonschema_description:"Kubernetes Secrets to write before the release: name, then key and the environment variable that holds its value, for example orders: {database-password: DATABASE_PASSWORD}."`
	PullSecret      string                       `json:"pullSecret,omitzero" yaml:"pullSecret" jsonschema:"pattern=^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" jsonschema_description:"Name of a Secret to write with which the nodes log in at the registry, from SLIPWAY_PULL_USERNAME and SLIPWAY_PULL_PASSWORD or else slipway's own login. Default: none."`
	Timeout         Duration                     `json:"timeout,omitzero" yaml:"timeout" jsonschema:"default=5m" jsonschema_description:"How long a rollout may take."`
	Rollback        *bool                        `json:"rollback,omitzero" yaml:"rollback" jsonschema:"default=true" jsonschema_description:"Go back to the newest good revision when a rollout fails."`
	RollbackTimeout Duration                     `json:"rollbackTimeout,omitzero" yaml:"rollbackTimeout" jsonschema:"default=5m" jsonschema_description:"How long the way back may take."`
	RollbackAll     bool                         `json:"rollbackAll,omitzero" yaml:"rollbackAll" jsonschema:"default=false" jsonschema_description:"When a cluster fails, also take those back that were changed before it."`
	LockTimeout     Duration                     `json:"lockTimeout,omitzero" yaml:"lockTimeout" jsonschema:"default=10m" jsonschema_description:"How long to wait for another deployment of the same release."`
	Restarts        int32                        `json:"restarts,omitzero" yaml:"restarts" jsonschema:"default=2,minimum=1,maximum=100" jsonschema_description:"Restarts of a new container that count as a crash loop."`
	Readiness       Duration                     `json:"readiness,omitzero" yaml:"readiness" jsonschema:"default=30s" jsonschema_description:"How long a readiness probe may fail once the startup probe has passed."`
	Test            bool                         `json:"test,omitzero" yaml:"test" jsonschema:"default=false" jsonschema_description:"Run the chart's tests after the rollout; a failing one fails it."`
	History         int                          `json:"history,omitzero" yaml:"history" jsonschema:"default=10,minimum=2,maximum=1000" jsonschema_description:"Revisions kept to go back to."`
	URL             string                       `json:"url,omitzero" yaml:"url" jsonschema:"format=uri" jsonschema_description:"Where the environment answers, for reports."`
	Protected       bool                         `json:"protected,omitzero" yaml:"protected" jsonschema:"default=false" jsonschema_description:"Deploy only a clean tree on a tag, and only after a yes: at the terminal, or --yes."`
	Verify          Verify                       `json:"verify,omitzero" yaml:"verify" jsonschema_description:"The environment's own policy; what it leaves out is taken from verify."`
}

// Cluster is one of an environment's clusters.
type Cluster struct {
	Name      string   `json:"name,omitzero" yaml:"name" jsonschema:"minLength=1" jsonschema_description:"Its name in reports. Default: the context."`
	Context   string   `json:"context,omitzero" yaml:"context" jsonschema:"minLength=1" jsonschema_description:"Context of the kubeconfig."`
	Namespace string   `json:"namespace,omitzero" yaml:"namespace" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=63" jsonschema_description:"The namespace there. Default: the environment's."`
	Values    []string `json:"values,omitzero" yaml:"values" jsonschema:"uniqueItems=true" jsonschema_description:"Values files on top of the environment's."`
	URL       string   `json:"url,omitzero" yaml:"url" jsonschema:"format=uri" jsonschema_description:"Where it answers."`
}

// Environment returns an environment with its defaults filled in.
func (c Config) Environment(name string) (Environment, error) {
	e, ok := c.Deploy.Environments[name]
	if !ok {
		known := slices.Sorted(maps.Keys(c.Deploy.Environments))
		err := fault.Inputf("config.environment", "there is no environment %q in deploy.environments", name)
		if len(known) > 0 {
			return Environment{}, err.WithFix("there are %s", strings.Join(known, ", "))
		}
		return Environment{}, err.WithFix("add it to slipway.yaml")
	}
	e.PodSecurity = or(e.PodSecurity, "restricted")
	if e.Rollback == nil {
		e.Rollback = new(true)
	}
	for _, d := range []struct {
		value     *Duration
		otherwise time.Duration
	}{
		{&e.Timeout, 5 * time.Minute}, {&e.RollbackTimeout, 5 * time.Minute}, {&e.LockTimeout, 10 * time.Minute}, {&e.Readiness, 30 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = Duration(d.otherwise)
		}
	}
	if e.Restarts == 0 {
		e.Restarts = 2
	}
	if e.History == 0 {
		e.History = 10
	}
	if len(e.Clusters) == 0 {
		e.Clusters = []Cluster{{Context: e.Context, URL: e.URL}}
	}
	return e, nil
}

// Policy is what must be true of an image before it is deployed to an
// environment; an empty name is any environment. What the environment leaves
// out is taken from verify, and what that leaves out from sign.
func (c Config) Policy(environment string) (Verify, error) {
	v := c.Verify
	if environment != "" {
		e, err := c.Environment(environment)
		if err != nil {
			return Verify{}, err
		}
		own := e.Verify
		// Who may sign is one question: an environment that names identities
		// must not still accept the keys of all others.
		if own.Keys != nil || own.Identities != nil {
			v.Keys, v.Identities = own.Keys, own.Identities
		}
		if own.TrustedRoot != "" {
			v.TrustedRoot = own.TrustedRoot
		}
		if own.Attestations != nil {
			v.Attestations = own.Attestations
		}
		if own.ScanMaxAge != 0 {
			v.ScanMaxAge = own.ScanMaxAge
		}
	}
	if v.Attestations == nil {
		v.Attestations = c.Sign.Attestations
	}
	if v.TrustedRoot == "" && c.Sign.Keyless != nil {
		v.TrustedRoot = c.Sign.Keyless.TrustedRoot
	}
	return v, nil
}

// Registry says how registries are reached.
type Registry struct {
	Mirrors   map[string][]string `json:"mirrors,omitzero" yaml:"mirrors" jsonschema_description:"Mirrors to pull from, tried in order before the registry itself, for example docker.io: [mirror.example.com]; * stands for all others."`
	Insecure  []string            `json:"insecure,omitzero" yaml:"insecure" jsonschema_description:"Registries spoken to over plain HTTP, as host or host:port."`
	CA        string              `json:"ca,omitzero" yaml:"ca" jsonschema:"minLength=1" jsonschema_description:"PEM file of more certificate authorities, relative to slipway.yaml."`
	Uploads   int                 `json:"uploads,omitzero" yaml:"uploads" jsonschema:"default=5,minimum=1,maximum=64" jsonschema_description:"Parallel uploads."`
	Downloads int                 `json:"downloads,omitzero" yaml:"downloads" jsonschema:"default=10,minimum=1,maximum=64" jsonschema_description:"Parallel downloads."`
}

// Duration is a [time.Duration] written as in Go: 90s, 5m, 1h30m.
type Duration time.Duration

// UnmarshalText reads Go's duration syntax.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 90s or 5m", text)
	}
	if v <= 0 {
		return fmt.Errorf("%q: a duration must be above zero", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes Go's duration syntax without zero units.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String writes Go's duration syntax without zero units: 5m, not 5m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// Default is the configuration of an empty file.
func Default() Config {
	return Config{
		App: App{Dir: ".", Platforms: []string{"linux/amd64", "linux/arm64"}},
		Image: Image{
			Base: "scratch", Entrypoint: "/server", User: "65534:65534", Ports: []int{8080, 9090},
			Compression: "gzip", Format: "oci",
			HealthCheck: HealthCheck{
				Interval: Duration(30 * time.Second), Timeout: Duration(5 * time.Second),
				StartPeriod: Duration(10 * time.Second), Retries: 3,
			},
		},
		Lint: Lint{Version: "v2.15.0", Timeout: Duration(5 * time.Minute)},
		Test: Test{Packages: []string{"./..."}, Race: new(true), Timeout: Duration(10 * time.Minute)},
		Scan: Scan{
			Severities: []string{"HIGH", "CRITICAL"}, Secrets: new(true), Reachability: new(true), MaxAge: Duration(24 * time.Hour),
			Databases: []string{"mirror.gcr.io/aquasec/trivy-db:2", "ghcr.io/aquasecurity/trivy-db:2", "public.ecr.aws/aquasecurity/trivy-db:2"},
		},
		Sign:     Sign{Attestations: []string{"sbom", "provenance", "scan"}},
		Deploy:   Deploy{ImageValues: ImageValues{Repository: "image.repository", Digest: "image.digest", PullSecrets: "imagePullSecrets"}},
		Registry: Registry{Uploads: 5, Downloads: 10},
	}
}
