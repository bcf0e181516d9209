package config

import (
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// arches returns the Linux architectures that Go can compile for without cgo
// (`go tool dist list`), each with the variants that a platform of an OCI image may
// name.
func arches() map[string][]string {
	return map[string][]string{
		"386": nil, "amd64": {"v1", "v2", "v3", "v4"}, "arm": {"v5", "v6", "v7"}, "arm64": {"v8"},
		"loong64": nil, "mips": nil, "mips64": nil, "mips64le": nil, "mipsle": nil,
		"ppc64": nil, "ppc64le": nil, "riscv64": nil, "s390x": nil,
	}
}

var platformSyntax = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+(/[a-z0-9]+)?$`)

// ParsePlatform parses os/arch or os/arch/variant, for example linux/arm64 or
// linux/arm/v7. It returns a [fault.Input] error if slipway cannot build for the
// platform.
func ParsePlatform(s string) (v1.Platform, error) {
	if !platformSyntax.MatchString(s) {
		return v1.Platform{}, fault.Inputf("platform.malformed", "platform %q is not os/arch, for example linux/arm64", s)
	}
	parts := strings.Split(s, "/")
	p := v1.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	known := arches()
	variants, ok := known[p.Architecture]
	if p.OS != "linux" || !ok {
		names := make([]string, 0, len(known))
		for a := range known {
			names = append(names, "linux/"+a)
		}
		slices.Sort(names)
		return v1.Platform{}, fault.Inputf("platform.unknown", "platform %q is not known", s).
			WithFix("use one of %s", strings.Join(names, ", "))
	}
	if p.Variant != "" && !slices.Contains(variants, p.Variant) {
		return v1.Platform{}, fault.Inputf("platform.unknown", "platform %q: architecture %s has no variant %s", s, p.Architecture, p.Variant)
	}
	return p, nil
}

// ParsePlatforms parses a list of platforms with [ParsePlatform]. It returns a
// [fault.Input] error if the list is empty or contains a platform twice.
func ParsePlatforms(list []string) ([]v1.Platform, error) {
	var out []v1.Platform
	for _, s := range list {
		p, err := ParsePlatform(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(q v1.Platform) bool { return q.Equals(p) }) {
			return nil, fault.Inputf("platform.twice", "platform %s is listed twice", p)
		}
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, fault.Inputf("platform.none", "no platform to build for").WithFix("set app.platforms or --platforms, for example to linux/amd64")
	}
	return out, nil
}
