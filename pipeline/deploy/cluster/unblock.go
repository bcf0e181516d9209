package cluster

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// unblocker deletes the pods of abandoned revisions that block a StatefulSet. Kubernetes
// itself never does that with the pod management policy OrderedReady, so neither a
// rollback nor a corrected release would replace a pod that never becomes ready
// (kubernetes/kubernetes#67250).
type unblocker struct {
	*deployment
	tried map[rollout.Blocking]bool
}

// unblockTimeout limits how long the deletion of a pod delays the observation of a rollout.
const unblockTimeout = 5 * time.Second

// abandoned reports whether the revision of a pod that blocks a StatefulSet is abandoned,
// so that the pod may be deleted. A pod of the previous revision is only waited for,
// because it can become ready again, unless
//
//   - it fails, so that it will not become ready without a new revision,
//   - the deployment is a rollback from the revision, or
//   - no revision of the release was ever good.
//
// A pod that the update strategy keeps is never deleted.
func (d *deployment) abandoned(b rollout.Blocking) bool {
	return b.Kept == "" && (!b.Previous || b.Failing || d.abandons)
}

// update deletes the pods that block the StatefulSets of a snapshot. If it must not delete
// a pod, the problem of the pod contains the command for it.
func (u unblocker) update(ctx context.Context, now rollout.Snapshot) {
	for _, w := range now.Workloads {
		if w.Blocking == nil || u.tried[*w.Blocking] || !u.abandoned(*w.Blocking) {
			continue
		}
		u.tried[*w.Blocking] = true
		u.delete(ctx, *w.Blocking)
	}
}

// delete deletes a pod, unless it has changed since it was observed. Its next state is then
// observed too.
func (u unblocker) delete(ctx context.Context, b rollout.Blocking) {
	ctx, cancel := context.WithTimeout(ctx, unblockTimeout)
	defer cancel()
	err := u.client.CoreV1().Pods(b.Namespace).Delete(ctx, b.Pod, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &b.UID, ResourceVersion: &b.ResourceVersion},
	})
	switch {
	case err == nil:
		text := fmt.Sprintf("pod %s of the abandoned revision %s was deleted, because the StatefulSet waited for it", b.Pod, b.Revision)
		progress.Line(ctx, text)
		u.result.Notes = append(u.result.Notes, text)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
	default:
		progress.Warnf(ctx, "the StatefulSet waits for pod %s of the abandoned revision %s, which cannot be deleted: %v; run %s", b.Pod, b.Revision, brief.Error(err, u.mask), b.Command())
	}
}
