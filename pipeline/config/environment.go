package config

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Deploy says where the image runs.
type Deploy struct {
	Chart        string                 `json:"chart,omitzero" yaml:"chart" jsonschema:"minLength=1" jsonschema_description:"The Helm chart: a folder or a packed chart, relative to slipway.yaml. Default: chart, or charts/NAME of the app, where there is one."`
	Release      string                 `json:"release,omitzero" yaml:"release" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=53" jsonschema_description:"The Helm release. Default: the app's name."`
	ImageValues  ImageValues            `json:"imageValues,omitzero" yaml:"imageValues" jsonschema_description:"The chart's values that say which image runs, as paths with dots."`
	Environments map[string]Environment `json:"environments,omitzero" yaml:"environments" jsonschema_description:"The environments by name, for example staging and prod."`
}

// ImageValues names a chart's values.
type ImageValues struct {
	Repository  string `json:"repository,omitzero" yaml:"repository" jsonschema:"minLength=1" jsonschema_description:"Where the repository goes."`
	Digest      string `json:"digest,omitzero" yaml:"digest" jsonschema:"minLength=1" jsonschema_description:"Where the digest goes, as sha256:..."`
	Version     string `json:"version,omitzero" yaml:"version" jsonschema:"minLength=1" jsonschema_description:"Where the app's version goes, for example version. Default: nowhere."`
	PullSecrets string `json:"pullSecrets,omitzero" yaml:"pullSecrets" jsonschema:"minLength=1" jsonschema_description:"Where the list of pull secrets goes, as - name: NAME, when slipway makes one."`
}

// Environment is one place the image is deployed to.
type Environment struct {
	Context         string                       `json:"context,omitzero" yaml:"context" jsonschema:"minLength=1" jsonschema_description:"Context of the kubeconfig. Default: its current one."`
	Clusters        []Cluster                    `json:"clusters,omitzero" yaml:"clusters" jsonschema:"minItems=1" jsonschema_description:"Several clusters in place of context: they get the same digest in this order, and the first failure stops."`
	Namespace       string                       `json:"namespace,omitzero" yaml:"namespace" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=63" jsonschema_description:"The namespace; it is made where it is missing. Default: the release's name."`
	PodSecurity     string                       `json:"podSecurity,omitzero" yaml:"podSecurity" jsonschema:"enum=restricted,enum=baseline,enum=privileged,enum=none" jsonschema_description:"The Pod Security Standard the namespace enforces; none leaves the namespace's labels alone."`
	Values          []string                     `json:"values,omitzero" yaml:"values" jsonschema:"uniqueItems=true" jsonschema_description:"Values files, relative to slipway.yaml; later ones win."`
	Set             map[string]any               `json:"set,omitzero" yaml:"set" jsonschema_description:"Values that win over the files. Never put secrets here."`
	Secrets         map[string]map[string]string `json:"secrets,omitzero" yaml:"secrets" jsonschema_description:"Kubernetes Secrets to write before the release: name, then key and the environment variable that holds its value, for example orders: {database-password: DATABASE_PASSWORD}."`
	PullSecret      string                       `json:"pullSecret,omitzero" yaml:"pullSecret" jsonschema:"pattern=^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" jsonschema_description:"Name of a Secret to write with which the nodes log in at the registry, from SLIPWAY_PULL_USERNAME and SLIPWAY_PULL_PASSWORD or else slipway's own login. Default: none."`
	Timeout         Duration                     `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"How long a rollout may take."`
	Rollback        *bool                        `json:"rollback,omitzero" yaml:"rollback" jsonschema_description:"Go back to the newest good revision when a rollout fails."`
	RollbackTimeout Duration                     `json:"rollbackTimeout,omitzero" yaml:"rollbackTimeout" jsonschema_description:"How long the way back may take."`
	RollbackAll     bool                         `json:"rollbackAll,omitzero" yaml:"rollbackAll" jsonschema_description:"When a cluster fails, also take those back that were changed before it."`
	LockTimeout     Duration                     `json:"lockTimeout,omitzero" yaml:"lockTimeout" jsonschema_description:"How long to wait for another deployment of the same release."`
	Restarts        int32                        `json:"restarts,omitzero" yaml:"restarts" jsonschema:"minimum=1,maximum=100" jsonschema_description:"Restarts of a new container that count as a crash loop."`
	Readiness       Duration                     `json:"readiness,omitzero" yaml:"readiness" jsonschema_description:"How long a readiness probe may fail once the startup probe has passed."`
	Test            bool                         `json:"test,omitzero" yaml:"test" jsonschema_description:"Run the chart's tests after the rollout; a failing one fails it."`
	History         int                          `json:"history,omitzero" yaml:"history" jsonschema:"minimum=2,maximum=1000" jsonschema_description:"Revisions kept to go back to."`
	URL             string                       `json:"url,omitzero" yaml:"url" jsonschema:"format=uri" jsonschema_description:"Where the environment answers, for reports."`
	Protected       bool                         `json:"protected,omitzero" yaml:"protected" jsonschema_description:"Deploy only a clean tree on a tag, and only after a yes: at the terminal, or --yes."`
	Verify          Verify                       `json:"verify,omitzero" yaml:"verify" jsonschema_description:"The environment's own policy; what it leaves out is taken from verify."`
}

// UnmarshalJSON fills in what [DefaultEnvironment] has for every setting that is
// not there.
func (e *Environment) UnmarshalJSON(data []byte) error {
	type plain Environment // without this method
	p := plain(DefaultEnvironment())
	if err := json.Unmarshal(data, &p); err != nil {
		return err //nolint:wrapcheck // the caller knows where the data comes from
	}
	*e = Environment(p)
	return nil
}

// Cluster is one of an environment's clusters.
type Cluster struct {
	Name      string   `json:"name,omitzero" yaml:"name" jsonschema:"minLength=1" jsonschema_description:"Its name in reports. Default: the context."`
	Context   string   `json:"context,omitzero" yaml:"context" jsonschema:"minLength=1" jsonschema_description:"Context of the kubeconfig."`
	Namespace string   `json:"namespace,omitzero" yaml:"namespace" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=63" jsonschema_description:"The namespace there. Default: the environment's."`
	Values    []string `json:"values,omitzero" yaml:"values" jsonschema:"uniqueItems=true" jsonschema_description:"Values files on top of the environment's."`
	URL       string   `json:"url,omitzero" yaml:"url" jsonschema:"format=uri" jsonschema_description:"Where it answers."`
}

// Environment returns an environment with its defaults filled in.
func (c Config) Environment(name string) (Environment, error) {
	e, ok := c.Deploy.Environments[name]
	if !ok {
		known := slices.Sorted(maps.Keys(c.Deploy.Environments))
		err := fault.Inputf("config.environment", "there is no environment %q in deploy.environments", name)
		if len(known) > 0 {
			return Environment{}, err.WithFix("there are %s", strings.Join(known, ", "))
		}
		return Environment{}, err.WithFix("add it to slipway.yaml")
	}
	if len(e.Clusters) == 0 {
		e.Clusters = []Cluster{{Context: e.Context, URL: e.URL}}
	}
	return e, nil
}

// Policy is what must be true of an image before it is deployed to an
// environment; an empty name is any environment. What the environment leaves
// out is taken from verify, and what that leaves out from sign.
func (c Config) Policy(environment string) (Verify, error) {
	v := c.Verify
	if environment != "" {
		e, err := c.Environment(environment)
		if err != nil {
			return Verify{}, err
		}
		own := e.Verify
		// Who may sign is one question: an environment that names identities
		// must not still accept the keys of all others.
		if own.Keys != nil || own.Identities != nil {
			v.Keys, v.Identities = own.Keys, own.Identities
		}
		if own.TrustedRoot != "" {
			v.TrustedRoot = own.TrustedRoot
		}
		if own.Attestations != nil {
			v.Attestations = own.Attestations
		}
		if own.ScanMaxAge != 0 {
			v.ScanMaxAge = own.ScanMaxAge
		}
	}
	if v.Attestations == nil {
		v.Attestations = c.Sign.Attestations
	}
	if v.TrustedRoot == "" && c.Sign.Keyless != nil {
		v.TrustedRoot = c.Sign.Keyless.TrustedRoot
	}
	return v, nil
}
