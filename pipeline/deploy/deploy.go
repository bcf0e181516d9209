// Package deploy defines the options and results of deployments and prints their
// reports. Package deploy/cluster implements [Tool] with the libraries of Helm and
// Kubernetes. They take minutes to compile, so this package must not import them.
//
// The package promises no compatibility to programs other than slipway.
package deploy

import (
	"context"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Tool deploys images to clusters.
type Tool interface {
	// Plan returns what Deploy would change. It sends dry runs to the API server and
	// changes nothing, so the image need not be verified and need not exist.
	Plan(ctx context.Context, o Options, image Image) (Plan, error)
	// Deploy installs, upgrades or recovers the release so that it runs image, and
	// follows the rollout until it succeeds or fails. The result contains everything
	// that is known, even if the error is not nil. If the rollout failed, the error
	// is a [fault.Gate] error.
	Deploy(ctx context.Context, o Options, image sign.VerifiedImage) (Result, error)
	// Status returns the state of the release and its workloads on every cluster.
	Status(ctx context.Context, o Options) ([]Status, error)
	// Certificate returns the certificate, in PEM, with which values are sealed for the
	// controller of Sealed Secrets in the first cluster of the environment.
	Certificate(ctx context.Context, o Options, c SealingController) ([]byte, error)
	// Rollback rolls back to a revision and follows the rollout. Revision 0 stands
	// for the newest good revision before the current one.
	Rollback(ctx context.Context, o Options, revision int) (Result, error)
}

// Options are the options of a deployment.
type Options struct {
	Environment string             // the name of the environment, for reports
	Settings    config.Environment // with defaults, absolute paths and at least one cluster
	Release     string             // the name of the Helm release
	Namespace   string             // the namespace, unless a cluster has another
	Chart       Chart              // the chart with which the image is deployed
	ImageValues config.ImageValues // the values of the chart that select the image
	Kubeconfig  string             // a file; default: $KUBECONFIG or ~/.kube/config
	// Server is a host and port that replace those of the API server, for a kubeconfig
	// whose server is unreachable from this machine. The certificate of the server is
	// still checked against the name in the kubeconfig.
	Server string
	// Forward maps ports of the loopback interface to the addresses, as host:port, at
	// which they can be reached from here. It applies if the server in the kubeconfig
	// has a loopback address.
	Forward map[string]string

	// Registries downloads a chart that is neither in the repository nor in slipway.
	Registries *registry.Client `json:"-"`

	// VerifyImage verifies an image that the chart runs besides the app with the keys and
	// identities of the setting that allows it. If it is nil, such images are refused.
	VerifyImage func(ctx context.Context, image name.Digest, by config.AllowedImage) error `json:"-"`
	// VerifyApp verifies an image of the app with the policy of the environment, before a
	// rollback to a revision without a record that it was verified. If it is nil, such
	// rollbacks are refused.
	VerifyApp func(ctx context.Context, image name.Digest) error `json:"-"`

	Sealed     []SealedSecret // applied before the release, instead of Secrets
	Secrets    []SecretData   // written before the release; their values are never printed
	PullSecret *PullSecret    // the login of the nodes for the registry of the image

	Run     string // who deploys, for the lock and the history
	Version string // the version of the app, for the history
}

// Image is an image, identified by its digest.
type Image struct {
	Repository string `json:"repository"`
	Digest     string `json:"digest"`
}

// ImageOf returns the image of a reference.
func ImageOf(ref name.Digest) Image {
	return Image{Repository: ref.Context().Name(), Digest: ref.DigestStr()}
}

// String returns repository@digest.
func (i Image) String() string { return i.Repository + "@" + i.Digest }

// SealedSecret is a sealed Secret, which only the controller in the cluster can decrypt.
type SealedSecret struct {
	Name     string
	File     string // relative to slipway.yaml, for messages
	Manifest []byte
}

// SealingController is where the controller of Sealed Secrets can be reached in a cluster.
type SealingController struct{ Namespace, Name string }

// SecretData is a Kubernetes Secret to write. Its values are hidden when it is
// printed or marshaled.
type SecretData struct {
	Name string
	Data map[string]string
}

// String returns the name of the Secret without its values.
func (s SecretData) String() string { return "Secret " + s.Name }

// GoString hides the values from %#v.
func (s SecretData) GoString() string { return s.String() }

// MarshalText hides the values from JSON.
func (s SecretData) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PullSecret is a Secret of type kubernetes.io/dockerconfigjson. Its password is
// hidden when it is printed.
type PullSecret struct {
	Name, Registry, Username string
	password                 string
}

// NewPullSecret returns a pull secret for a registry.
func NewPullSecret(name, registry, username, password string) *PullSecret {
	return &PullSecret{Name: name, Registry: registry, Username: username, password: password}
}

// Password returns the password that the nodes log in with.
func (p PullSecret) Password() string { return p.password }

// String returns the name of the pull secret without its password.
func (p PullSecret) String() string { return "pull secret " + p.Name }

// GoString hides the password from %#v.
func (p PullSecret) GoString() string { return p.String() }

// State is the state of a release before a deployment changes it.
type State string

// The states of a release.
const (
	Absent     State = "absent"     // never installed, or uninstalled
	Deployed   State = "deployed"   // the rollout of its newest revision succeeded
	Failed     State = "failed"     // the rollout of its newest revision failed
	Unfinished State = "unfinished" // the run that made its newest revision was killed
)

// Action is what was done to a release.
type Action string

// The actions of a deployment.
const (
	Installed  Action = "installed"
	Upgraded   Action = "upgraded"
	Recovered  Action = "recovered" // upgraded from a failed or unfinished revision
	RolledBack Action = "rolled back"
	Untouched  Action = "unchanged"   // the cluster already had this state
	Kept       Action = "kept"        // it failed and was not rolled back
	NotReached Action = "not reached" // nothing was applied
)

// Result is the outcome of a deployment on all clusters of an environment.
type Result struct {
	Environment string          `json:"environment"`
	Release     string          `json:"release"`
	Namespace   string          `json:"namespace"`
	Image       Image           `json:"image"`
	URL         string          `json:"url,omitempty"`
	Clusters    []ClusterResult `json:"clusters"`
	Seconds     float64         `json:"seconds"`
}

// Unchanged reports whether no cluster was changed, because all of them already had
// this state.
func (r Result) Unchanged() bool {
	for _, c := range r.Clusters {
		if c.Action != Untouched {
			return false
		}
	}
	return len(r.Clusters) > 0
}

// ClusterResult is the outcome of a deployment on one cluster.
type ClusterResult struct {
	Name        string     `json:"name"`
	URL         string     `json:"url,omitempty"`
	Before      State      `json:"before,omitempty"`
	Reason      string     `json:"reason,omitempty"` // why it was in that state
	Action      Action     `json:"action"`
	Revision    int        `json:"revision,omitempty"`        // the current revision
	Previous    int        `json:"previous,omitempty"`        // the last good revision before the deployment
	Tried       int        `json:"tried,omitempty"`           // the revision that failed
	Workloads   []Workload `json:"workloads,omitempty"`       // the workloads of the release
	Tests       []string   `json:"tests,omitempty"`           // the test hooks that ran
	Positions   int        `json:"image_positions,omitempty"` // the places in the manifests whose images were checked
	Failure     *Failure   `json:"failure,omitempty"`
	RollbackErr string     `json:"rollback_error,omitempty"` // why the rollback failed
	Warnings    []string   `json:"warnings,omitempty"`
	Notes       []string   `json:"notes,omitempty"` // what was done besides applying the chart
	Seconds     float64    `json:"seconds"`
	// Late is the time in seconds from the moment at which the last workload became
	// available to the moment at which the deployment knew it. The former is a
	// condition in the cluster, which has a resolution of one second.
	Late float64 `json:"late_seconds,omitempty"`
}

// Workload is the state of a workload of the release.
type Workload struct {
	Object    string `json:"object"` // kind/name
	Desired   int32  `json:"desired"`
	Updated   int32  `json:"updated"`
	Ready     int32  `json:"ready"`
	Available int32  `json:"available"`
	// Old is the number of pods that keep the old revision although the rollout is done,
	// because of the update strategy.
	Old     int32  `json:"old,omitempty"`
	Message string `json:"message,omitempty"`
}

// Failure is the cause of a failed rollout, with its evidence.
type Failure struct {
	Kind      string    `json:"kind"` // for example image-pull; the error code is deploy.KIND
	Object    string    `json:"object,omitempty"`
	Pod       string    `json:"pod,omitempty"`
	Container string    `json:"container,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Message   string    `json:"message"`
	Text      string    `json:"text,omitempty"` // the whole text of the server, if the message does not contain it
	Fix       string    `json:"fix,omitempty"`
	Logs      []string  `json:"logs,omitempty"`
	Events    []string  `json:"events,omitempty"`
	Known     time.Time `json:"known,omitzero"`    // when Kubernetes first reported it
	Seen      time.Time `json:"seen,omitzero"`     // when slipway first saw it
	Reported  time.Time `json:"reported,omitzero"` // when it ended the rollout
}

// Plan is the set of changes that a deployment would make.
type Plan struct {
	Environment string        `json:"environment"`
	Release     string        `json:"release"`
	Namespace   string        `json:"namespace"`
	Image       Image         `json:"image"`
	Clusters    []ClusterPlan `json:"clusters"`
}

// Changes reports whether the deployment would change any cluster.
func (p Plan) Changes() bool {
	for _, c := range p.Clusters {
		if len(c.Changes) > 0 {
			return true
		}
	}
	return false
}

// ClusterPlan is the set of changes that a deployment would make to one cluster.
type ClusterPlan struct {
	Name     string   `json:"name"`
	State    State    `json:"state"`
	Reason   string   `json:"reason,omitempty"`
	Revision int      `json:"revision,omitempty"` // the current revision
	Changes  []Change `json:"changes,omitempty"`
	Hooks    []string `json:"hooks,omitempty"` // the hooks that would run
	Warnings []string `json:"warnings,omitempty"`
}

// Change is a planned change of one object.
type Change struct {
	Action string `json:"action"` // create, update or delete
	Object string `json:"object"` // kind/name
	Diff   string `json:"diff"`   // a unified diff of YAML in which the values of Secrets are hidden
}

// Status is the state of a release on one cluster.
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
	Warnings  []string   `json:"warnings,omitempty"`
	Lock      string     `json:"lock,omitempty"` // who holds the lock, which means that they are deploying
	History   []Revision `json:"history,omitempty"`
}

// Revision is one entry in the history of a release.
type Revision struct {
	Revision    int       `json:"revision"`
	Status      string    `json:"status"`   // the status in Helm's storage
	Good        bool      `json:"good"`     // whether its rollout once succeeded
	Verified    bool      `json:"verified"` // whether its images were verified when slipway made it
	Updated     time.Time `json:"updated"`
	Chart       string    `json:"chart"`
	Image       string    `json:"image,omitempty"`
	Description string    `json:"description,omitempty"`
}
