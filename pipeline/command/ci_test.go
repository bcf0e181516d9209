package command

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/ci"
)

// TestAnyGitTagIsPublished checks that in CI an image is pushed for every git tag, also
// for one that is not a valid image tag.
func TestAnyGitTagIsPublished(t *testing.T) {
	p := newProgram(t, testkit.Repository(t, helloApp()))
	repository := testkit.Registry(t) + "/hello"
	gitTags := []string{"v1.0.0+meta", "v1.0.0_meta", "@acme/api@1.2.3", ".v1", "-v1", "версия", strings.Repeat("x", 180)}
	clean := p.env
	var want []string
	for i, gitTag := range gitTags {
		want = append(want, ci.ImageTag(gitTag))
		p.env = append(slices.Clone(clean), "GITHUB_ACTIONS=true", "GITHUB_REF_TYPE=tag", "GITHUB_REF_NAME="+gitTag)
		if i%2 == 1 {
			p.env = append(slices.Clone(clean), "GITLAB_CI=true", "CI_COMMIT_TAG="+gitTag)
		}
		p.report(t, "publish", "--repository", repository)
	}
	repo, err := name.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := remote.List(repo)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range want {
		if !slices.Contains(tags, tag) {
			t.Errorf("tag %s was not pushed, only %q", tag, tags)
		}
	}
	if n := len(slices.Compact(slices.Sorted(slices.Values(want)))); n != len(gitTags) {
		t.Errorf("%d git tags have %d image tags", len(gitTags), n)
	}
}
