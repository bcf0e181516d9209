// Package config reads slipway.yaml, the configuration of an app. Every setting has
// a default that works for an ordinary Go service, so an empty or missing file is
// valid.
//
// Every mistake in the file is reported on a separate line that begins with
// file:line:column. If a key is unknown, the line suggests the nearest valid key.
//
// The package promises no compatibility to programs other than slipway.
package config

import "encoding/json"

// FileName is the name of the configuration file at the root of a repository.
const FileName = "slipway.yaml"

// Config is the content of slipway.yaml.
type Config struct {
	App      App      `json:"app,omitzero" yaml:"app" jsonschema_description:"The Go program to build."`
	Image    Image    `json:"image,omitzero" yaml:"image" jsonschema_description:"The container image that holds the program."`
	Lint     Lint     `json:"lint,omitzero" yaml:"lint" jsonschema_description:"The golangci-lint gate."`
	Test     Test     `json:"test,omitzero" yaml:"test" jsonschema_description:"The go test gate."`
	Scan     Scan     `json:"scan,omitzero" yaml:"scan" jsonschema_description:"The gate for vulnerabilities, secrets and misconfiguration."`
	License  License  `json:"license,omitzero" yaml:"license" jsonschema_description:"The gate for the licences of modules."`
	Sign     Sign     `json:"sign,omitzero" yaml:"sign" jsonschema_description:"How the image is signed and attested."`
	Verify   Verify   `json:"verify,omitzero" yaml:"verify" jsonschema_description:"The policy that an image must satisfy before it is deployed to any environment."`
	Deploy   Deploy   `json:"deploy,omitzero" yaml:"deploy" jsonschema_description:"How and where the image is deployed."`
	Registry Registry `json:"registry,omitzero" yaml:"registry" jsonschema_description:"How slipway connects to registries."`
}

// App describes the Go program to build.
type App struct {
	Dir       string            `json:"dir,omitzero" yaml:"dir" jsonschema:"minLength=1" jsonschema_description:"The folder of the app's Go module, which contains go.mod, relative to slipway.yaml."`
	Name      string            `json:"name,omitzero" yaml:"name" jsonschema:"pattern=^[a-z0-9]+([._-][a-z0-9]+)*$" jsonschema_description:"The name of the app. Default: the last element of the module path."`
	Main      string            `json:"main,omitzero" yaml:"main" jsonschema:"minLength=1" jsonschema_description:"The main package, relative to dir, for example ./cmd/server. Default: the only main package of the module."`
	Platforms []string          `json:"platforms,omitzero" yaml:"platforms" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"The platforms to build for, as os/arch or os/arch/variant."`
	LDFlags   []string          `json:"ldflags,omitzero" yaml:"ldflags" jsonschema_description:"Linker flags to add after -s -w. {{.Version}}, {{.Commit}} and {{.Date}} are replaced by their values."`
	Tags      []string          `json:"tags,omitzero" yaml:"tags" jsonschema_description:"The build tags to set."`
	CGO       bool              `json:"cgo,omitzero" yaml:"cgo" jsonschema_description:"Build with cgo and link statically against musl."`
	CC        map[string]string `json:"cc,omitzero" yaml:"cc" jsonschema_description:"The musl C compiler for each platform of a cgo build. Default: musl-gcc for the platform of this machine."`
	Toolchain string            `json:"toolchain,omitzero" yaml:"toolchain" jsonschema:"pattern=^go1[.][0-9]+([.][0-9]+|rc[0-9]+)?$" jsonschema_description:"The exact Go toolchain, for example go1.26.8. Default: the toolchain line of go.mod, or the installed toolchain if go.mod has no such line."`
	Env       map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"Go environment variables of the build, for example GOAMD64: v3. Those of the caller are ignored, so that every machine produces the same binary."`
}

// Image describes the container image.
type Image struct {
	Repository  string            `json:"repository,omitzero" yaml:"repository" jsonschema:"minLength=1" jsonschema_description:"The repository that the image is pushed to, for example ghcr.io/acme/orders. Default: the embedded registry."`
	Base        string            `json:"base,omitzero" yaml:"base" jsonschema:"minLength=1" jsonschema_description:"The base image: scratch, alpine, distroless or any image reference. Pin references by digest."`
	Entrypoint  string            `json:"entrypoint,omitzero" yaml:"entrypoint" jsonschema:"pattern=^/[^/].*[^/]$" jsonschema_description:"The absolute path of the program in the image."`
	Args        []string          `json:"args,omitzero" yaml:"args" jsonschema_description:"The default arguments of the program."`
	User        string            `json:"user,omitzero" yaml:"user" jsonschema:"pattern=^[0-9]+(:[0-9]+)?$" jsonschema_description:"The numeric uid or uid:gid that the program runs as. Kubernetes can check runAsNonRoot only for a numeric user."`
	Ports       []int             `json:"ports,omitzero" yaml:"ports" jsonschema:"uniqueItems=true" jsonschema_description:"The TCP ports that the image declares as exposed. Default: 8080 and 9090, or none if the program does not listen on a port, as far as the source of its module tells."`
	Env         map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"The environment variables of the program, for example TZ: Asia/Shanghai. Never put secrets here."`
	Labels      map[string]string `json:"labels,omitzero" yaml:"labels" jsonschema_description:"Labels and annotations to add to the image."`
	Source      string            `json:"source,omitzero" yaml:"source" jsonschema:"format=uri" jsonschema_description:"The URL of the source repository. Default: derived from the module path, if that names a known forge."`
	Volumes     []string          `json:"volumes,omitzero" yaml:"volumes" jsonschema:"uniqueItems=true" jsonschema_description:"The volumes that the image declares, for example /tmp. The image itself contains no /tmp."`
	Compression string            `json:"compression,omitzero" yaml:"compression" jsonschema:"enum=gzip,enum=zstd" jsonschema_description:"How layers are compressed. zstd is faster, but the node needs containerd 1.5 or Docker 23."`
	UPX         bool              `json:"upx,omitzero" yaml:"upx" jsonschema_description:"Pack the binary with upx --best --lzma."`
	Format      string            `json:"format,omitzero" yaml:"format" jsonschema:"enum=oci,enum=docker" jsonschema_description:"The manifest format. Only docker supports a health check."`
	HealthCheck HealthCheck       `json:"healthCheck,omitzero" yaml:"healthCheck" jsonschema_description:"The HEALTHCHECK of Docker, which is written only if the format is docker."`
}

// HealthCheck is the HEALTHCHECK instruction of Docker
// (https://docs.docker.com/reference/dockerfile/#healthcheck).
type HealthCheck struct {
	Command     []string `json:"command,omitzero" yaml:"command" jsonschema_description:"The command of the check. Default: the entrypoint with the argument health. An empty list disables the check."`
	Interval    Duration `json:"interval,omitzero" yaml:"interval" jsonschema_description:"The time between checks."`
	Timeout     Duration `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"The time that one check may take."`
	StartPeriod Duration `json:"startPeriod,omitzero" yaml:"startPeriod" jsonschema_description:"The time that the program may take to start."`
	Retries     int      `json:"retries,omitzero" yaml:"retries" jsonschema:"minimum=1" jsonschema_description:"The number of consecutive failures after which the container is unhealthy."`
}

// Lint configures the golangci-lint gate.
type Lint struct {
	Version string   `json:"version,omitzero" yaml:"version" jsonschema:"pattern=^v[0-9]+[.][0-9]+[.][0-9]+$" jsonschema_description:"The version of golangci-lint to run."`
	Timeout Duration `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"The time that golangci-lint may take."`
	NewFrom string   `json:"newFrom,omitzero" yaml:"newFrom" jsonschema:"pattern=^[^-\\s][^\\s]*$" jsonschema_description:"A git revision, for example origin/main. Only findings in lines that have changed since the commit that it has in common with the checked-out commit fail the gate, as with new-from-merge-base of golangci-lint. Compiler errors always do."`
	Config  string   `json:"config,omitzero" yaml:"config" jsonschema:"minLength=1" jsonschema_description:"The configuration file of golangci-lint, relative to slipway.yaml. Default: the nearest .golangci.yml in the app's folder or a folder above it, up to the root of the repository."`
}

// Test configures the go test gate.
type Test struct {
	Packages      []string          `json:"packages,omitzero" yaml:"packages" jsonschema:"minItems=1" jsonschema_description:"The packages to test, as Go package patterns."`
	CoverPackages []string          `json:"coverPackages,omitzero" yaml:"coverPackages" jsonschema_description:"The packages whose coverage is measured. Default: for each test, the package that it tests."`
	Race          *bool             `json:"race,omitzero" yaml:"race" jsonschema_description:"Run the tests with the race detector, which needs a C compiler."`
	Coverage      float64           `json:"coverage,omitzero" yaml:"coverage" jsonschema:"minimum=0,maximum=100" jsonschema_description:"The lowest total coverage that passes the gate, in percent."`
	Timeout       Duration          `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"The time that the tests of one package may take."`
	Services      []string          `json:"services,omitzero" yaml:"services" jsonschema:"uniqueItems=true,enum=postgres,enum=redis" jsonschema_description:"The servers that the tests need. postgres sets DATABASE_URL and redis sets REDIS_URL."`
	Env           map[string]string `json:"env,omitzero" yaml:"env" jsonschema_description:"The environment variables of the tests. Never put secrets here."`
	PassEnv       []string          `json:"passEnv,omitzero" yaml:"passEnv" jsonschema:"uniqueItems=true" jsonschema_description:"The variables of the environment that tests and linters see in addition to the usual ones, such as LANG, LD_LIBRARY_PATH and everything that begins with GO or TEST_. Patterns such as ORDERS_* are possible. Slipway's own variables and the secrets that slipway.yaml names are never passed."`
}

// Scan configures the gate for vulnerabilities, secrets and misconfiguration.
type Scan struct {
	Severities    []string   `json:"severities,omitzero" yaml:"severities" jsonschema:"minItems=1,uniqueItems=true,enum=UNKNOWN,enum=LOW,enum=MEDIUM,enum=HIGH,enum=CRITICAL" jsonschema_description:"The severities of findings that fail the gate."`
	FailOn        ScanFailOn `json:"failOn,omitzero" yaml:"failOn" jsonschema_description:"Narrows down which of those findings fail the gate."`
	IgnoreFile    string     `json:"ignoreFile,omitzero" yaml:"ignoreFile" jsonschema:"minLength=1" jsonschema_description:"The file that lists findings to ignore, relative to slipway.yaml, in the format of Trivy. An entry followed by exp:2026-12-31 expires on that day. Default: .trivyignore.yaml, .trivyignore.yml or .trivyignore in the folder of slipway.yaml, if one exists."`
	IgnoreUnfixed bool       `json:"ignoreUnfixed,omitzero" yaml:"ignoreUnfixed" jsonschema_description:"Ignore vulnerabilities for which no fixed version exists yet."`
	VEX           []string   `json:"vex,omitzero" yaml:"vex" jsonschema:"uniqueItems=true" jsonschema_description:"VEX files in the format of OpenVEX, CSAF or CycloneDX, relative to slipway.yaml."`
	Secrets       *bool      `json:"secrets,omitzero" yaml:"secrets" jsonschema_description:"Scan the image and the source for secrets."`
	Reachability  *bool      `json:"reachability,omitzero" yaml:"reachability" jsonschema_description:"Determine which vulnerable functions the program calls, as govulncheck does."`
	Charts        []string   `json:"charts,omitzero" yaml:"charts" jsonschema:"uniqueItems=true" jsonschema_description:"The folders of Helm charts to render and check for misconfiguration, relative to slipway.yaml."`
	Databases     []string   `json:"databases,omitzero" yaml:"databases" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"The sources of the vulnerability database, tried in order. Each is a repository, oci:DIR for an OCI layout, or bundled for the few advisories that are built into slipway."`
	MaxAge        Duration   `json:"maxAge,omitzero" yaml:"maxAge" jsonschema_description:"The age at which the cached database is downloaded again."`
	Offline       bool       `json:"offline,omitzero" yaml:"offline" jsonschema_description:"Use the cached database regardless of its age and never download another."`
}

// ScanFailOn narrows down which findings fail the gate.
type ScanFailOn struct {
	ReachableOnly bool `json:"reachableOnly,omitzero" yaml:"reachableOnly" jsonschema_description:"Fail the gate for a vulnerability in Go code only if the program calls the vulnerable function, or if that cannot be determined."`
}

// License configures the gate for the licences of the modules that are linked into
// the program.
type License struct {
	Allow      []string          `json:"allow,omitzero" yaml:"allow" jsonschema:"uniqueItems=true" jsonschema_description:"The licences that modules may have, as SPDX identifiers, for example MIT. Default: the licences are not checked."`
	Exceptions map[string]string `json:"exceptions,omitzero" yaml:"exceptions" jsonschema_description:"The modules that are not checked, each with the reason, for example github.com/acme/internal: our own code."`
}

// Sign configures how the image is signed and attested. If neither Key nor Keyless
// is set, an image in the embedded registry is signed with a key that slipway
// generates on this machine, and signing an image in any other registry fails.
type Sign struct {
	Key          string   `json:"key,omitzero" yaml:"key" jsonschema:"minLength=1" jsonschema_description:"The private key: a file relative to slipway.yaml, env://NAME for an environment variable, or a KMS key as awskms://, gcpkms://, azurekms:// or hashivault://."`
	Keyless      *Keyless `json:"keyless,omitzero" yaml:"keyless" jsonschema_description:"Sign with a short-lived certificate for the identity of the CI job instead of with a key."`
	Rekor        string   `json:"rekor,omitzero" yaml:"rekor" jsonschema:"format=uri" jsonschema_description:"The URL of the transparency log to write to. Default: https://rekor.sigstore.dev with keyless signing. With a key, nothing is written to a log by default."`
	RekorVersion int      `json:"rekorVersion,omitzero" yaml:"rekorVersion" jsonschema:"enum=1,enum=2" jsonschema_description:"The version of the transparency log's API. Version 2 takes only bundles, so formats must be [bundle], and keyless signing needs timestamp, because entries have no time."`
	Attestations []string `json:"attestations,omitzero" yaml:"attestations" jsonschema:"uniqueItems=true,enum=sbom,enum=provenance,enum=scan" jsonschema_description:"The attestations to make."`
	Formats      []string `json:"formats,omitzero" yaml:"formats" jsonschema:"uniqueItems=true,minItems=1,enum=tag,enum=bundle" jsonschema_description:"How signatures and attestations are stored: tag, under tags as all versions of cosign read them, or bundle, as Sigstore bundles that refer to the image, which is the default of cosign 3. Both are always read."`
	Timestamp    string   `json:"timestamp,omitzero" yaml:"timestamp" jsonschema:"format=uri" jsonschema_description:"The URL of a timestamp authority (RFC 3161) that timestamps bundles, for example https://timestamp.sigstore.dev/api/v1/timestamp. By default they have no timestamp."`
}

// Keyless configures signing with a short-lived certificate
// (https://docs.sigstore.dev/cosign/signing/overview/).
type Keyless struct {
	Fulcio      string `json:"fulcio,omitzero" yaml:"fulcio" jsonschema:"format=uri" jsonschema_description:"The URL of the certificate authority."`
	Audience    string `json:"audience,omitzero" yaml:"audience" jsonschema:"minLength=1" jsonschema_description:"The audience to request from the identity provider of the CI system."`
	TrustedRoot string `json:"trustedRoot,omitzero" yaml:"trustedRoot" jsonschema:"minLength=1" jsonschema_description:"The trusted_root.json of a private Sigstore instance, relative to slipway.yaml. Default: that of the public instance."`
}

// UnmarshalJSON takes every setting that is absent from data from [DefaultKeyless].
func (k *Keyless) UnmarshalJSON(data []byte) error {
	type plain Keyless // without this method
	p := plain(DefaultKeyless())
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*k = Keyless(p)
	return nil
}

// Verify is a policy that an image must satisfy.
type Verify struct {
	Keys         []string   `json:"keys,omitzero" yaml:"keys" jsonschema:"uniqueItems=true,minItems=1" jsonschema_description:"The trusted public keys: files relative to slipway.yaml, env://NAME or KMS keys. A signature by one of them is enough. Default: the public half of sign.key."`
	Identities   []Identity `json:"identities,omitzero" yaml:"identities" jsonschema:"minItems=1" jsonschema_description:"The trusted identities for keyless signatures. A signature by one of them is enough."`
	TrustedRoot  string     `json:"trustedRoot,omitzero" yaml:"trustedRoot" jsonschema:"minLength=1" jsonschema_description:"The trusted_root.json of a private Sigstore instance, relative to slipway.yaml. Default: that of the public instance."`
	Attestations []string   `json:"attestations,omitzero" yaml:"attestations" jsonschema:"uniqueItems=true,enum=sbom,enum=provenance,enum=scan" jsonschema_description:"The attestations that the image must have. Default: those of sign.attestations."`
	Allow        []string   `json:"allow,omitzero" yaml:"allow" jsonschema:"uniqueItems=true,enum=lint,enum=test,enum=scan,enum=license" jsonschema_description:"The gates that may have failed when the image was made with --allow, according to its provenance. Default: those that --allow of the same command names. In a protected environment there is no default, and this setting of verify above the environments does not apply."`
	ScanMaxAge   Duration   `json:"scanMaxAge,omitzero" yaml:"scanMaxAge" jsonschema_description:"The maximum age of the attested scan, for example 168h. By default its age is not limited."`
	Provenance   Provenance `json:"provenance,omitzero" yaml:"provenance" jsonschema_description:"What the provenance of the image must say. A protected environment requires the attestation provenance and all of this by default; others require what is set."`
}

// Provenance is what a policy requires of the provenance of an image.
type Provenance struct {
	Repository string   `json:"repository,omitzero" yaml:"repository" jsonschema:"minLength=1" jsonschema_description:"The URL of the repository that the image was built from. Default in a protected environment: that of this repository, as in image.source."`
	Ref        string   `json:"ref,omitzero" yaml:"ref" jsonschema:"enum=checkout,enum=any" jsonschema_description:"The commit that the image was built from: checkout for the one that is checked out, or any. Default in a protected environment: checkout, which is the commit of the tag."`
	Builder    []string `json:"builder,omitzero" yaml:"builder" jsonschema:"minItems=1,uniqueItems=true" jsonschema_description:"Go regular expressions, one of which must match the whole ID of the builder, for example the URL of a workflow. Default in a protected environment: the workflows and runners of this repository, and slipway outside CI."`
	Clean      *bool    `json:"clean,omitzero" yaml:"clean" jsonschema_description:"Whether the source must have been as committed. Default in a protected environment: true."`
}

// Identity is a signer that keyless verification trusts. A pattern is a Go regular
// expression that must match the whole text.
type Identity struct {
	Issuer         string `json:"issuer,omitzero" yaml:"issuer" jsonschema:"minLength=1" jsonschema_description:"The URL of the identity provider, for example https://token.actions.githubusercontent.com"`
	IssuerPattern  string `json:"issuerPattern,omitzero" yaml:"issuerPattern" jsonschema:"minLength=1,format=regex" jsonschema_description:"A Go regular expression for the whole issuer, instead of issuer."`
	Subject        string `json:"subject,omitzero" yaml:"subject" jsonschema:"minLength=1" jsonschema_description:"The identity, for example the URL of a workflow or an email address."`
	SubjectPattern string `json:"subjectPattern,omitzero" yaml:"subjectPattern" jsonschema:"minLength=1,format=regex" jsonschema_description:"A Go regular expression for the whole subject, instead of subject."`
}

// Registry configures how slipway connects to registries.
type Registry struct {
	Mirrors   map[string][]string `json:"mirrors,omitzero" yaml:"mirrors" jsonschema_description:"The mirrors of each registry, tried in order before the registry itself, for example docker.io: [mirror.example.com]. The key * applies to all other registries."`
	Insecure  []string            `json:"insecure,omitzero" yaml:"insecure" jsonschema_description:"The registries to access over plain HTTP, as host or host:port."`
	CA        string              `json:"ca,omitzero" yaml:"ca" jsonschema:"minLength=1" jsonschema_description:"A PEM file with additional certificate authorities, relative to slipway.yaml."`
	Uploads   int                 `json:"uploads,omitzero" yaml:"uploads" jsonschema:"minimum=1,maximum=64" jsonschema_description:"The maximum number of parallel uploads."`
	Downloads int                 `json:"downloads,omitzero" yaml:"downloads" jsonschema:"minimum=1,maximum=64" jsonschema_description:"The maximum number of parallel downloads."`
}
