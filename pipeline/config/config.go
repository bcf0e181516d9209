// Package config reads slipway.yaml: the one file that tells slipway about an
// app. Every setting has a default that works for an ordinary Go service, so
// an empty or missing file is valid.
//
// Mistakes are reported one a line as file:line:column, with the nearest valid
// key where a key is not known.
package config

import "encoding/json"

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
	Dir       string            `json:"dir,omitzero" yaml:"dir" jsonschema:"minLength=1" jsonschema_description:"The app's module folder (the one with go.mod), relative to slipway.yaml."`
	Name      string            `json:"name,omitzero" yaml:"name" jsonschema:"pattern=^[a-z0-9]+([._-][a-z0-9]+)*$" jsonschema_description:"The app's name. Default: the last element of the module path."`
	Main      string            `json:"main,omitzero" yaml:"main" jsonschema:"minLength=1" jsonschema_description:"The main package, relative to dir, for example ./cmd/server. Default: the only main package there is."`
	Platforms []string          `json:"platforms,omitzero" yaml:"platforms" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"What to build for, as os/arch or os/arch/variant."`
	LDFlags   []string          `json:"ldflags,omitzero" yaml:"ldflags" jsonschema_description:"More linker flags after -s -w. {{.Version}} {{.Commit}} and {{.Date}} are replaced."`
	Tags      []string          `json:"tags,omitzero" yaml:"tags" jsonschema_description:"Build tags."`
	CGO       bool              `json:"cgo,omitzero" yaml:"cgo" jsonschema_description:"Build with cgo and link statically against musl."`
	CC        map[string]string `json:"cc,omitzero" yaml:"cc" jsonschema_description:"The musl C compiler for each platform of a cgo build. Default: musl-gcc for the machine's own."`
	Toolchain string            `json:"toolchain,omitzero" yaml:"toolchain" jsonschema:"pattern=^go1[.][0-9]+([.][0-9]+|rc[0-9]+)?$" jsonschema_description:"The exact Go toolchain, for example go1.26.8. Default: the toolchain line of go.mod, else the installed one."`
	Env       map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Go settings of the build, for example GOAMD64: v3. The caller's own are ignored, so that every machine builds the same."`
}

// Image says what the image looks like.
type Image struct {
	Repository  string            `json:"repository,omitzero" yaml:"repository" jsonschema:"minLength=1" jsonschema_description:"Where the image is pushed, for example ghcr.io/acme/orders. Default: the embedded registry."`
	Base        string            `json:"base,omitzero" yaml:"base" jsonschema:"minLength=1" jsonschema_description:"scratch, alpine, distroless or any image reference; pin references by digest."`
	Entrypoint  string            `json:"entrypoint,omitzero" yaml:"entrypoint" jsonschema:"pattern=^/[^/].*[^/]$" jsonschema_description:"The absolute path of the program in the image."`
	Args        []string          `json:"args,omitzero" yaml:"args" jsonschema_description:"Default arguments of the program."`
	User        string            `json:"user,omitzero" yaml:"user" jsonschema:"pattern=^[0-9]+(:[0-9]+)?$" jsonschema_description:"Numeric uid:gid, so that runAsNonRoot can be verified."`
	Ports       []int             `json:"ports,omitzero" yaml:"ports" jsonschema:"uniqueItems=true" jsonschema_description:"Exposed TCP ports."`
	Env         map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Environment of the program, for example TZ: Asia/Shanghai. Never put secrets here."`
	Labels      map[string]string `json:"labels,omitzero" yaml:"labels" jsonschema_description:"More labels and annotations."`
	Source      string            `json:"source,omitzero" yaml:"source" jsonschema:"format=uri" jsonschema_description:"URL of the source repository. Default: from the module path where it names a known forge."`
	Volumes     []string          `json:"volumes,omitzero" yaml:"volumes" jsonschema:"uniqueItems=true" jsonschema_description:"Declared volumes, for example /tmp. The image itself has no /tmp."`
	Compression string            `json:"compression,omitzero" yaml:"compression" jsonschema:"enum=gzip,enum=zstd" jsonschema_description:"How layers are compressed. zstd is faster; it needs containerd 1.5 or Docker 23."`
	UPX         bool              `json:"upx,omitzero" yaml:"upx" jsonschema_description:"Pack the binary with upx --best --lzma."`
	Format      string            `json:"format,omitzero" yaml:"format" jsonschema:"enum=oci,enum=docker" jsonschema_description:"Manifest format. Only docker can hold a health check."`
	HealthCheck HealthCheck       `json:"healthCheck,omitzero" yaml:"healthCheck" jsonschema_description:"Docker's HEALTHCHECK, written in docker format only."`
}

// HealthCheck is Docker's HEALTHCHECK
// (https://docs.docker.com/reference/dockerfile/#healthcheck).
type HealthCheck struct {
	Command     []string `json:"command,omitzero" yaml:"command" jsonschema_description:"Default: the entrypoint with the argument health. An empty list disables the check."`
	Interval    Duration `json:"interval,omitzero" yaml:"interval" jsonschema_description:"Time between checks."`
	Timeout     Duration `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"Time one check may take."`
	StartPeriod Duration `json:"startPeriod,omitzero" yaml:"startPeriod" jsonschema_description:"Time the program may need to start."`
	Retries     int      `json:"retries,omitzero" yaml:"retries" jsonschema:"minimum=1" jsonschema_description:"Failures in a row until unhealthy."`
}

// Lint steers golangci-lint.
type Lint struct {
	Version string   `json:"version,omitzero" yaml:"version" jsonschema:"pattern=^v[0-9]+[.][0-9]+[.][0-9]+$" jsonschema_description:"The golangci-lint release to run."`
	Timeout Duration `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"How long it may take."`
	Config  string   `json:"config,omitzero" yaml:"config" jsonschema:"minLength=1" jsonschema_description:"Its configuration file, relative to slipway.yaml. Default: the nearest .golangci.yml from the app up to the repository's root."`
}

// Test steers go test.
type Test struct {
	Packages      []string          `json:"packages,omitzero" yaml:"packages" jsonschema:"minItems=1" jsonschema_description:"Package patterns."`
	CoverPackages []string          `json:"coverPackages,omitzero" yaml:"coverPackages" jsonschema_description:"Packages whose coverage counts. Default: each test's own package."`
	Race          *bool             `json:"race,omitzero" yaml:"race" jsonschema_description:"Run with the race detector; it needs a C compiler."`
	Coverage      float64           `json:"coverage,omitzero" yaml:"coverage" jsonschema:"minimum=0,maximum=100" jsonschema_description:"The lowest total coverage that passes, in percent."`
	Timeout       Duration          `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"How long one package's tests may take."`
	Services      []string          `json:"services,omitzero" yaml:"services" jsonschema:"uniqueItems=true,enum=postgres,enum=redis" jsonschema_description:"Servers the tests need: postgres gives DATABASE_URL, redis gives REDIS_URL."`
	Env           map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Environment of the tests. Never put secrets here."`
}

// Scan steers the gate for vulnerabilities, secrets and misconfiguration.
type Scan struct {
	Severities    []string   `json:"severities,omitzero" yaml:"severities" jsonschema:"minItems=1,uniqueItems=true,enum=UNKNOWN,enum=LOW,enum=MEDIUM,enum=HIGH,enum=CRITICAL" jsonschema_description:"Severities that fail the gate."`
	FailOn        ScanFailOn `json:"failOn,omitzero" yaml:"failOn" jsonschema_description:"Which of those findings fail the gate."`
	IgnoreFile    string     `json:"ignoreFile,omitzero" yaml:"ignoreFile" jsonschema:"minLength=1" jsonschema_description:"File of findings to ignore, relative to slipway.yaml, in Trivy's format; exp:2026-12-31 behind an entry ends it. Default: .trivyignore.yaml or .trivyignore beside slipway.yaml, where there is one."`
	IgnoreUnfixed bool       `json:"ignoreUnfixed,omitzero" yaml:"ignoreUnfixed" jsonschema_description:"Pass vulnerabilities that no version fixes yet."`
	VEX           []string   `json:"vex,omitzero" yaml:"vex" jsonschema:"uniqueItems=true" jsonschema_description:"OpenVEX, CSAF or CycloneDX VEX files, relative to slipway.yaml."`
	Secrets       *bool      `json:"secrets,omitzero" yaml:"secrets" jsonschema_description:"Look for secrets in the image and the source."`
	Reachability  *bool      `json:"reachability,omitzero" yaml:"reachability" jsonschema_description:"Find out which vulnerable functions the program calls, as govulncheck does."`
	Charts        []string   `json:"charts,omitzero" yaml:"charts" jsonschema:"uniqueItems=true" jsonschema_description:"Helm charts to render and check for misconfiguration, as folders relative to slipway.yaml."`
	Databases     []string   `json:"databases,omitzero" yaml:"databases" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"Where the vulnerability database comes from, tried in order: repositories, oci:DIR for an OCI layout, or bundled for the few advisories inside slipway."`
	MaxAge        Duration   `json:"maxAge,omitzero" yaml:"maxAge" jsonschema_description:"How old the cached database may be before it is fetched again."`
	Offline       bool       `json:"offline,omitzero" yaml:"offline" jsonschema_description:"Use the cached database however old it is; never fetch."`
}

// ScanFailOn narrows down what fails the gate.
type ScanFailOn struct {
	ReachableOnly bool `json:"reachableOnly,omitzero" yaml:"reachableOnly" jsonschema_description:"Go vulnerabilities fail only where the program calls what is vulnerable, or where that is not known."`
}

// Sign says how the image is signed and attested. Without a key or keyless the
// embedded registry gets a key of this machine, any other registry none.
type Sign struct {
	Key          string   `json:"key,omitzero" yaml:"key" jsonschema:"minLength=1" jsonschema_description:"The private key: a file relative to slipway.yaml, env://NAME, or a KMS key as awskms://, gcpkms://, azurekms:// or hashivault://."`
	Keyless      *Keyless `json:"keyless,omitzero" yaml:"keyless" jsonschema_description:"Sign with a certificate for the CI's identity in place of a key."`
	Rekor        string   `json:"rekor,omitzero" yaml:"rekor" jsonschema:"format=uri" jsonschema_description:"Transparency log to write to. Default: none with a key, https://rekor.sigstore.dev with keyless."`
	Attestations []string `json:"attestations,omitzero" yaml:"attestations" jsonschema:"uniqueItems=true,enum=sbom,enum=provenance,enum=scan" jsonschema_description:"What is attested."`
}

// Keyless is signing with a short-lived certificate
// (https://docs.sigstore.dev/cosign/signing/overview/).
type Keyless struct {
	Fulcio      string `json:"fulcio,omitzero" yaml:"fulcio" jsonschema:"format=uri" jsonschema_description:"Certificate authority."`
	Audience    string `json:"audience,omitzero" yaml:"audience" jsonschema:"minLength=1" jsonschema_description:"Audience asked of the CI's identity provider."`
	TrustedRoot string `json:"trustedRoot,omitzero" yaml:"trustedRoot" jsonschema:"minLength=1" jsonschema_description:"Sigstore's trusted_root.json of a private instance, relative to slipway.yaml. Default: the public instance's."`
}

// UnmarshalJSON fills in what [DefaultKeyless] has for every setting that is not
// there.
func (k *Keyless) UnmarshalJSON(data []byte) error {
	type plain Keyless // without this method
	p := plain(DefaultKeyless())
	if err := json.Unmarshal(data, &p); err != nil {
		return err //nolint:wrapcheck // the caller knows where the data comes from
	}
	*k = Keyless(p)
	return nil
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

// Registry says how registries are reached.
type Registry struct {
	Mirrors   map[string][]string `json:"mirrors,omitzero" yaml:"mirrors" jsonschema_description:"Mirrors to pull from, tried in order before the registry itself, for example docker.io: [mirror.example.com]; * stands for all others."`
	Insecure  []string            `json:"insecure,omitzero" yaml:"insecure" jsonschema_description:"Registries spoken to over plain HTTP, as host or host:port."`
	CA        string              `json:"ca,omitzero" yaml:"ca" jsonschema:"minLength=1" jsonschema_description:"PEM file of more certificate authorities, relative to slipway.yaml."`
	Uploads   int                 `json:"uploads,omitzero" yaml:"uploads" jsonschema:"minimum=1,maximum=64" jsonschema_description:"Parallel uploads."`
	Downloads int                 `json:"downloads,omitzero" yaml:"downloads" jsonschema:"minimum=1,maximum=64" jsonschema_description:"Parallel downloads."`
}
