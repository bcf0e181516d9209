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

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// Deployment holds the options of a deployment that are not in the configuration.
type Deployment struct {
	Kubeconfig string // path of the file; default: $KUBECONFIG or ~/.kube/config
	// Server is the address, HOST or HOST:PORT, of the API server to connect to
	// instead of that in the kubeconfig. Its certificate must be valid for the host
	// in the kubeconfig.
	Server string
	// Forward is [Options.Forward].
	Forward map[string]string
	Run     string // name of this run, for the lock and the history
}

// Environment variables with the credentials with which the nodes pull the image, if
// they differ from the credentials with which slipway pushes it.
const (
	PullUsername = "SLIPWAY_PULL_USERNAME"
	PullPassword = "SLIPWAY_PULL_PASSWORD" //nolint:gosec // the name of a variable
)

// DeployOptions returns the options for deployments to an environment. root is the
// folder of slipway.yaml. getenv looks up the values of Secrets. If it is nil, the
// options contain no Secrets, which is suitable for callers that do not write them. All
// errors are [fault.Input] errors.
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
	if e.Values, err = valuesFiles(root, e.Values); err != nil {
		return deploy.Options{}, err
	}
	e.Clusters = slices.Clone(e.Clusters)
	for i := range e.Clusters {
		if e.Clusters[i].Values, err = valuesFiles(root, e.Clusters[i].Values); err != nil {
			return deploy.Options{}, err
		}
	}
	o := deploy.Options{
		Environment: environment, Settings: e, Release: cmp.Or(c.Deploy.Release, name), ImageValues: c.Deploy.ImageValues,
		Kubeconfig: d.Kubeconfig, Server: d.Server, Forward: d.Forward, Run: d.Run,
	}
	o.Namespace = cmp.Or(e.Namespace, o.Release)
	if getenv == nil || e.Sealed != "" {
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

// appName returns the name of the app, which is the default name of the release. It
// comes from the source even if an image is given, because the repository of an image
// can have any name.
func appName(root string, c config.Config) (string, error) {
	name, err := source.Name(source.Options{Root: root, Dir: c.App.Dir, Name: c.App.Name})
	if err != nil && c.Deploy.Release != "" {
		return c.Deploy.Release, nil
	}
	return name, err
}

// valuesFiles returns the absolute paths of values files. It returns an error if a file
// does not exist.
func valuesFiles(root string, files []string) ([]string, error) {
	var paths []string
	for _, f := range files {
		path := config.Resolve(root, f)
		if _, err := os.Stat(path); err != nil {
			return nil, fault.Inputf("deploy.values", "values file %s: %w", f, withoutPath(err))
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// withoutPath returns err without its path, for messages that already contain the path.
func withoutPath(err error) error {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Err
	}
	return err
}

// DeploymentFiles returns the absolute paths of the chart, of its dependencies in other
// folders, and of the values files of an environment. Those that do not exist are left out.
func DeploymentFiles(root string, c config.Config, environment string) []string {
	e := c.Deploy.Environments[environment]
	names := slices.Clone(e.Values)
	for _, cluster := range e.Clusters {
		names = append(names, cluster.Values...)
	}
	var files []string
	for _, name := range names {
		if path := config.Resolve(root, name); exists(path) {
			files = append(files, path)
		}
	}
	if e.Sealed != "" {
		if path := config.Resolve(root, e.Sealed); exists(path) {
			files = append(files, path)
		}
	}
	chart, err := findChart(root, c)
	if err != nil || chart.Path == "" {
		return files
	}
	return append(append(files, chart.Path), deploy.LocalDependencies(chart.Path)...)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// checkPlan validates the environment. A plan writes no Secrets, so their values need
// not be set.
func (p *run) checkPlan() error { return p.checkEnvironment(nil) }

// checkDeploy validates the environment.
func (p *run) checkDeploy() error { return p.checkEnvironment(os.LookupEnv) }

func (p *run) checkEnvironment(getenv func(string) (string, bool)) error {
	if p.Deployer == nil {
		return fault.Inputf("deploy.no-deployer", "this slipway was built without support for deployments").WithFix("use the slipway program")
	}
	var err error
	if p.deployment, err = DeployOptions(p.Root, p.Config, p.Environment, p.Deployment, getenv); err != nil {
		return err
	}
	if p.deployment.Sealed, err = SealedSecrets(p.Root, p.deployment); err != nil {
		return err
	}
	p.deployment.Chart, err = findChart(p.Root, p.Config)
	return err
}

// deployOptions returns the options that checkEnvironment has set, with the version and
// the pull secret of the image.
func (p *run) deployOptions(ctx context.Context, image deploy.Image) (deploy.Options, error) {
	o := p.deployment
	if err := checkFolders(ctx, o.Chart); err != nil {
		return o, err
	}
	var err error
	if o.Chart, err = p.describe(ctx, o.Chart); err != nil {
		return o, err
	}
	if o.Registries, err = p.registry(); err != nil {
		return o, err
	}
	p.verifyWith(&o)
	if p.report.Source != nil {
		o.Version = p.source.Version
	} else if o.Version, err = p.stampedVersion(ctx); err != nil {
		return o, err
	}
	if o.Settings.PullSecret == "" {
		return o, nil
	}
	host := hostOf(image.Repository)
	user, password := os.Getenv(PullUsername), os.Getenv(PullPassword)
	if user == "" || password == "" {
		if user, password, err = registry.Login(ctx, host, p.Credentials); err != nil {
			return o, err
		}
	}
	if user == "" || password == "" {
		return o, fault.Inputf("deploy.pull-secret", "there is no login for %s to make the pull secret %s from", host, o.Settings.PullSecret).
			WithFix("set %s and %s", PullUsername, PullPassword)
	}
	o.PullSecret = deploy.NewPullSecret(o.Settings.PullSecret, host, user, password)
	return o, nil
}

// stampedVersion returns the version in the labels of the given image, or "" if it has
// none. It equals the version that the image's source has. A plan does not need the image
// otherwise, so it only warns if the image cannot be read.
func (p *run) stampedVersion(ctx context.Context) (string, error) {
	remote, err := p.openGiven(ctx)
	if err != nil && p.includes(Plan) && ctx.Err() == nil {
		progress.Warnf(ctx, "the plan does not know the version of the image, which cannot be read: %v", err)
		return "", nil
	}
	if err != nil {
		return "", err
	}
	file, err := remote.Platforms[0].Image.ConfigFile()
	if err != nil {
		return "", fmt.Errorf("reading the version of %s: %w", remote.Reference, err)
	}
	return file.Config.Labels["org.opencontainers.image.version"], nil
}

func (p *run) plan(ctx context.Context) (graph.Outcome, error) {
	ref, err := p.plannedReference()
	if err != nil {
		return graph.Outcome{}, err
	}
	image := deploy.ImageOf(ref)
	o, err := p.deployOptions(ctx, image)
	if err != nil {
		return graph.Outcome{}, err
	}
	plan, err := p.Deployer.Plan(ctx, o, image)
	p.report.Plan = &plan
	if err != nil {
		return graph.Outcome{}, err
	}
	n := 0
	for _, c := range plan.Clusters {
		n += len(c.Changes)
	}
	if n == 0 {
		return graph.Outcome{Kind: progress.Unchanged, Summary: "nothing would change"}, nil
	}
	return graph.Outcome{Kind: progress.Passed, Summary: fmt.Sprintf("%d objects would change", n)}, nil
}

func (p *run) deploy(ctx context.Context) (graph.Outcome, error) {
	o, err := p.deployOptions(ctx, deploy.ImageOf(p.verified.Reference()))
	if err != nil {
		return graph.Outcome{}, err
	}
	r, err := p.Deployer.Deploy(ctx, o, p.verified)
	if len(r.Clusters) > 0 {
		p.report.Deploy = &r
		if writeErr := deploy.WriteJUnit(filepath.Join(p.Reports, "deploy.xml"), r); writeErr != nil {
			err = errors.Join(err, writeErr)
		}
	}
	if err != nil {
		return graph.Outcome{}, err
	}
	return graph.Outcome{Kind: changed(r.Unchanged()), Summary: r.Summary()}, nil
}
