package rollout

import (
	"testing"
)

// TestBlocking checks which pod of an old revision a StatefulSet waits for
// (kubernetes/kubernetes#67250).
func TestBlocking(t *testing.T) {
	for name, want := range map[string]*Blocking{
		"sts-abandoned":             {Pod: "web-2", UID: "u-web-2", Revision: "web-2", Failing: true},
		"sts-old-holds-up":          {Pod: "web-2", UID: "u-web-2", Revision: "web-1", Previous: true, Failing: true},
		"sts-old-unready":           {Pod: "web-1", UID: "u-web-1", Revision: "web-1", Previous: true},
		"sts-old-unready-partition": {Pod: "web-1", UID: "u-web-1", Revision: "web-1", Previous: true, Kept: "partition 2 of the update strategy"},
		"sts-on-delete-blocked":     {Pod: "web-0", UID: "u-web-0", Revision: "web-1", Previous: true, Failing: true, Kept: "update strategy OnDelete"},
		"sts-old-unready-parallel":  nil, // the controller replaces it
		"sts-old-unready-after-new": nil, // the controller waits for a pod of the new revision
		"sts-on-delete":             nil, // nothing waits
		"sts-crash":                 nil, // a pod of the new revision fails
		"sts-ready":                 nil,
		"sts-stale":                 nil, // the controller has not seen the change
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := judge{patience: Patience{}.withDefaults(), since: began}.workload(stateOf(t, readObjects(t, "testdata/cases/"+name+".yaml")))
			if want != nil {
				want.Namespace = "shop"
			}
			switch got := w.Blocking; {
			case got == nil && want == nil:
			case got == nil || want == nil || *got != *want:
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestOldPods checks how many pods keep the old revision because of the update strategy.
func TestOldPods(t *testing.T) {
	for name, want := range map[string]int32{
		"sts-on-delete": 3, "sts-on-delete-many": 7, "sts-on-delete-updated": 0, "sts-on-delete-blocked": 1, "sts-partition": 2,
		"ds-on-delete": 2, "ds-on-delete-updated": 0, "ds-on-delete-rolled-back": 1, "sts-ready": 0, "ds-ready": 0,
	} {
		w, _ := judge{patience: Patience{}.withDefaults(), since: began}.workload(stateOf(t, readObjects(t, "testdata/cases/"+name+".yaml")))
		if w.Old != want || (want > 0) != (len(w.Warnings) > 0) && name != "sts-partition" {
			t.Errorf("%s: %d old pods, want %d; the warnings are %v", name, w.Old, want, w.Warnings)
		}
	}
}
