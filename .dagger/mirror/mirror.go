// Package mirror rewrites image references to a mirror.
package mirror

import "strings"

// Reference is where an image is pulled from: at mirror, a host or a host and
// a path such as mirror.example.com/hub, or at its own registry where mirror
// is empty. Tag and digest stay as they are, so a pinned image is the same
// image wherever it comes from.
func Reference(image, mirror string) string {
	if mirror == "" {
		return image
	}
	first, rest, found := strings.Cut(image, "/")
	switch {
	case !found:
		rest = "library/" + image // Docker Hub's official images
	case strings.ContainsAny(first, ".:") || first == "localhost":
		if isHub := first == "docker.io" || first == "index.docker.io"; isHub && !strings.Contains(rest, "/") {
			rest = "library/" + rest
		}
	default:
		rest = image
	}
	return strings.TrimSuffix(mirror, "/") + "/" + rest
}
