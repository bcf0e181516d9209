package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"

	"github.com/slipway-ci/slipway/pipeline/deploy/rollout"
)

// This example waits until a Deployment that was applied is ready. If it will not become
// ready, the example prints why.
func Example() {
	var config *rest.Config // of the cluster
	var deployment *unstructured.Unstructured
	wait := func(ctx context.Context) error {
		result, err := rollout.Track(ctx, rollout.Options{
			Config: config, Objects: []*unstructured.Unstructured{deployment}, Timeout: 5 * time.Minute,
			Observe: func(s rollout.Snapshot) {
				for _, line := range s.Lines() {
					fmt.Println(line)
				}
			},
		})
		if failure, ok := errors.AsType[*rollout.Failure](err); ok {
			fmt.Println("failed:", failure.Kind, failure.Message)
		}
		for _, w := range result.Workloads {
			fmt.Println(w.Object, w.Done)
		}
		return err
	}
	_ = wait // wait needs a cluster, so the example does not call it
}

func ExampleKinds() {
	for _, k := range rollout.Kinds()[:3] {
		fmt.Printf("deploy.%s: %s\n", k.Kind, k.Means)
	}
	// Output:
	// deploy.deleted: the object was deleted during the rollout
	// deploy.invalid-image: the image reference cannot be parsed
	// deploy.config: a Secret, ConfigMap or key is missing, or the container cannot be created
}
