// Package deploy says what it is to bring an image to a cluster: the options,
// the results, and what is printed of them. Package deploy/cluster does it with
// Helm and Kubernetes' client libraries, which compile for minutes, so nothing
// in here may import them.
package deploy

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Tool brings images to clusters.
type Tool interface {
	// Plan says what Deploy would change, found by dry runs on the server. The
	// image need not be verified, nor exist: nothing is changed.
	Plan(ctx context.Context, o Options, image Image) (Plan, error)
	// Deploy installs, upgrades or recovers the release so that it runs image,
	// and follows the rollout to its end. The result holds all that is known even
	// if the error is not nil. It is a [fault.Gate] error if the rollout failed.
	Deploy(ctx context.Context, o Options, image sign.VerifiedImage) (Result, error)
	// Status says what is released and how its workloads are.
	Status(ctx context.Context, o Options) ([]Status, error)
	// Rollback goes back to a revision, 0 for the newest good one before the
	// current, and follows the rollout.
	Rollback(ctx context.Context, o Options, revision int) (Result, error)
}

// Options says what is deployed and where.
type Options struct {
	Environment string             // name of the environment, for reports
	Settings    config.Environment // complete, with absolute paths; at least one cluster
	Release     string             // name of the Helm release
	Namespace   string             // where it is, unless a cluster names another
	Chart       string             // folder or packed chart, absolute
	ImageValues config.ImageValues // the chart's values that say which image runs
	Kubeconfig  string             // file; default: $KUBECONFIG or ~/.kube/config
	// Server replaces the host and port of the API server, for a kubeconfig whose
	// server cannot be reached from here. The name in its certificate stays.
	Server string
	// Forward are addresses, host:port, at which ports of this machine's loopback
	// are reached, by port. It applies to a kubeconfig whose server is there.
	Forward map[string]string

	Secrets    []SecretData // written before the release, with values that are never printed
	PullSecret *PullSecret  // with which the nodes log in to the image's registry

	Run     string // who deploys, for the lock and the history
	Version string // of the app, for the history
}

// Values returns the chart's values for image, which take the place of those in
// values files: what the environment sets, then where the image is.
func (o Options) Values(image Image) map[string]any {
	values := maps.Clone(o.Settings.Set)
	if values == nil {
		values = map[string]any{}
	}
	put(values, o.ImageValues.Repository, image.Repository)
	put(values, o.ImageValues.Digest, image.Digest)
	if o.Version != "" {
		put(values, o.ImageValues.Version, o.Version)
	}
	if o.PullSecret != nil {
		put(values, o.ImageValues.PullSecrets, []any{map[string]any{"name": o.PullSecret.Name}})
	}
	return values
}

// put sets a value by its dotted path; an empty path sets nothing. It copies the
// maps on the way, because they may belong to the configuration.
func put(values map[string]any, path string, v any) {
	if path == "" {
		return
	}
	key, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		values[key] = v
		return
	}
	inner := map[string]any{}
	if old, ok := values[key].(map[string]any); ok {
		maps.Copy(inner, old)
	}
	values[key] = inner
	put(inner, rest, v)
}

// Image is the image to run, by digest.
type Image struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
}

// ImageOf returns the image that a reference names.
func ImageOf(ref name.Digest) Image {
	return Image{Repository: ref.Context().Name(), Digest: ref.DigestStr()}
}

// String is repository@digest.
func (i Image) String() string { return i.Repository + "@" + i.Digest }

// SecretData is a Kubernetes Secret to write. It does not print its values.
type SecretData struct {
	Name string
	Data map[string]string
}

// String names the Secret and hides what is in it.
func (s SecretData) String() string { return "Secret " + s.Name }

// GoString is String, for %#v.
func (s SecretData) GoString() string { return s.String() }

// MarshalText is String, for JSON.
func (s SecretData) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PullSecret is a Secret of type kubernetes.io/dockerconfigjson.
type PullSecret struct {
	Name, Registry, Username string
	password                 string
}

// NewPullSecret returns one that does not print its password.
func NewPullSecret(name, registry, username, password string) *PullSecret {
	return &PullSecret{Name: name, Registry: registry, Username: username, password: password}
}

// Password is what the nodes log in with.
func (p PullSecret) Password() string { return p.password }

// String hides the password.
func (p PullSecret) String() string { return "pull secret " + p.Name }

// GoString is String, for %#v.
func (p PullSecret) GoString() string { return p.String() }

// State is what a release was found in before anything is done.
type State string

// The states of a release.
const (
	Absent     State = "absent"     // never installed, or uninstalled
	Deployed   State = "deployed"   // its newest revision passed
	Failed     State = "failed"     // its newest revision did not
	Unfinished State = "unfinished" // the run that made its newest revision is dead
)

// Action is what was done to a release.
type Action string

// The actions.
const (
	Installed  Action = "installed"
	Upgraded   Action = "upgraded"
	Recovered  Action = "recovered" // upgraded from a failed or unfinished revision
	RolledBack Action = "rolled back"
	Untouched  Action = "unchanged" // the cluster has it already
	Kept       Action = "kept"      // failed, and left as it is for the next try
	NotReached Action = "not reached"
)

// Result is what a deployment gave.
type Result struct {
	Environment string          `json:"environment"`
	Release     string          `json:"release"`
	Namespace   string          `json:"namespace"`
	Image       Image           `json:"image"`
	URL         string          `json:"url,omitempty"`
	Clusters    []ClusterResult `json:"clusters"`
	Seconds     float64         `json:"seconds"`
}

// Unchanged reports whether every cluster had it already.
func (r Result) Unchanged() bool {
	for _, c := range r.Clusters {
		if c.Action != Untouched {
			return false
		}
	}
	return len(r.Clusters) > 0
}

// ClusterResult is what a deployment gave on one cluster.
type ClusterResult struct {
	Name        string     `json:"name"`
	URL         string     `json:"url,omitempty"`
	Before      State      `json:"before,omitempty"`
	Reason      string     `json:"reason,omitempty"` // why it was in that state
	Action      Action     `json:"action"`
	Revision    int        `json:"revision,omitempty"`  // running now
	Previous    int        `json:"previous,omitempty"`  // good one before
	Tried       int        `json:"tried,omitempty"`     // revision that failed
	Workloads   []Workload `json:"workloads,omitempty"` // of the release
	Tests       []string   `json:"tests,omitempty"`     // test hooks that ran
	Failure     *Failure   `json:"failure,omitempty"`
	RollbackErr string     `json:"rollback_error,omitempty"`
	Warnings    []string   `json:"warnings,omitempty"`
	Seconds     float64    `json:"seconds"`
	// Late is the time from the last workload being available, by its condition
	// in the cluster (whole seconds), to the end of the rollout as seen here.
	Late float64 `json:"late_seconds,omitempty"`
}

// Workload is how a workload of the release is.
type Workload struct {
	Object    string `json:"object"` // kind/name
	Desired   int32  `json:"desired"`
	Updated   int32  `json:"updated"`
	Ready     int32  `json:"ready"`
	Available int32  `json:"available"`
	Message   string `json:"message,omitempty"`
}

// Failure is why a rollout failed, with its evidence.
type Failure struct {
	Kind      string    `json:"kind"` // for example image-pull; the code is deploy.KIND
	Object    string    `json:"object,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Container string    `json:"container,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message"`
	Fix       string    `json:"fix,omitempty"`
	Logs      []string  `json:"logs,omitempty"`
	Events    []string  `json:"events,omitempty"`
	Known     time.Time `json:"known,omitzero"` // when Kubernetes first showed it
	Seen      time.Time `json:"seen,omitzero"`
	Reported  time.Time `json:"reported,omitzero"` // when it was the verdict
}

// Plan is what a deployment would change.
type Plan struct {
	Environment string        `json:"environment"`
	Release     string        `json:"release"`
	Namespace   string        `json:"namespace"`
	Image       Image         `json:"image"`
	Clusters    []ClusterPlan `json:"clusters"`
}

// Changes reports whether anything would change anywhere.
func (p Plan) Changes() bool {
	for _, c := range p.Clusters {
		if len(c.Changes) > 0 {
			return true
		}
	}
	return false
}

// ClusterPlan is what would change on one cluster.
type ClusterPlan struct {
	Name     string   `json:"name"`
	State    State    `json:"state"`
	Reason   string   `json:"reason,omitempty"`
	Revision int      `json:"revision,omitempty"` // running now
	Changes  []Change `json:"changes,omitempty"`
	Hooks    []string `json:"hooks,omitempty"` // that would run
	Warnings []string `json:"warnings,omitempty"`
}

// Change is what would become of one object.
type Change struct {
	Action string `json:"action"` // create, update or delete
	Object string `json:"object"` // kind/name
	Diff   string `json:"diff"`   // unified, of YAML, with secret values hidden
}

// Status is what is released on a cluster.
type Status struct {
	Cluster   string     `json:"cluster"`
	Release   string     `json:"release"`
	Namespace string     `json:"namespace"`
	State     State      `json:"state"`
	Reason    string     `json:"reason,omitempty"`
	Revision  int        `json:"revision,omitempty"`
	Image     string     `json:"image,omitempty"`
	Workloads []Workload `json:"workloads,omitempty"`
	Problems  []string   `json:"problems,omitempty"`
	Lock      string     `json:"lock,omitempty"` // who is deploying now
	History   []Revision `json:"history,omitempty"`
}

// Revision is one entry of a release's history.
type Revision struct {
	Revision    int       `json:"revision"`
	Status      string    `json:"status"` // Helm's
	Good        bool      `json:"good"`   // it passed its rollout once
	Updated     time.Time `json:"updated"`
	Chart       string    `json:"chart"`
	Image       string    `json:"image,omitempty"`
	Description string    `json:"description,omitempty"`
}
