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

// mergePatch is the three-way patch for kinds whose lists nobody describes.
func mergePatch(original, modified, current []byte) ([]byte, error) {
	patch, err := jsonmergepatch.CreateThreeWayJSONMergePatch(original, modified, current)
	if err != nil {
		return nil, fmt.Errorf("making the patch: %w", err)
	}
	// Values that are there already are no change.
	patched, err := jsonpatch.MergePatch(current, patch)
	if err != nil {
		return nil, fmt.Errorf("trying the patch: %w", err)
	}
	if jsonpatch.Equal(current, patched) {
		return []byte("{}"), nil
	}
	return patch, nil
}

// diff is what a person reads of a change; empty where there is none. Values
// of Secrets are hidden, but for whether they change.
func (c change) diff() string {
	before, after := shown(c.before), shown(c.after)
	if c.action == actionDelete {
		after = nil
	}
	hide(before, after)
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: lines(before), B: lines(after), FromFile: "running", ToFile: "planned", Context: 3,
	})
	if err != nil {
		return ""
	}
	return text
}

// shown is an object without what the server alone writes.
func shown(u *unstructured.Unstructured) map[string]any {
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
			delete(a, "kubectl.kubernetes.io/last-applied-configuration") // it repeats a Secret's values
		}
	}
	return o
}

// hide puts marks in place of the values of Secrets: equal marks for equal
// values, so that a change is seen and nothing else.
func hide(before, after map[string]any) {
	for _, field := range []string{"data", "stringData"} {
		old, _ := secret(before)[field].(map[string]any)
		planned, _ := secret(after)[field].(map[string]any)
		for k := range planned {
			mark := "(hidden)"
			if v, ok := old[k]; ok && fmt.Sprint(v) != fmt.Sprint(planned[k]) {
				mark = "(hidden, changed)"
			}
			planned[k] = mark
		}
		for k := range old {
			old[k] = "(hidden)"
		}
	}
}

func secret(o map[string]any) map[string]any {
	if o["kind"] == "Secret" {
		return o
	}
	return nil
}

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
