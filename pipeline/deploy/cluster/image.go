package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// imageCheck checks which images a chart runs.
type imageCheck struct {
	image   deploy.Image // the verified image
	allowed []config.AllowedImage
	verify  func(context.Context, name.Digest, config.AllowedImage) error // may be nil
	set     string                                                        // the values that slipway has set, for messages
	setting string                                                        // the setting that allows other images, for messages
}

// imageCheck returns the check for the image of this deployment.
func (d *deployment) imageCheck(image deploy.Image) imageCheck {
	return imageCheck{image, d.Settings.Images, d.VerifyImage, d.imageValues, "deploy.environments." + d.Environment + ".images"}
}

// hooks returns the objects of the hooks that the deployment runs.
func (d *deployment) hooks(r release.Rendered) []*unstructured.Unstructured {
	if d.Settings.Test {
		return slices.Concat(r.HookObjects, r.TestObjects)
	}
	return r.HookObjects
}

// run checks that only verified images run: every image in the objects and hooks must be
// the verified image by its digest, or an image that the environment allows. A container
// of a workload that keeps pods running must run the verified image; in a chart without
// such a workload, a Job, a CronJob or a Pod must. run returns the number of places that it
// has checked.
func (c imageCheck) run(ctx context.Context, objects, hooks []*unstructured.Unstructured) (int, error) {
	repository, err := name.NewRepository(c.image.Repository)
	if err != nil {
		return 0, fault.Inputf("deploy.image", "reading the repository of the image: %w", err)
	}
	n := 0
	workload, always, sometime := false, false, false // whether there is a workload, and what runs the verified image
	var refused, others []string
	scaled := slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool {
		return o.GetKind() == "HorizontalPodAutoscaler" || o.GetKind() == "ScaledObject"
	})
	for i, o := range slices.Concat(objects, hooks) {
		if err := checkLabels(o, c.image, c.set); err != nil {
			return n, err
		}
		for _, p := range release.Positions(o) {
			n++
			runs := p.Runs
			if i >= len(objects) || p.Idle && !scaled {
				runs = release.Maybe // a hook, or a workload without pods
			}
			workload = workload || runs == release.Always
			ref, err := name.ParseReference(p.Image)
			own := err == nil && canonical(ref.Context()) == canonical(repository)
			digest, pinned := ref.(name.Digest)
			if own && pinned && digest.DigestStr() == c.image.Digest {
				always, sometime = always || runs == release.Always, sometime || runs == release.Sometime
				continue
			}
			if own && !p.Custom {
				return n, fault.Gatef("deploy.other-image", "%s of the chart runs %s, but the verified image is %s", p.Object, p.Image, c.image).
					WithFix("slipway sets %s: set deploy.imageValues to the values that select the image, and let the chart run repository@digest or repository:tag", c.set)
			}
			others = append(others, p.Image)
			if err := c.allow(ctx, ref, p); err != nil {
				refused = append(refused, err.Error())
			}
		}
	}
	if !always && (workload || !sometime) {
		return n, c.unused(others)
	}
	if len(refused) > 0 {
		more := ""
		if len(refused) > maxRefused {
			more = fmt.Sprintf("; and %d more", len(refused)-maxRefused)
		}
		return n, fault.Gatef("deploy.image-not-allowed", "the chart runs images that were not verified: %s%s", strings.Join(refused[:min(len(refused), maxRefused)], "; "), more).
			WithFix("give each of them by digest in the chart and add it to %s, with the keys of its signature if it has one", c.setting)
	}
	return n, nil
}

// maxRefused is the number of refused images that an error names.
const maxRefused = 8

// unused returns the error for a chart that does not run the verified image.
func (c imageCheck) unused(others []string) error {
	runs := "it runs no container"
	if slices.Sort(others); len(others) > 0 {
		others = slices.Compact(others)
		runs = "it runs " + strings.Join(others[:min(len(others), 3)], ", ")
	}
	return fault.Gatef("deploy.image-unused", "no workload of the chart runs %s; %s", c.image, runs).
		WithFix("slipway sets %s: set deploy.imageValues to the values of the chart that select the image", c.set)
}

// allow returns nil if the environment allows an image. ref is nil if the text of the
// image cannot be read.
func (c imageCheck) allow(ctx context.Context, ref name.Reference, p release.Position) error {
	what := fmt.Sprintf("%s in %s", p.Image, p)
	if ref == nil {
		if _, err := reference.ParseDockerRef(p.Image); err != nil && !p.Custom {
			return nil // the nodes cannot read it either, so the rollout fails, with this as its reason
		}
		return fmt.Errorf("%s, which cannot be read", what)
	}
	digest, pinned := ref.(name.Digest)
	var why error
	for _, a := range c.allowed {
		if !matches(a.Image, ref) {
			continue
		}
		switch signed := len(a.Keys) > 0 || len(a.Identities) > 0; {
		case !pinned && (signed || !a.Tag):
			why = fmt.Errorf("%s, which is given by tag", what)
		case !signed:
			return nil
		case c.verify == nil:
			why = fmt.Errorf("%s, whose signature this program cannot verify", what)
		default:
			err := c.verify(ctx, digest, a)
			if err == nil {
				return nil
			}
			why = fmt.Errorf("%s: %w", what, err)
		}
	}
	if why == nil {
		why = fmt.Errorf("%s", what)
	}
	return why
}

// matches reports whether the pattern of a setting matches an image.
func matches(pattern string, ref name.Reference) bool {
	repository, digest, single := strings.Cut(pattern, "@")
	if single {
		d, ok := ref.(name.Digest)
		if !ok || d.DigestStr() != digest {
			return false
		}
	}
	if r, err := name.NewRepository(repository); err == nil {
		return canonical(r) == canonical(ref.Context())
	}
	for _, alias := range []string{"docker.io/", "registry-1.docker.io/"} { // one of several names of Docker Hub
		if rest, ok := strings.CutPrefix(repository, alias); ok {
			repository = name.DefaultRegistry + "/" + rest
		}
	}
	ok, err := doublestar.Match(repository, canonical(ref.Context()))
	return ok && err == nil
}

// canonical returns the name of a repository in one of the spellings that lead to the same
// place: without the port of HTTPS, and in lower case, because names of hosts have no case.
func canonical(r name.Repository) string {
	host := strings.TrimSuffix(strings.ToLower(r.RegistryStr()), ":443")
	switch host {
	case "docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		host = name.DefaultRegistry
	}
	return strings.TrimSuffix(host, ".") + "/" + r.RepositoryStr()
}

// checkLabels returns an error if the chart writes the tag of the image into a label.
// With the digest in it, the API server would refuse the label.
func checkLabels(o *unstructured.Unstructured, image deploy.Image, set string) error {
	for _, path := range [][]string{{"metadata", "labels"}, {"spec", "selector", "matchLabels"}, {"spec", "template", "metadata", "labels"}} {
		labels, _, err := unstructured.NestedStringMap(o.Object, path...)
		if err != nil {
			continue // the API server reports what is malformed
		}
		for _, label := range slices.Sorted(maps.Keys(labels)) {
			if strings.Contains(labels[label], image.Digest) {
				return fault.Inputf("deploy.chart", "%s %s of the chart has the label %s=%s, but a label cannot hold the digest, which slipway writes into %s", strings.ToLower(o.GetKind()), o.GetName(), label, labels[label], set).
					WithFix("let the chart set the label to .Chart.AppVersion or deploy.imageValues.version, or let it run repository@digest with a value image.digest")
			}
		}
	}
	return nil
}
