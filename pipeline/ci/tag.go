package ci

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// maxTag is the length to which registries limit an image tag
// (https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests).
const maxTag = 128

// tagMark separates the readable part of a derived image tag from its hash.
const tagMark = "--"

var (
	imageTag = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	notInTag = regexp.MustCompile(`[^a-zA-Z0-9._-]+`)
	// derivedTag matches the form of the image tags that ImageTag derives.
	derivedTag = regexp.MustCompile(tagMark + `[0-9a-f]{12}$`)
	// referrerTag matches the tags under which registries keep what belongs to an
	// image: signatures and attestations of cosign, and the referrers of the OCI
	// specification. A git tag must not overwrite them.
	referrerTag = regexp.MustCompile(`^sha(256|512)-[0-9a-f]{64}`)
)

// ImageTag returns the image tag for a git tag. Every git tag has one, and two
// different git tags never have the same, up to collisions of 48 bits of SHA-256.
//
// A git tag that is a valid image tag is returned unchanged. In any other, every run
// of characters that an image tag must not contain is replaced by a dash, dots and
// dashes at the beginning are removed, and "--" and a hash of the git tag are appended.
// The hash is also appended to the few valid image tags that would otherwise have a
// second meaning: those that end like a derived tag, and those of signatures.
func ImageTag(gitTag string) string {
	if imageTag.MatchString(gitTag) && !derivedTag.MatchString(gitTag) && !referrerTag.MatchString(gitTag) {
		return gitTag
	}
	sum := sha256.Sum256([]byte(gitTag))
	suffix := tagMark + hex.EncodeToString(sum[:6])
	readable := strings.TrimLeft(notInTag.ReplaceAllString(gitTag, "-"), ".-")
	readable = readable[:min(len(readable), maxTag-len(suffix))]
	readable = strings.TrimRight(readable, ".-")
	if readable == "" || referrerTag.MatchString(readable) {
		readable = "tag-" + readable[:min(len(readable), maxTag-len(suffix)-len("tag-"))]
	}
	return strings.TrimRight(readable, ".-") + suffix
}
