package ci_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/ci"
)

// specTag is the pattern of the OCI distribution specification for tags.
var specTag = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

func TestImageTag(t *testing.T) {
	digest := "sha256-" + strings.Repeat("0a", 32)
	for gitTag, want := range map[string]string{
		"v1.0.0":                 "v1.0.0",
		"_x":                     "_x",
		"v1.0.0_meta":            "v1.0.0_meta",
		"v1.0.0-meta":            "v1.0.0-meta",
		"v1.0.0--":               "v1.0.0--",
		"v0.0.0-20261123-abc":    "v0.0.0-20261123-abc",
		"eecfaed242f8":           "eecfaed242f8",
		strings.Repeat("a", 128): strings.Repeat("a", 128),

		"v1.0.0+meta":                   "v1.0.0-meta--",
		"feature/x":                     "feature-x--",
		"@acme/api@1.2.3":               "acme-api-1.2.3--",
		"services/orders/v1.2.3":        "services-orders-v1.2.3--",
		".v1":                           "v1--",
		"-v1":                           "v1--",
		"..--v1":                        "v1--",
		"été":                           "t--",
		"версия":                        "tag--",
		"版本/1":                          "1--",
		"v1~1":                          "v1-1--",
		"v1\xff":                        "v1--",
		"":                              "tag--",
		"a+" + strings.Repeat("b", 180): "a-" + strings.Repeat("b", 112) + "--",
		strings.Repeat("b", 129):        strings.Repeat("b", 114) + "--",
		strings.Repeat("+", 300):        "tag--",

		// They would overwrite the signature of an image.
		digest:            "tag-" + digest + "--",
		digest + ".sig":   "tag-" + digest + ".sig--",
		digest + "+x.att": "tag-" + digest + "-x.att--",
		"/" + digest:      "tag-" + digest + "--",
	} {
		got := ci.ImageTag(gitTag)
		if !specTag.MatchString(got) {
			t.Errorf("%q: %q is not an image tag", gitTag, got)
		}
		if strings.HasSuffix(want, "--") && want != gitTag {
			got = regexp.MustCompile(`--[0-9a-f]{12}$`).ReplaceAllString(got, "--")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", gitTag, got, want)
		}
	}
}

// Two git tags never have the same image tag, even if one of them is what the other is
// written as.
func TestImageTagsDoNotCollide(t *testing.T) {
	gitTags := []string{
		"v1.0.0+meta", "v1.0.0_meta", "v1.0.0-meta", "v1.0.0/meta", "v1.0.0@meta", "v1.0.0++meta", ".v1", "-v1", "v1", "/v1",
		"a/b", "a-b", "a.b", "a_b", "a//b", "É", "é", "V1", strings.Repeat("x", 129), strings.Repeat("x", 130), strings.Repeat("x", 128),
	}
	for range 3 {
		for _, g := range gitTags {
			gitTags = append(gitTags, ci.ImageTag(g))
		}
	}
	seen := map[string]string{}
	for _, g := range gitTags {
		tag := ci.ImageTag(g)
		if other, ok := seen[tag]; ok && other != g {
			t.Errorf("%q and %q both have the image tag %q", other, g, tag)
		}
		seen[tag] = g
	}
}

// docs/ci.md shows the image tags of a few git tags.
func TestImageTagsInDocs(t *testing.T) {
	var table strings.Builder
	table.WriteString("| git tag | image tag |\n|---|---|\n")
	for _, gitTag := range []string{"v1.0.0", "v1.0.0_meta", "v1.0.0+meta", "services/orders/v1.2.3", "@acme/api@1.2.3", ".v1"} {
		fmt.Fprintf(&table, "| `%s` | `%s` |\n", gitTag, ci.ImageTag(gitTag))
	}
	testkit.GoldenSection(t, "../../docs/ci.md", "image tags", table.String())
}

func FuzzImageTag(f *testing.F) {
	for _, s := range []string{"v1.0.0+meta", "feature/x", ".x", "é", "sha256-" + strings.Repeat("0", 64) + ".sig", strings.Repeat("+", 200)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, gitTag string) {
		got := ci.ImageTag(gitTag)
		if !specTag.MatchString(got) {
			t.Errorf("%q: %q is not an image tag", gitTag, got)
		}
		if got != gitTag && ci.ImageTag(got) == got {
			t.Errorf("%q: the git tag %q has the same image tag", gitTag, got)
		}
		if strings.HasPrefix(got, "sha256-") && len(got) >= 71 && regexp.MustCompile(`^sha256-[0-9a-f]{64}`).MatchString(got) {
			t.Errorf("%q: %q is the tag of a signature", gitTag, got)
		}
	})
}
