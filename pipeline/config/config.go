// Package config reads slipway.yaml: the one file that tells slipway about an
// app. Every setting has a default that works for an ordinary Go service, so
// an empty or missing file is valid.
//
// Mistakes are reported one a line as file:line:column, with the nearest valid
// key where a key is not known.
package config

import (
	"fmt"
	"strings"
	"time"
)

// FileName is the configuration's name at the root of a repository.
const FileName = "slipway.yaml"

// Config is the whole of slipway.yaml.
type Config struct {
	App      App      `json:"app,omitzero" yaml:"app" jsonschema_description:"The Go program to build."`
	Image    Image    `json:"image,omitzero" yaml:"image" jsonschema_description:"The container image around it."`
	Lint     Lint     `json:"lint,omitzero" yaml:"lint" jsonschema_description:"The golangci-lint gate."`
	Test     Test     `json:"test,omitzero" yaml:"test" jsonschema_description:"The go test gate."`
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
	race := true
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
		Lint:     Lint{Version: "v2.15.0", Timeout: Duration(5 * time.Minute)},
		Test:     Test{Packages: []string{"./..."}, Race: &race, Timeout: Duration(10 * time.Minute)},
		Registry: Registry{Uploads: 5, Downloads: 10},
	}
}
