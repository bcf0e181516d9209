package config

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// semantics checks what a schema cannot say.
func (d *document) semantics(c *Config) {
	for i, s := range c.App.Platforms {
		if _, err := ParsePlatform(s); err != nil {
			d.at(fmt.Sprintf("/app/platforms/%d", i), "%v", err)
		}
	}
	for p := range c.App.CC {
		if _, err := ParsePlatform(p); err != nil {
			d.at("/app/cc/"+escape(p), "%v", err)
		}
	}
	for key := range c.App.Env {
		if !buildSetting(key) {
			d.at("/app/env/"+escape(key), "%s is not a setting of the Go compiler; allowed: GOEXPERIMENT, GOAMD64, GOARM, GOARM64, GO386, GOMIPS, GOPPC64, GORISCV64, CGO_CFLAGS, CGO_LDFLAGS and the like", key)
		}
	}
	if err := within(c.App.Dir); err != nil {
		d.at("/app/dir", "app.dir: %v", err)
	}
	if c.Image.Repository != "" {
		if _, err := name.NewRepository(c.Image.Repository); err != nil {
			d.at("/image/repository", "image.repository: %v", err)
		}
	}
	switch c.Image.Base {
	case "scratch", "alpine", "distroless":
	default:
		if _, err := name.ParseReference(c.Image.Base); err != nil {
			d.at("/image/base", "image.base: %v", err)
		}
	}
	if path.Clean(c.Image.Entrypoint) != c.Image.Entrypoint {
		d.at("/image/entrypoint", "image.entrypoint: %q is not a plain absolute path", c.Image.Entrypoint)
	}
	for i, p := range c.Image.Ports {
		if p < 1 || p > 65535 {
			d.at(fmt.Sprintf("/image/ports/%d", i), "%d is not a port (1 to 65535)", p)
		}
	}
	for i, v := range c.Image.Volumes {
		if !strings.HasPrefix(v, "/") {
			d.at(fmt.Sprintf("/image/volumes/%d", i), "%q is not an absolute path", v)
		}
	}
	if c.Sign.Key != "" && c.Sign.Keyless != nil {
		d.at("/sign/key", "sign.key and sign.keyless exclude each other")
	}
	d.policy("/verify", c.Verify)
	for name, e := range c.Deploy.Environments {
		at := "/deploy/environments/" + escape(name)
		d.policy(at+"/verify", e.Verify)
		if e.Context != "" && len(e.Clusters) > 0 {
			d.at(at+"/context", "context and clusters exclude each other")
		}
		for secret, keys := range e.Secrets {
			for key, variable := range keys {
				if variable == "" || strings.ContainsAny(variable, "= \x00") {
					d.at(at+"/secrets/"+escape(secret)+"/"+escape(key), "%q is not the name of an environment variable", variable)
				}
			}
		}
	}
	for key := range c.Image.Env {
		if key == "" || strings.ContainsAny(key, "= \x00") {
			d.at("/image/env/"+escape(key), "%q is not the name of a variable", key)
		}
	}
}

// policy checks what the schema cannot: that an identity says who and by whom,
// and that patterns are ones.
func (d *document) policy(pointer string, v Verify) {
	for i, id := range v.Identities {
		at := fmt.Sprintf("%s/identities/%d", pointer, i)
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

// within reports whether a relative path stays inside the folder it is
// relative to.
func within(path string) error {
	if filepath.IsAbs(path) || !filepath.IsLocal(path) {
		return fmt.Errorf("%q leaves the folder of slipway.yaml", path)
	}
	return nil
}

// buildSetting tells the Go settings that change a build in a way that is the
// same on every machine from those that would not be.
func buildSetting(key string) bool {
	switch key {
	case "GOEXPERIMENT", "GO386", "GOAMD64", "GOARM", "GOARM64", "GOMIPS", "GOMIPS64", "GOPPC64", "GORISCV64", "GOFIPS140",
		"CGO_CFLAGS", "CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_LDFLAGS", "GOWORK":
		return true
	}
	return false
}
