package command

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/registry"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// request is what the flags of a pipeline command ask for; a flag that was
// not given leaves the configuration as it is.
type request struct {
	force     bool
	reports   string
	noRace    bool
	floor     float64
	platforms []string
	base      string
	main      string
	upx       bool
	cgo       bool
	compress  string
	format    string
	version   string
	revision  string
	mirror    string

	repository    string
	tags          []string
	username      string
	passwordStdin bool
	insecure      bool

	registryServer string
	digestFile     string
	dotenv         string

	severities    []string
	ignoreUnfixed bool
	reachableOnly bool
	databases     []string
	offline       bool
	reportFormat  string
	sbomFormat    string

	image         string // of a registry, in place of building one
	needsImage    bool
	key           string
	keyless       bool
	token         string
	onlySignature bool
	unsigned      bool
	environment   string
	publicKeys    []string

	deployment ship.Deployment
	deploys    bool // where an environment is given
	yes        bool
	takesBack  bool
	gitTag     string
}

func (a *app) pipelineCommands() []*cobra.Command {
	return []*cobra.Command{
		a.stageCommand("check", "Lint and test: the gate before a push", `  slipway check
  slipway check --force               even though nothing changed`, verdictFlags, ship.Lint, ship.Test),
		a.stageCommand("lint", "Run golangci-lint on the app's code", `  slipway lint
  slipway lint -o json | jq .lint.findings`, verdictFlags, ship.Lint),
		a.stageCommand("test", "Run the tests with the race detector, with the services they need", `  slipway test
  slipway test --coverage 80          fail under 80 % of statements`, verdictFlags|testFlags, ship.Test),
		a.stageCommand("build", "Build the image for every platform", `  slipway build                       into .slipway/image
  slipway build -o oci:out --platforms linux/arm64
  slipway build -o docker-archive:app.tar --platforms linux/amd64
  slipway build --upx --base distroless
  SOURCE_DATE_EPOCH=0 slipway build   with another time than the commit's`, buildFlags, ship.Build, ship.Compress, ship.Image, ship.Export),
		a.stageCommand("publish", "Build the image and push it", `  slipway publish --repository ghcr.io/acme/orders
  slipway publish --tag v1.2.3 --tag latest --digest-file digest.txt
  echo "$TOKEN" | slipway publish --username ci --password-stdin`, buildFlags|pushFlags, ship.Build, ship.Compress, ship.Image, ship.Push),
		a.scanCommand(),
		a.sbomCommand(),
		a.signCommand(),
		a.verifyCommand(),
		a.planCommand(),
		a.deployCommand(),
		a.statusCommand(),
		a.historyCommand(),
		a.rollbackCommand(),
		a.shipCommand(),
	}
}

func (a *app) shipCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "ship", "Run everything: from the source to a signed image and, with --env, to running pods", `  slipway ship                        to the embedded registry where none is configured
  slipway ship --env staging          and deploy it there
  slipway ship --repository registry.example.com/acme/orders
  slipway ship --key env://SIGNING_KEY
  slipway ship -o json | jq -r .reference`, verdictFlags|buildFlags|pushFlags, everything()...)
	r.scanFlags(cmd)
	r.signFlags(cmd)
	r.clusterFlags(cmd)
	r.deployFlags(cmd)
	cmd.Flags().BoolVar(&r.unsigned, "unsigned", false, "push without signature and attestations")
	r.deploys = true
	return cmd
}

type flagSet int

const (
	verdictFlags flagSet = 1 << iota
	testFlags
	buildFlags
	pushFlags
)

func (a *app) stageCommand(name, short, example string, sets flagSet, stages ...ship.Name) *cobra.Command {
	return a.stageCommandFor(&request{}, name, short, example, sets, stages...)
}

func (a *app) stageCommandFor(r *request, name, short, example string, sets flagSet, stages ...ship.Name) *cobra.Command {
	cmd := &cobra.Command{
		Use: name, Short: short, Example: example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runStages(cmd, r, sets, stages) },
	}
	f := cmd.Flags()
	if sets&verdictFlags != 0 {
		f.BoolVar(&r.force, "force", false, "run lint and tests though nothing changed since they passed")
		f.StringVar(&r.reports, "reports", "", "folder `DIR` for reports (default .slipway/reports)")
	}
	if sets&testFlags != 0 {
		f.BoolVar(&r.noRace, "no-race", false, "test without the race detector")
		f.Float64Var(&r.floor, "coverage", 0, "lowest coverage that passes, in `PERCENT`")
	}
	if sets&buildFlags != 0 {
		f.StringSliceVar(&r.platforms, "platforms", nil, "platforms to build for, for example `linux/amd64,linux/arm64`")
		f.StringVar(&r.main, "main", "", "main `PACKAGE`, for example ./cmd/server")
		f.StringVar(&r.base, "base", "", "base image: scratch, alpine, distroless or any `REFERENCE`")
		f.BoolVar(&r.upx, "upx", false, "pack the binary with upx --best --lzma")
		f.BoolVar(&r.cgo, "cgo", false, "build with cgo, linked statically against musl")
		f.StringVar(&r.compress, "compression", "", "layer compression: `gzip|zstd`")
		f.StringVar(&r.format, "format", "", "manifest format: `oci|docker`; docker can hold a health check")
		f.StringVar(&r.version, "version", "", "`VERSION` to stamp (default: from the commit)")
		f.StringVar(&r.revision, "revision", "", "`COMMIT` to stamp where .git is not at hand")
		f.StringVar(&r.mirror, "mirror", "", "`REGISTRY` to pull base images from first, for example mirror.example.com/hub")
	}
	if sets&(buildFlags|pushFlags) != 0 {
		f.StringVar(&r.digestFile, "digest-file", "", "write the digest to `FILE`")
	}
	if sets&pushFlags != 0 {
		f.StringVar(&r.repository, "repository", "", "`REPOSITORY` to push to, for example ghcr.io/acme/orders")
		f.StringArrayVar(&r.tags, "tag", nil, "image `TAG`, repeatable (default: the commit; in CI also the git tag and latest)")
		r.accessFlags(cmd)
		f.StringVar(&r.dotenv, "dotenv", "", "write SLIPWAY_DIGEST and more to `FILE`, for GitLab's dotenv report")
	}
	return cmd
}

func (a *app) runStages(cmd *cobra.Command, r *request, sets flagSet, stages []ship.Name) error {
	root, c, err := a.load()
	if err != nil {
		return err
	}
	if sets&buildFlags == 0 {
		if err := a.only(); err != nil {
			return err
		}
	}
	exports, stages, err := a.destinations(r, stages)
	if err != nil {
		return err
	}
	if err := r.apply(cmd, &c); err != nil {
		return err
	}
	o := ship.Options{
		Root: root, Config: c, Stages: stages, Force: r.force, Version: r.version, Revision: r.revision,
		Epoch: os.Getenv("SOURCE_DATE_EPOCH"), Tags: r.tags, Exports: exports, ExtraTags: ci.Detect(nil).Tags(),
	}
	if r.reports != "" {
		if o.Reports, err = filepath.Abs(r.reports); err != nil {
			return fault.Inputf("usage", "--reports: %w", err)
		}
	}
	if o.Cache, err = cache.User(); err != nil {
		return err
	}
	if err := a.supplyOptions(r, &o); err != nil {
		return err
	}
	if slices.Contains(o.Stages, ship.Deploy) && r.environment != "" {
		if err := a.protect(cmd.Context(), root, o.Config, r); err != nil {
			return err
		}
	}
	o.Credentials.Username = r.username
	if r.passwordStdin {
		if o.Credentials.Password, err = readPassword(a.stdin); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(o.Stages))
	for _, s := range o.Stages {
		names = append(names, string(s))
	}
	show := a.display(names)
	o.Sink = show
	report, err := ship.Run(cmd.Context(), o)
	show.Close()
	if err == nil {
		err = r.hand(report)
	}
	if text, printErr := r.document(report); len(text) > 0 && !a.json {
		_, _ = a.stdout.Write(text) // nobody is left to tell when standard output is gone
		return errors.Join(err, printErr)
	}
	if err == nil && report.Plan != nil && report.Plan.Changes() {
		err = pending{}
	}
	return a.finish(report, err)
}

// pending ends a plan that found changes: no error, but an exit code.
type pending struct{}

func (pending) Error() string { return "something would change" }

// destinations reads -o: oci: and docker-archive: are exports, registry: turns
// a build into a push.
func (a *app) destinations(r *request, stages []ship.Name) ([]ship.Output, []ship.Name, error) {
	var exports []ship.Output
	stages = slices.Clone(stages)
	for _, place := range a.places {
		if repository, ok := strings.CutPrefix(place, "registry:"); ok {
			r.repository = repository
			stages = slices.DeleteFunc(stages, func(s ship.Name) bool { return s == ship.Export })
			if !slices.Contains(stages, ship.Push) {
				stages = append(stages, ship.Push)
			}
			continue
		}
		o, err := ship.ParseOutput(place)
		if err != nil {
			return nil, nil, err
		}
		exports = append(exports, o)
	}
	if len(exports) > 0 && !slices.Contains(stages, ship.Export) {
		stages = append(stages, ship.Export)
	}
	return exports, stages, nil
}

// apply lets flags win over the configuration.
func (r *request) apply(cmd *cobra.Command, c *config.Config) error {
	given := cmd.Flags().Changed
	if given("platforms") {
		c.App.Platforms = r.platforms
	}
	if given("main") {
		c.App.Main = r.main
	}
	if given("base") {
		c.Image.Base = r.base
	}
	if given("upx") {
		c.Image.UPX = r.upx
	}
	if given("cgo") {
		c.App.CGO = r.cgo
	}
	if given("compression") {
		c.Image.Compression = r.compress
	}
	if given("format") {
		c.Image.Format = r.format
	}
	if given("no-race") {
		race := !r.noRace
		c.Test.Race = &race
	}
	if given("coverage") {
		c.Test.Coverage = r.floor
	}
	if r.repository != "" {
		c.Image.Repository = r.repository
	}
	if r.mirror != "" {
		mirrors := map[string][]string{registry.AnyHost: {r.mirror}}
		for host, list := range c.Registry.Mirrors {
			mirrors[host] = slices.Concat([]string{r.mirror}, list)
		}
		c.Registry.Mirrors = mirrors
	}
	if r.insecure && c.Image.Repository != "" {
		host, _, _ := strings.Cut(c.Image.Repository, "/")
		c.Registry.Insecure = append(c.Registry.Insecure, host)
	}
	if err := r.applySupply(c); err != nil {
		return err
	}
	return c.Check()
}

func readPassword(in io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return "", fault.Inputf("usage", "reading the password from standard input: %w", err)
	}
	if password := string(bytes.TrimRight(data, "\r\n")); password != "" {
		return password, nil
	}
	return "", fault.Inputf("usage", "--password-stdin: standard input holds no password")
}

// hand gives the digest to whoever asked for it in a file or a CI output.
func (r *request) hand(report ship.Report) error {
	if report.Digest == "" {
		return nil
	}
	if r.digestFile != "" {
		if err := renameio.WriteFile(r.digestFile, []byte(report.Digest+"\n"), 0o644); err != nil {
			return fault.Inputf("output.unwritable", "writing the digest: %w", err)
		}
	}
	outputs := []ci.Output{{Name: "digest", Value: report.Digest}, {Name: "image", Value: report.Reference}}
	if report.Source != nil {
		outputs = append(outputs, ci.Output{Name: "version", Value: report.Source.Version})
	}
	if r.dotenv != "" {
		if err := renameio.WriteFile(r.dotenv, ci.Dotenv(outputs), 0o644); err != nil {
			return fault.Inputf("output.unwritable", "writing the dotenv report: %w", err)
		}
	}
	return ci.Detect(nil).Publish(outputs, "")
}

// finish prints the report.
func (a *app) finish(report ship.Report, err error) error {
	changes, planned := errors.AsType[pending](err)
	if planned {
		err = nil
	}
	err = a.tell(report, err)
	if err == nil && planned {
		return changes
	}
	return err
}

func (a *app) tell(report ship.Report, err error) error {
	if system := ci.Detect(nil); system.Name != "" && len(report.Stages) > 0 {
		err = errors.Join(err, system.Publish(nil, markdown(report)))
	}
	if a.json {
		a.printJSON(struct {
			ship.Report
			Error *failure `json:"error,omitempty"`
		}{report, describe(err)})
		if err != nil {
			return reported{err}
		}
		return nil
	}
	if len(report.Stages) > 0 {
		a.printSummary(report)
	}
	return err
}
