package config

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

// Deploy configures how and where the image is deployed.
type Deploy struct {
	Chart        string                 `json:"chart,omitzero" yaml:"chart" jsonschema:"minLength=1" jsonschema_description:"The Helm chart: a folder or a packaged chart, relative to slipway.yaml; oci://HOST/PATH/NAME:VERSION@sha256:..., of which the version or the digest suffices; or https://HOST/PATH/NAME:VERSION in a Helm repository. Default: the folder chart, or charts/NAME with the name of the app, if one of them exists, and otherwise slipway's own chart, which deploys any Go service."`
	ChartKeyring string                 `json:"chartKeyring,omitzero" yaml:"chartKeyring" jsonschema:"minLength=1" jsonschema_description:"A file with public keys as gpg --export writes it, relative to slipway.yaml. A chart from a registry or a Helm repository must then have a provenance that is signed with one of them."`
	Service      Service                `json:"service,omitzero" yaml:"service" jsonschema_description:"The app as slipway's own chart deploys it. Only for repositories without a chart."`
	Release      string                 `json:"release,omitzero" yaml:"release" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=53" jsonschema_description:"The name of the Helm release. Default: the name of the app."`
	ImageValues  ImageValues            `json:"imageValues,omitzero" yaml:"imageValues" jsonschema_description:"The values of the chart that select the image, as dotted paths."`
	Environments map[string]Environment `json:"environments,omitzero" yaml:"environments" jsonschema_description:"The environments by name, for example staging and prod."`
}

// ImageValues names the values of a chart that select the image, as dotted paths. If
// Repository, Registry, Digest, Tag and Reference are empty, the values of the chart
// determine them.
type ImageValues struct {
	Repository  string `json:"repository,omitzero" yaml:"repository" jsonschema:"minLength=1" jsonschema_description:"The value that receives the repository. Default: image.repository."`
	Registry    string `json:"registry,omitzero" yaml:"registry" jsonschema:"minLength=1" jsonschema_description:"The value that receives the registry, as host or host:port. The value for the repository then receives the rest. Default: the value registry next to that of the repository, if the chart has it."`
	Digest      string `json:"digest,omitzero" yaml:"digest" jsonschema:"minLength=1" jsonschema_description:"The value that receives the digest, as sha256:... Default: the value digest next to that of the repository, unless the chart has only a value tag."`
	Tag         string `json:"tag,omitzero" yaml:"tag" jsonschema:"minLength=1" jsonschema_description:"The value that receives the version of the app and the digest, as 1.2.3@sha256:..., for a chart that has no value for the digest. If digest is set too, it receives only the version. Default: the value tag next to that of the repository, if the chart has no value digest there."`
	Reference   string `json:"reference,omitzero" yaml:"reference" jsonschema:"minLength=1" jsonschema_description:"The value that receives the whole image, as repository@sha256:..., instead of the values above. Default: image, if that is a text in the values of the chart."`
	Version     string `json:"version,omitzero" yaml:"version" jsonschema:"minLength=1" jsonschema_description:"The value that receives the version of the app, for example version. Default: the annotation slipway-ci.github.io/version-value in the Chart.yaml of the chart; without it, the version is not passed to the chart."`
	PullSecrets string `json:"pullSecrets,omitzero" yaml:"pullSecrets" jsonschema:"minLength=1" jsonschema_description:"The value that receives the list of pull secrets, as - name: NAME, if slipway writes one."`
}

// Environment is one environment that the image is deployed to.
type Environment struct {
	Context         string                       `json:"context,omitzero" yaml:"context" jsonschema:"minLength=1" jsonschema_description:"The context of the kubeconfig. Default: the current context."`
	Clusters        []Cluster                    `json:"clusters,omitzero" yaml:"clusters" jsonschema:"minItems=1" jsonschema_description:"Several clusters, instead of context. They receive the same digest in this order, and the first failure stops the deployment."`
	Namespace       string                       `json:"namespace,omitzero" yaml:"namespace" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=63" jsonschema_description:"The namespace, which is created if it does not exist. Default: the name of the release."`
	PodSecurity     string                       `json:"podSecurity,omitzero" yaml:"podSecurity" jsonschema:"enum=restricted,enum=baseline,enum=privileged,enum=none" jsonschema_description:"The Pod Security Standard that the namespace enforces. With none, the labels of the namespace are neither checked nor changed."`
	Values          []string                     `json:"values,omitzero" yaml:"values" jsonschema:"uniqueItems=true" jsonschema_description:"Values files of the chart, relative to slipway.yaml. A later file overrides an earlier one."`
	Set             map[string]any               `json:"set,omitzero" yaml:"set" jsonschema_description:"Values of the chart that override the values files. A value of null removes the key from the defaults of the chart, as in a values file. Never put secrets here."`
	Secrets         map[string]map[string]string `json:"secrets,omitzero" yaml:"secrets" jsonschema_description:"The Kubernetes Secrets to write before the release is applied. Each maps its keys to the environment variables that hold their values, for example orders: {database-password: DATABASE_PASSWORD}."`
	Sealed          string                       `json:"sealed,omitzero" yaml:"sealed" jsonschema:"minLength=1" jsonschema_description:"The folder with sealed Secrets, relative to slipway.yaml, one file for each of secrets. slipway seal writes them, and a deployment applies them, so that it needs none of the environment variables."`
	PullSecret      string                       `json:"pullSecret,omitzero" yaml:"pullSecret" jsonschema:"pattern=^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" jsonschema_description:"The name of a Secret to write, with which the nodes log in to the registry. It holds SLIPWAY_PULL_USERNAME and SLIPWAY_PULL_PASSWORD or, if they are not set, the login that slipway itself uses. By default slipway writes no pull secret."`
	Timeout         Duration                     `json:"timeout,omitzero" yaml:"timeout" jsonschema_description:"The time that a rollout may take."`
	Rollback        *bool                        `json:"rollback,omitzero" yaml:"rollback" jsonschema_description:"Roll back to the newest good revision if a rollout fails."`
	RollbackTimeout Duration                     `json:"rollbackTimeout,omitzero" yaml:"rollbackTimeout" jsonschema_description:"The time that a rollback may take."`
	RollbackAll     bool                         `json:"rollbackAll,omitzero" yaml:"rollbackAll" jsonschema_description:"If the rollout fails on one cluster, also roll back the clusters that were changed before it."`
	LockTimeout     Duration                     `json:"lockTimeout,omitzero" yaml:"lockTimeout" jsonschema_description:"The time to wait for another deployment of the same release to finish."`
	Restarts        int32                        `json:"restarts,omitzero" yaml:"restarts" jsonschema:"minimum=1,maximum=100" jsonschema_description:"The number of restarts of a new container that count as a crash loop."`
	Readiness       Duration                     `json:"readiness,omitzero" yaml:"readiness" jsonschema_description:"The time that a readiness probe may fail after the startup probe has passed."`
	Test            bool                         `json:"test,omitzero" yaml:"test" jsonschema_description:"Run the tests of the chart after the rollout. If a test fails, the rollout has failed."`
	History         int                          `json:"history,omitzero" yaml:"history" jsonschema:"minimum=2,maximum=1000" jsonschema_description:"The number of revisions that Helm keeps for rollbacks."`
	URL             string                       `json:"url,omitzero" yaml:"url" jsonschema:"format=uri" jsonschema_description:"The URL of the environment, for reports."`
	Protected       bool                         `json:"protected,omitzero" yaml:"protected" jsonschema_description:"Deploy only from a clean tree on a tag, and only after confirmation, either at the terminal or with --yes."`
	Images          []AllowedImage               `json:"images,omitzero" yaml:"images" jsonschema_description:"The images that the chart may run besides the app, for example that of a sidecar. By default it may run none, because nobody has verified them."`
	Verify          Verify                       `json:"verify,omitzero" yaml:"verify" jsonschema_description:"The policy of the environment. Settings that are absent from it are taken from verify."`
}

// AllowedImage allows images that a chart runs besides the app.
type AllowedImage struct {
	Image      string     `json:"image,omitzero" yaml:"image" jsonschema:"required,minLength=1" jsonschema_description:"The image: a repository, or repository@sha256:... for a single digest. In a repository with its registry, * stands for any part of a path segment and ** for any number of segments, for example ghcr.io/acme/**."`
	Keys       []string   `json:"keys,omitzero" yaml:"keys" jsonschema:"uniqueItems=true,minItems=1" jsonschema_description:"The image must be signed by one of these public keys, which are given as in verify.keys."`
	Identities []Identity `json:"identities,omitzero" yaml:"identities" jsonschema:"minItems=1" jsonschema_description:"The image must be signed by one of these identities."`
	Tag        bool       `json:"tag,omitzero" yaml:"tag" jsonschema_description:"The chart may give the image by tag. Its registry then decides what runs. By default the chart must give it by digest."`
}

// UnmarshalJSON takes every setting that is absent from data from
// [DefaultEnvironment].
func (e *Environment) UnmarshalJSON(data []byte) error {
	type plain Environment // without this method
	p := plain(DefaultEnvironment())
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*e = Environment(p)
	return nil
}

// Cluster is one of the clusters of an environment.
type Cluster struct {
	Name      string   `json:"name,omitzero" yaml:"name" jsonschema:"minLength=1" jsonschema_description:"The name of the cluster in reports. Default: the context."`
	Context   string   `json:"context,omitzero" yaml:"context" jsonschema:"minLength=1" jsonschema_description:"The context of the kubeconfig."`
	Namespace string   `json:"namespace,omitzero" yaml:"namespace" jsonschema:"pattern=^[a-z0-9]([-a-z0-9]*[a-z0-9])?$,maxLength=63" jsonschema_description:"The namespace on this cluster. Default: the namespace of the environment."`
	Values    []string `json:"values,omitzero" yaml:"values" jsonschema:"uniqueItems=true" jsonschema_description:"Values files for this cluster, which override those of the environment."`
	URL       string   `json:"url,omitzero" yaml:"url" jsonschema:"format=uri" jsonschema_description:"The URL of the app on this cluster, for reports."`
}

// Environment returns the environment of that name with its defaults filled in. It
// has at least one cluster. If the environment does not exist, the error is a
// [fault.Input] error.
func (c Config) Environment(name string) (Environment, error) {
	e, ok := c.Deploy.Environments[name]
	if !ok {
		known := slices.Sorted(maps.Keys(c.Deploy.Environments))
		err := fault.Inputf("config.environment", "there is no environment %q in deploy.environments", name)
		if len(known) > 0 {
			return Environment{}, err.WithFix("use one of %s", strings.Join(known, ", "))
		}
		return Environment{}, err.WithFix("add it to slipway.yaml")
	}
	if len(e.Clusters) == 0 {
		e.Clusters = []Cluster{{Context: e.Context, URL: e.URL}}
	}
	return e, nil
}

// Policy returns the policy that an image must satisfy before it is deployed to an
// environment. An empty name stands for the policy that applies to all environments.
// Settings that are absent from the environment are taken from verify, and those that
// are absent from verify are taken from sign. If Allow is nil, nothing is decided about
// it.
func (c Config) Policy(environment string) (Verify, error) {
	v := c.Verify
	if environment != "" {
		e, err := c.Environment(environment)
		if err != nil {
			return Verify{}, err
		}
		own := e.Verify
		// Keys and identities together define who may sign. An environment that
		// names identities must not accept the keys of other environments as well.
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
		v.Provenance = v.Provenance.with(own.Provenance)
		// What a protected environment accepts must be written down for it.
		if own.Allow != nil || e.Protected {
			v.Allow = append([]string{}, own.Allow...)
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

// with returns the requirements with those of over instead of its own.
func (p Provenance) with(over Provenance) Provenance {
	if over.Builder != nil {
		p.Builder = over.Builder
	}
	p.Repository, p.Ref, p.Clean = cmp.Or(over.Repository, p.Repository), cmp.Or(over.Ref, p.Ref), cmp.Or(over.Clean, p.Clean)
	return p
}
