package config

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/github/go-spdx/v2/spdxexp/spdxlicenses"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// semantics checks what a JSON schema cannot express.
func (d *document) semantics(c *Config) {
	d.app(&c.App)
	d.image(&c.Image)
	d.license(c.License)
	if c.Sign.Key != "" && c.Sign.Keyless != nil {
		d.at("/sign/key", "sign.key and sign.keyless exclude each other")
	}
	if c.Sign.RekorVersion == 2 && (len(c.Sign.Formats) == 0 || slices.Contains(c.Sign.Formats, "tag")) {
		d.at("/sign/rekorVersion", "a log of version 2 takes only bundles: set sign.formats: [bundle]")
	}
	if c.Sign.RekorVersion == 2 && c.Sign.Keyless != nil && c.Sign.Timestamp == "" {
		d.at("/sign/rekorVersion", "keyless signing with a log of version 2 needs sign.timestamp, because its entries have no time")
	}
	d.policy("/verify", c.Verify)
	d.imageValues(c.Deploy.ImageValues)
	d.service(c.Deploy.Service)
	for name, e := range c.Deploy.Environments {
		d.environment("/deploy/environments/"+escape(name), e)
	}
}

func (d *document) app(app *App) {
	for i, s := range app.Platforms {
		if _, err := ParsePlatform(s); err != nil {
			d.at(fmt.Sprintf("/app/platforms/%d", i), "%v", err)
		}
	}
	for p := range app.CC {
		if _, err := ParsePlatform(p); err != nil {
			d.at("/app/cc/"+escape(p), "%v", err)
		}
	}
	for key, value := range app.Env {
		if key == "GOWORK" && value != "off" {
			d.at("/app/env/GOWORK", "GOWORK can only be off, because the path of a file is not the same on every machine; without it, the go.work file in or above app.dir is used")
		}
		if !buildSetting(key) {
			d.at("/app/env/"+escape(key), "%s is not a setting of the Go compiler; allowed: GOEXPERIMENT, GOAMD64, GOARM, GOARM64, GO386, GOMIPS, GOPPC64, GORISCV64, CGO_CFLAGS, CGO_LDFLAGS and the like", key)
		}
	}
	if err := within(app.Dir); err != nil {
		d.at("/app/dir", "app.dir: %v", err)
	}
}

func (d *document) image(image *Image) {
	if image.Repository != "" {
		if _, err := name.NewRepository(image.Repository); err != nil {
			d.at("/image/repository", "image.repository: %v", err)
		}
	}
	switch image.Base {
	case "scratch", "alpine", "distroless":
	default:
		if _, err := name.ParseReference(image.Base); err != nil {
			d.at("/image/base", "image.base: %v", err)
		}
	}
	if path.Clean(image.Entrypoint) != image.Entrypoint {
		d.at("/image/entrypoint", "image.entrypoint: %q is not a plain absolute path", image.Entrypoint)
	}
	for i, p := range image.Ports {
		if p < 1 || p > 65535 {
			d.at(fmt.Sprintf("/image/ports/%d", i), "%d is not a port (1 to 65535)", p)
		}
	}
	for i, v := range image.Volumes {
		if !strings.HasPrefix(v, "/") {
			d.at(fmt.Sprintf("/image/volumes/%d", i), "%q is not an absolute path", v)
		}
	}
	for key := range image.Env {
		if !variableName(key) {
			d.at("/image/env/"+escape(key), "%q is not the name of an environment variable", key)
		}
	}
}

// service checks that the settings of deploy.service do not contradict each other.
func (d *document) service(s Service) {
	const at = "/deploy/service"
	if s.Kind == "CronJob" && s.Schedule == "" {
		d.at(at+"/kind", "a CronJob needs deploy.service.schedule, for example 0 3 * * *")
	}
	if s.Kind != "CronJob" && s.Schedule != "" {
		d.at(at+"/schedule", "deploy.service.schedule is for a CronJob, but deploy.service.kind is %s", s.Kind)
	}
	if s.Health != "" && s.GRPC {
		d.at(at+"/health", "deploy.service.health and grpc exclude each other: with grpc, the probes use the health protocol of gRPC")
	}
	if s.Port != nil && *s.Port == 0 && (s.Health != "" || s.GRPC) {
		d.at(at+"/port", "deploy.service.port is 0, so nothing can answer the probes: remove health and grpc, or set the port")
	}
	if s.Port != nil && s.Metrics != 0 && *s.Port == s.Metrics {
		d.at(at+"/metrics", "deploy.service.metrics is the same port as deploy.service.port: name it in deploy.service.values as ports: {metrics: %d}", s.Metrics)
	}
}

func (d *document) license(l License) {
	known := slices.Concat(spdxlicenses.GetLicenses(), spdxlicenses.GetDeprecated())
	for i, id := range l.Allow {
		if !slices.Contains(known, id) {
			d.at(fmt.Sprintf("/license/allow/%d", i), "license.allow: %q is not an SPDX identifier of a licence%s", id,
				or(similar(id, known), "; https://spdx.org/licenses lists them"))
		}
	}
	for module, reason := range l.Exceptions {
		if strings.TrimSpace(reason) == "" {
			d.at("/license/exceptions/"+escape(module), "license.exceptions: %s needs a reason", module)
		}
	}
}

// imageValues checks that a reference, which is the whole image, is not combined with
// the values for its parts.
func (d *document) imageValues(v ImageValues) {
	if v.Reference != "" && (v.Repository != "" || v.Registry != "" || v.Digest != "" || v.Tag != "") {
		d.at("/deploy/imageValues/reference", "deploy.imageValues: reference excludes repository, registry, digest and tag")
	}
}

func (d *document) environment(at string, e Environment) {
	d.policy(at+"/verify", e.Verify)
	for i, a := range e.Images {
		place := fmt.Sprintf("%s/images/%d", at, i)
		d.identities(place+"/identities", a.Identities)
		d.allowedImage(place, a)
	}
	if e.Context != "" && len(e.Clusters) > 0 {
		d.at(at+"/context", "context and clusters exclude each other")
	}
	if e.Sealed != "" {
		if err := within(e.Sealed); err != nil {
			d.at(at+"/sealed", "sealed: %v", err)
		}
	}
	for secret, keys := range e.Secrets {
		place := at + "/secrets/" + escape(secret)
		if !secretName.MatchString(secret) || len(secret) > 253 {
			d.at(place, "%q is not the name of a Secret: use lower-case letters, digits, - and .", secret)
		}
		if len(keys) == 0 {
			d.at(place, "Secret %s has no keys", secret)
		}
		for key, variable := range keys {
			if !secretKey.MatchString(key) || len(key) > 253 {
				d.at(place+"/"+escape(key), "%q is not the name of a key of a Secret: use letters, digits, -, _ and .", key)
			}
			if !variableName(variable) {
				d.at(at+"/secrets/"+escape(secret)+"/"+escape(key), "%q is not the name of an environment variable", variable)
			}
		}
	}
}

var (
	secretName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	secretKey  = regexp.MustCompile(`^[-._a-zA-Z0-9]*[-_a-zA-Z0-9][-._a-zA-Z0-9]*$`) // and not only dots
)

// allowedImage checks the pattern of an image that a chart may run.
func (d *document) allowedImage(at string, a AllowedImage) {
	repository, digest, single := strings.Cut(a.Image, "@")
	if _, err := v1.NewHash(digest); single && err != nil {
		d.at(at+"/image", "images: %s has a malformed digest", a.Image)
	}
	if a.Tag && (single || len(a.Keys) > 0 || len(a.Identities) > 0) {
		d.at(at+"/tag", "images: tag excludes a digest, keys and identities, because a tag can be moved after the check")
	}
	if _, err := name.NewRepository(repository); err == nil {
		return
	}
	if host, _, _ := strings.Cut(repository, "/"); !strings.Contains(repository, "*") || !doublestar.ValidatePattern(repository) || !strings.ContainsAny(host, ".:*") {
		d.at(at+"/image", "images: %q is no repository and no pattern of repositories; write for example ghcr.io/acme/**, without a tag", a.Image)
	}
}

// variableName reports whether an environment variable can have that name.
func variableName(s string) bool { return s != "" && !strings.ContainsAny(s, "= \x00") }

// policy checks the identities and the patterns of a policy. Every identity must have has exactly one issuer and one subject, each as
// a text or as a valid pattern.
func (d *document) policy(pointer string, v Verify) {
	d.identities(pointer+"/identities", v.Identities)
	for i, pattern := range v.Provenance.Builder {
		if _, err := regexp.Compile(pattern); err != nil {
			d.at(fmt.Sprintf("%s/provenance/builder/%d", pointer, i), "provenance.builder: %v", err)
		}
	}
}

func (d *document) identities(pointer string, all []Identity) {
	for i, id := range all {
		at := fmt.Sprintf("%s/%d", pointer, i)
		for _, part := range []struct{ name, text, pattern string }{
			{"issuer", id.Issuer, id.IssuerPattern}, {"subject", id.Subject, id.SubjectPattern},
		} {
			switch {
			case part.text == "" && part.pattern == "":
				d.at(at, "an identity needs %s or %sPattern", part.name, part.name)
			case part.text != "" && part.pattern != "":
				d.at(at, "%s and %sPattern exclude each other", part.name, part.name)
			}
			if _, err := regexp.Compile(part.pattern); err != nil {
				d.at(at+"/"+part.name+"Pattern", "%sPattern: %v", part.name, err)
			}
		}
	}
}

// within returns an error unless path is relative and stays inside the folder of
// slipway.yaml.
func within(path string) error {
	if filepath.IsAbs(path) || !filepath.IsLocal(path) {
		return fmt.Errorf("%q is outside the folder of slipway.yaml", path)
	}
	return nil
}

// buildSetting reports whether a Go environment variable may be set for a build. A
// variable that is allowed changes the build in the same way on every machine.
func buildSetting(key string) bool {
	switch key {
	case "GOEXPERIMENT", "GO386", "GOAMD64", "GOARM", "GOARM64", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64", "GOFIPS140",
		"CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS", "GOWORK":
		return true
	}
	return false
}
