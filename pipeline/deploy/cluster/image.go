package cluster

import (
	"maps"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/release"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// checkImage checks that the verified image is the one that runs. At least one
// container of the chart must run the image by its digest, and no container of the
// chart or its hooks may run another image of the same repository. set names the values
// that slipway has set, for messages.
func checkImage(objects, hooks []*unstructured.Unstructured, image deploy.Image, set string) error {
	repository, err := name.NewRepository(image.Repository)
	if err != nil {
		return fault.Inputf("deploy.image", "reading the repository of the image: %w", err)
	}
	var others []string
	found := false
	for i, o := range slices.Concat(objects, hooks) {
		if err := checkLabels(o, image, set); err != nil {
			return err
		}
		for _, text := range release.Images(o) {
			ref, err := name.ParseReference(text)
			if err != nil || ref.Context().Name() != repository.Name() {
				others = append(others, text) // a reference that is invalid cannot be pulled
				continue
			}
			digest, ok := ref.(name.Digest)
			if !ok || digest.DigestStr() != image.Digest {
				return fault.Gatef("deploy.other-image", "%s %s of the chart runs %s, but the verified image is %s", strings.ToLower(o.GetKind()), o.GetName(), text, image).
					WithFix("slipway sets %s: set deploy.imageValues to the values that select the image, and let the chart run repository@digest or repository:tag", set)
			}
			found = found || i < len(objects)
		}
	}
	if found {
		return nil
	}
	runs := "it runs no container"
	if slices.Sort(others); len(others) > 0 {
		others = slices.Compact(others)
		runs = "it runs " + strings.Join(others[:min(len(others), 3)], ", ")
	}
	return fault.Gatef("deploy.image-unused", "no container of the chart runs %s; %s", image, runs).
		WithFix("slipway sets %s: set deploy.imageValues to the values of the chart that select the image", set)
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
