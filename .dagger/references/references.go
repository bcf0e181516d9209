// Package references has the images that the module uses: the pinned ones, and what
// a caller puts in their place.
package references

import (
	"fmt"
	"slices"
	"strings"
)

// Set is the references of the images, by what they are for.
type Set struct {
	Go       string // Debian with Go and a C compiler
	Lint     string // golangci-lint at /usr/bin/golangci-lint
	Postgres string
	Redis    string
	Mirror   string // registry, or registry and path, that all images are pulled from; empty for none
}

// Pinned returns the images that are used unless the caller names others.
func Pinned() Set {
	return Set{
		Go:       "golang:1.26.8-bookworm@sha256:a688600ca24f8a4d3ca77f95b0dd40704a9fc787c826660eb7ba0b641b8b175d",
		Lint:     "golangci/golangci-lint:v2.15.0",
		Postgres: "postgres:16.10-bookworm@sha256:38471f330eb885e04de130b768d6db4e10469e2311879c7e5c699f6d2d8a1c74",
		Redis:    "redis:7.4-alpine@sha256:ff02b58f971e7d7d156a1267e283fcbbeee91773b6aa36c49dac28ecfe28eadf",
	}
}

// Named returns the references by the names that they have in a list.
func (s Set) Named() map[string]string {
	return map[string]string{"go": s.Go, "lint": s.Lint, "postgres": s.Postgres, "redis": s.Redis, "mirror": s.Mirror}
}

// Parse returns the pinned images with those of a list, each NAME=REFERENCE, in
// their place. A name that is not known and a missing reference are errors.
func Parse(list []string) (Set, error) {
	s := Pinned()
	fields := map[string]*string{"go": &s.Go, "lint": &s.Lint, "postgres": &s.Postgres, "redis": &s.Redis, "mirror": &s.Mirror}
	names := []string{"go", "lint", "postgres", "redis", "mirror"}
	for _, entry := range list {
		name, reference, ok := strings.Cut(entry, "=")
		if !ok || reference == "" || !slices.Contains(names, name) {
			return Set{}, fmt.Errorf("--images %q is not NAME=REFERENCE, where NAME is one of %s", entry, strings.Join(names, ", "))
		}
		*fields[name] = reference
	}
	return s, nil
}

// Reference is where an image is pulled from: from the mirror, or from its own
// registry if there is no mirror. Tag and digest stay as they are, so a pinned image
// is the same image wherever it comes from.
func (s Set) Reference(image string) string {
	if s.Mirror == "" {
		return image
	}
	first, rest, found := strings.Cut(image, "/")
	switch {
	case !found:
		rest = "library/" + image // an official image of Docker Hub
	case strings.ContainsAny(first, ".:") || first == "localhost":
		if isHub := first == "docker.io" || first == "index.docker.io"; isHub && !strings.Contains(rest, "/") {
			rest = "library/" + rest
		}
	default:
		rest = image
	}
	return strings.TrimSuffix(s.Mirror, "/") + "/" + rest
}
