package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/graph"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

// stageCommand returns the cobra command for c.
func (a *app) stageCommand(c stageCommand) *cobra.Command {
	r := &request{}
	cmd := &cobra.Command{
		Use: c.name, Short: c.short, Long: c.long, Example: c.example, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runStages(cmd, c, r) },
	}
	for _, add := range c.flags {
		add(r, cmd.Flags())
	}
	return cmd
}

func (a *app) runStages(cmd *cobra.Command, c stageCommand, r *request) error {
	stages, err := c.resolve(r, a.places)
	if err != nil {
		return err
	}
	if r.Root, r.Config, err = a.load(); err != nil {
		return err
	}
	if err := a.complete(r); err != nil {
		return err
	}
	if a.isHermetic(r) {
		remove, err := withoutCaches(r)
		if err != nil {
			return err
		}
		defer func() {
			if removeErr := remove(); removeErr != nil {
				fmt.Fprintln(a.stderr, "slipway: warning: "+a.system.Inert(removeErr.Error()))
			}
		}()
	}
	if slices.ContainsFunc(stages, runsGo) {
		if err := checkGoCaches(cmd.Context()); err != nil {
			return err
		}
	}
	if slices.Contains(r.Goals, ship.Deploy) && r.Environment != "" {
		if err := a.checkProtected(cmd.Context(), r); err != nil {
			return err
		}
	}
	if r.passwordStdin {
		if r.Credentials.Password, err = readPassword(a.stdin); err != nil {
			return err
		}
	}
	names := make([]string, 0, len(stages))
	for _, s := range stages {
		names = append(names, string(s))
	}
	show := a.display(names)
	r.Sink = show
	report, err := ship.Run(cmd.Context(), r.Options)
	show.Close()
	if err == nil {
		err = r.writeOutputs(report)
	}
	if text, printErr := r.document(report); len(text) > 0 && !a.json {
		_, _ = a.stdout.Write(a.system.InertDocument(text)) // an error of standard output cannot be reported anywhere
		return errors.Join(err, printErr)
	}
	if err == nil && report.Plan != nil && report.Plan.Changes() {
		err = planChangesError{}
	}
	return a.finish(report, err)
}

// resolve sets the goals of the request and returns the steps that they need, in order.
// places are the values of -o other than text and json.
func (c stageCommand) resolve(r *request, places []string) ([]graph.Name, error) {
	if c.needsImage && r.Reference == "" {
		return nil, fault.Inputf("usage", "--image is missing").WithFix("name the image, for example --image ghcr.io/acme/orders@sha256:...")
	}
	if r.unsigned && r.Environment != "" {
		return nil, fault.Inputf("deploy.unverified", "an image can only be deployed if it is signed").WithFix("leave out --unsigned, or leave out --env")
	}
	r.Goals = c.goals(r)
	if err := c.destinations(r, places); err != nil {
		return nil, err
	}
	return ship.Stages(r.Reference != "", r.Goals...)
}

// destinations adds the goals for the values of -o: an export for oci: and
// docker-archive:, a push for registry:. If the command has no goal at all, it exports
// the image to its default location.
func (c stageCommand) destinations(r *request, places []string) error {
	builds := c.builds
	if r.Reference != "" && builds {
		stages, err := ship.Stages(true, r.Goals...)
		if err != nil {
			return err
		}
		builds = slices.Contains(stages, ship.Image)
	}
	for _, place := range places {
		if !c.builds {
			return fault.Inputf("usage", "-o %q is not text or json", place)
		}
		if repository, ok := strings.CutPrefix(place, "registry:"); ok {
			switch {
			case c.dry:
				return fault.Inputf("usage", "-o %q: %s does not push anything", place, c.name).WithFix("use slipway publish")
			case r.Reference != "":
				return fault.Inputf("usage", "-o %q: the image given by --image is in a registry already", place)
			}
			r.repository = repository
			r.Goals = append(slices.Clone(r.Goals), ship.Push)
			continue
		}
		o, err := ship.ParseOutput(place)
		if err != nil {
			return err
		}
		if !builds {
			return fault.Inputf("usage", "-o %q: with --image, %s builds no image that could be written there", place, c.name)
		}
		r.Exports = append(r.Exports, o)
		r.Goals = append(slices.Clone(r.Goals), ship.Export)
	}
	if len(r.Goals) == 0 {
		r.Goals = []graph.Name{ship.Export}
	}
	return nil
}

// complete sets the options of the run that do not come from flags.
func (a *app) complete(r *request) (err error) {
	if err := r.apply(); err != nil {
		return err
	}
	if r.Reports != "" {
		if r.Reports, err = filepath.Abs(r.Reports); err != nil {
			return fault.Inputf("usage", "--reports: %w", err)
		}
	}
	if r.top != "" {
		if r.Top, err = filepath.Abs(r.top); err != nil {
			return fault.Inputf("usage", "--repository-root: %w", err)
		}
	}
	if r.Cache, err = cache.User(); err != nil {
		return err
	}
	r.Epoch, r.ExtraTags = os.Getenv("SOURCE_DATE_EPOCH"), ci.Detect(nil).Tags()
	r.Signer, r.Deployer, r.Program = a.program.Signer, a.program.Deployer, a.program.Version+" "+a.program.Commit
	if a.program.Scanner != nil {
		r.Scanner = a.program.Scanner(r.Cache)
	}
	r.Deployment.Run, r.Signing = runName(), r.signing()
	return r.checkFormat()
}

// planChangesError is the error of a plan with changes. It is not a failure, but it has its
// own exit code.
type planChangesError struct{}

func (planChangesError) Error() string { return "something would change" }

func readPassword(in io.Reader) (string, error) {
	data, err := io.ReadAll(io.LimitReader(in, 64<<10))
	if err != nil {
		return "", fault.Inputf("usage", "reading the password from standard input: %w", err)
	}
	if password := string(bytes.TrimRight(data, "\r\n")); password != "" {
		return password, nil
	}
	return "", fault.Inputf("usage", "--password-stdin: standard input has no password")
}

// writeOutputs writes the digest, the reference and the version of the image to the files
// given by flags and to the outputs of the CI job.
func (r *request) writeOutputs(report ship.Report) error {
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

// finish prints the report and returns the error that determines the exit code.
func (a *app) finish(report ship.Report, err error) error {
	changes, planned := errors.AsType[planChangesError](err)
	if planned {
		err = nil
	}
	err = a.print(report, err)
	if err == nil && planned {
		return changes
	}
	return err
}

func (a *app) print(report ship.Report, err error) error {
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
