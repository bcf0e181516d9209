package ship

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// Deployment is what deploying needs beside the configuration.
type Deployment struct {
	Kubeconfig  string        // file; default $KUBECONFIG or ~/.kube/config
	Server      string        // host:port in place of the kubeconfig's, whose TLS name stays
	Timeout     time.Duration // in place of the environment's
	NoWaitLock  bool
	NoRollback  bool
	RollbackAll bool
	Test        bool
	Run         string // who deploys, for the lock and the history
}

// Variables with the login that nodes pull with, where it is another than
// slipway's own.
const (
	PullUsername = "SLIPWAY_PULL_USERNAME"
	PullPassword = "SLIPWAY_PULL_PASSWORD" //nolint:gosec // a variable's name
)

// DeployOptions completes an environment's settings. root is the folder that
// paths are relative to. getenv gives the values of Secrets; nil leaves them
// out, for what only looks. It returns [fault.Input] errors.
func DeployOptions(root string, c config.Config, environment string, d Deployment, getenv func(string) (string, bool)) (deploy.Options, error) {
	if environment == "" {
		known := slices.Sorted(maps.Keys(c.Deploy.Environments))
		err := fault.Inputf("usage", "--env is missing")
		if len(known) == 0 {
			return deploy.Options{}, err.WithFix("add an environment to deploy.environments in slipway.yaml")
		}
		return deploy.Options{}, err.WithFix("choose one of %s", strings.Join(known, ", "))
	}
	e, err := c.Environment(environment)
	if err != nil {
		return deploy.Options{}, err
	}
	name, err := appName(root, c)
	if err != nil {
		return deploy.Options{}, err
	}
	o := deploy.Options{
		Environment: environment, Release: cmp.Or(c.Deploy.Release, name), Set: map[string]any{},
		Kubeconfig: d.Kubeconfig, Server: d.Server, PodSecurity: strings.TrimPrefix(e.PodSecurity, "none"),
		Timeout: time.Duration(e.Timeout), RollbackTimeout: time.Duration(e.RollbackTimeout), LockTimeout: time.Duration(e.LockTimeout),
		MaxHistory: e.History, NoRollback: d.NoRollback || !*e.Rollback, RollbackAll: d.RollbackAll || e.RollbackAll, Test: d.Test || e.Test,
		URL: e.URL, Run: d.Run, Patience: deploy.Patience{Restarts: e.Restarts, Readiness: time.Duration(e.Readiness)},
	}
	o.Namespace = cmp.Or(e.Namespace, o.Release)
	if d.Timeout > 0 {
		o.Timeout = d.Timeout
	}
	if d.NoWaitLock {
		o.LockTimeout = 0
	}
	maps.Copy(o.Set, e.Set)
	if o.Values, err = existing(root, e.Values); err != nil {
		return o, err
	}
	for _, k := range e.Clusters {
		values, err := existing(root, k.Values)
		if err != nil {
			return o, err
		}
		o.Clusters = append(o.Clusters, deploy.Cluster{Name: k.Name, Context: k.Context, Namespace: k.Namespace, Values: values, URL: k.URL})
	}
	if getenv == nil {
		return o, nil
	}
	for _, secret := range slices.Sorted(maps.Keys(e.Secrets)) {
		data := map[string]string{}
		for key, variable := range e.Secrets[secret] {
			v, ok := getenv(variable)
			if !ok {
				return o, fault.Inputf("deploy.secret", "%s is not set, which is the value of %s in Secret %s", variable, key, secret).
					WithFix("set the variable; deploy.environments.%s.secrets names it", environment)
			}
			data[key] = v
		}
		o.Secrets = append(o.Secrets, deploy.SecretData{Name: secret, Data: data})
	}
	return o, nil
}

// appName is what the release is called where nothing else is said. It is the
// app's own name, also where only an image is at hand, whose repository may be
// called anything.
func appName(root string, c config.Config) (string, error) {
	name, err := source.Name(source.Options{Root: root, Dir: c.App.Dir, Name: c.App.Name})
	if err != nil && c.Deploy.Release != "" {
		return c.Deploy.Release, nil
	}
	return name, err
}

// existing makes paths absolute and sees that they are there.
func existing(root string, files []string) ([]string, error) {
	var out []string
	for _, f := range files {
		path := f
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, f)
		}
		if _, err := os.Stat(path); err != nil {
			return nil, fault.Inputf("deploy.values", "values file %s: %w", f, unwrapPath(err))
		}
		out = append(out, path)
	}
	return out, nil
}

func unwrapPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// findChart is the configured chart, or the one at a usual place.
func findChart(root string, c config.Config) (string, error) {
	if given := c.Deploy.Chart; given != "" {
		path := given
		if !filepath.IsAbs(path) {
			path = filepath.Join(root, given)
		}
		if _, err := os.Stat(path); err != nil {
			return "", fault.Inputf("deploy.chart", "deploy.chart %s: %w", given, unwrapPath(err))
		}
		return path, nil
	}
	name, err := appName(root, c)
	if err != nil {
		return "", err
	}
	for _, place := range []string{"chart", filepath.Join("charts", name)} {
		if _, err := os.Stat(filepath.Join(root, place, "Chart.yaml")); err == nil {
			return filepath.Join(root, place), nil
		}
	}
	return "", fault.Inputf("deploy.chart", "there is no chart: neither chart nor charts/%s holds a Chart.yaml", name).WithFix("set deploy.chart in slipway.yaml")
}

// checkDeploy finds out before any work is done that nothing can be deployed.
func (p *run) checkDeploy() error {
	if !slices.Contains(p.Stages, Deploy) && !slices.Contains(p.Stages, Plan) {
		return nil
	}
	if p.Deployer == nil {
		return fault.Inputf("deploy.no-deployer", "this slipway was built without what deploys").WithFix("use the slipway program")
	}
	getenv := os.LookupEnv
	if !slices.Contains(p.Stages, Deploy) { // a plan writes no Secrets
		getenv = nil
	}
	var err error
	if p.deployment, err = DeployOptions(p.Root, p.Config, p.Environment, p.Deployment, getenv); err != nil {
		return err
	}
	if p.deployment.Chart, err = findChart(p.Root, p.Config); err != nil {
		return err
	}
	if slices.Contains(p.Stages, Deploy) && !slices.Contains(p.Stages, Verify) {
		return fault.Inputf("deploy.unverified", "an image is deployed only after it was verified").WithFix("leave out --unsigned, or --env")
	}
	if p.Reference == "" {
		return nil
	}
	client, err := p.client(p.Reference)
	if err != nil {
		return err
	}
	defer client.Close()
	return mustBeDigest(client, p.Reference)
}

// deployOptions are those of checkDeploy with the image.
func (p *run) deployOptions(ctx context.Context) (deploy.Options, error) {
	o := p.deployment
	reference := p.report.Reference
	if p.Reference != "" {
		reference = p.remote.Reference.Name()
	}
	if reference == "" { // a plan pushes nothing
		repository := p.Config.Image.Repository
		if repository == "" {
			repository = embeddedHost() + "/" + p.source.Name
		}
		reference = repository + "@" + p.report.Digest
	}
	var err error
	repository, digest, ok := strings.Cut(reference, "@")
	if !ok {
		return o, fmt.Errorf("deploying %s: it has no digest", reference)
	}
	o.Image = deploy.Image{Repository: repository, Digest: digest}
	values := p.Config.Deploy.ImageValues
	set := map[string]any{}
	maps.Copy(set, o.Set)
	o.Set = set
	put(set, values.Repository, repository)
	put(set, values.Digest, digest)
	if p.report.Source != nil {
		o.Version, o.Commit = p.source.Version, p.source.Revision
	} else if o.Version, err = p.stamped(); err != nil {
		return o, err
	}
	if values.Version != "" && o.Version != "" {
		put(set, values.Version, o.Version)
	}
	e, err := p.Config.Environment(p.Environment)
	if err != nil || e.PullSecret == "" {
		return o, err
	}
	host, _, _ := strings.Cut(repository, "/")
	user, password := os.Getenv(PullUsername), os.Getenv(PullPassword)
	if user == "" || password == "" {
		if user, password, err = registry.Login(ctx, host, p.Credentials); err != nil {
			return o, err
		}
	}
	if user == "" || password == "" {
		return o, fault.Inputf("deploy.pull-secret", "there is no login for %s to make the pull secret %s of", host, e.PullSecret).
			WithFix("set %s and %s", PullUsername, PullPassword)
	}
	o.PullSecret = deploy.NewPullSecret(e.PullSecret, host, user, password)
	put(set, values.PullSecrets, []any{map[string]any{"name": e.PullSecret}})
	return o, nil
}

// stamped is the version that a given image says it has, the same as its source
// would say.
func (p *run) stamped() (string, error) {
	if len(p.remote.Platforms) == 0 {
		return "", nil
	}
	file, err := p.remote.Platforms[0].Image.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", p.remote.Reference, err)
	}
	return file.Config.Labels["org.opencontainers.image.version"], nil
}

// put sets a value by its path with dots. What is on the way is copied: it may
// be the configuration's.
func put(values map[string]any, path string, v any) {
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

func (p *run) plan(ctx context.Context) (outcome, error) {
	o, err := p.deployOptions(ctx)
	if err != nil {
		return outcome{}, err
	}
	plan, err := p.Deployer.Plan(ctx, o)
	p.report.Plan = &plan
	if err != nil {
		return outcome{}, err
	}
	n := 0
	for _, c := range plan.Clusters {
		n += len(c.Changes)
	}
	if n == 0 {
		return outcome{progress.Unchanged, "nothing would change"}, nil
	}
	return outcome{progress.Passed, fmt.Sprintf("%d objects would change", n)}, nil
}

func (p *run) deploy(ctx context.Context) (outcome, error) {
	o, err := p.deployOptions(ctx)
	if err != nil {
		return outcome{}, err
	}
	r, err := p.Deployer.Deploy(ctx, o)
	if len(r.Clusters) > 0 {
		p.report.Deploy = &r
	}
	if writeErr := deploy.WriteJUnit(filepath.Join(p.Reports, "deploy.xml"), r); writeErr != nil && len(r.Clusters) > 0 {
		err = errors.Join(err, writeErr)
	}
	if err != nil {
		return outcome{}, err
	}
	return outcome{changed(r.Unchanged()), r.Summary()}, nil
}
