package release

import (
	"encoding/json"
	"fmt"

	"github.com/pmezard/go-difflib/difflib"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/jsonmergepatch"
	"sigs.k8s.io/yaml"
)

// mergePatch returns a three-way JSON merge patch, for kinds without a Go type that
// describes how their lists are merged (https://www.rfc-editor.org/rfc/rfc7386).
func mergePatch(original, modified, current []byte) ([]byte, error) {
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(original, modified, current)
	if err != nil {
		return nil, fmt.Errorf("computing the patch: %w", err)
	}
	// A patch with values that the object already has is not a change.
	patched, err := jsonpatch.MergePatch(current, patch)
	if err != nil {
		return nil, fmt.Errorf("computing the result of the patch: %w", err)
	}
	if jsonpatch.Equal(current, patched) {
		return []byte("{}"), nil
	}
	return patch, nil
}

// diff returns a change as a unified diff of YAML. It is empty if nothing changes.
// The values of Secrets are hidden; only whether they change is visible.
func (c change) diff() string {
	before, after := withoutServerFields(c.before), withoutServerFields(c.after)
	if c.action == actionDelete {
		after = nil
	}
	hideSecrets(before, after)
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(before), B: lines(after), FromFile: "running", ToFile: "planned", Context: 3,
	})
	if err != nil {
		return ""
	}
	return text
}

// withoutServerFields returns an object without the fields that only the API server
// and its controllers write.
func withoutServerFields(u *unstructured.Unstructured) map[string]any {
	if u == nil {
		return nil
	}
	o := u.DeepCopy().Object
	delete(o, "status")
	if meta, ok := o["metadata"].(map[string]any); ok {
		for _, k := range []string{"managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"} {
			delete(meta, k)
		}
		if a, ok := meta["annotations"].(map[string]any); ok {
			delete(a, "deployment.kubernetes.io/revision")
			delete(a, "kubectl.kubernetes.io/last-applied-configuration") // it repeats the values of a Secret
		}
	}
	return o
}

// hideSecrets replaces the values of a Secret by placeholders. A value that does not
// change has the same placeholder on both sides, so that a diff shows which keys
// change.
func hideSecrets(before, after map[string]any) {
	for _, field := range []string{"data", "stringData"} {
		old, _ := ifSecret(before)[field].(map[string]any)
		planned, _ := ifSecret(after)[field].(map[string]any)
		for k := range planned {
			placeholder := "(hidden)"
			if v, ok := old[k]; ok && fmt.Sprint(v) != fmt.Sprint(planned[k]) {
				placeholder = "(hidden, changed)"
			}
			planned[k] = placeholder
		}
		for k := range old {
			old[k] = "(hidden)"
		}
	}
}

// ifSecret returns the object if it is a Secret, and nil otherwise.
func ifSecret(o map[string]any) map[string]any {
	if o["kind"] == "Secret" {
		return o
	}
	return nil
}

// lines returns an object as lines of YAML.
func lines(o map[string]any) []string {
	if o == nil {
		return nil
	}
	text, err := json.Marshal(o)
	if err != nil {
		return nil
	}
	if text, err = yaml.JSONToYAML(text); err != nil {
		return nil
	}
	return difflib.SplitLines(string(text))
}
