package command

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// exitChanges is the exit code of a plan with changes.
const exitChanges = 3

// checkProtected checks the requirements of a protected environment: a clean source tree,
// a git tag and a confirmation. It runs before any step. For other environments it
// returns nil.
func (a *app) checkProtected(ctx context.Context, r *request) error {
	c := r.Config
	e, err := c.Environment(r.Environment)
	if err != nil || !e.Protected {
		return err
	}
	s, err := r.OpenSource(ctx, false)
	if err != nil {
		return err
	}
	repo, err := source.OpenRepository(ctx, s.Dir)
	if err != nil {
		return err
	}
	var tags, changed []string
	if repo != nil {
		if tags, err = repo.Tags(ctx); err != nil {
			return err
		}
		if changed, err = repo.Changes(ctx); err != nil { // includes the chart and slipway.yaml
			return err
		}
	}
	if s.Dirty && len(changed) == 0 {
		changed = s.Changed
	}
	if repo != nil && len(changed) == 0 {
		// Git says nothing about ignored files, but what is deployed can depend on them.
		if changed, err = repo.NotCommitted(ctx, a.deploymentFiles(r)...); err != nil {
			return err
		}
	}
	tag := cmp.Or(r.gitTag, ci.Detect(nil).GitTag())
	switch {
	case repo != nil && tag != "" && !slices.Contains(tags, tag):
		return fault.Gatef("deploy.protected", "environment %s is protected, and this commit does not have the tag %s", r.Environment, tag).
			WithFix("check that tag out, with its tags fetched")
	case tag == "" && len(tags) > 0:
		tag = tags[len(tags)-1]
	}
	switch {
	case len(changed) > 0:
		return fault.Gatef("deploy.protected", "environment %s is protected, and files were changed since the commit: %s", r.Environment, display.Clean(strings.Join(changed, ", "))).
			WithFix("commit them, and tag the commit")
	case tag == "":
		return fault.Gatef("deploy.protected", "environment %s is protected, and this commit has no tag", r.Environment).
			WithFix("deploy from a tag, for example git tag v1.2.3")
	case r.yes:
		return nil
	}
	what := s.Name + " " + tag
	if r.Reference != "" {
		what = r.Reference
	}
	return a.confirm("deploy "+what+" to", r.Environment)
}

// deploymentFiles returns slipway.yaml, the chart and the values files, as far as they are
// known.
func (a *app) deploymentFiles(r *request) []string {
	files := ship.DeploymentFiles(r.Root, r.Config, r.Environment)
	if a.settings != "" {
		files = append(files, a.settings)
	}
	return files
}

// confirm asks the user to type the name of the environment. It returns an error if
// standard input is not a terminal or the answer is different.
func (a *app) confirm(what, environment string) error {
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fault.Gatef("deploy.protected", "environment %s is protected", environment).WithFix("confirm with --yes")
	}
	fmt.Fprintf(a.stderr, "%s %s? Type the environment's name: ", a.system.Inert(what), environment)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != environment {
		return fault.Gatef("deploy.protected", "not confirmed; nothing was done")
	}
	return nil
}

// runName returns the name of this run for the lock and the history of a release: that
// of the CI run or, outside CI, USER@HOST.
func runName() string {
	if name := ci.Detect(nil).Run(); name != "" {
		return name
	}
	host, _ := os.Hostname()
	if u, err := user.Current(); err == nil {
		return u.Username + "@" + host
	}
	return host
}

// clusterCommand is a command that works on the current state of an environment. It needs
// no image.
type clusterCommand struct {
	use, short, example string
	args                cobra.PositionalArgs
	flags               flagGroup // in addition to clusterFlags; may be nil
	changes             bool      // whether it changes the cluster, so that protected environments need a confirmation
	act                 func(ctx context.Context, r *request, o deploy.Options, args []string) (report any, text func(), err error)
}

func (a *app) clusterCommand(c clusterCommand) *cobra.Command {
	r := &request{}
	cmd := &cobra.Command{Use: c.use, Short: c.short, Example: c.example, Args: c.args}
	clusterFlags(r, cmd.Flags())
	if c.flags != nil {
		c.flags(r, cmd.Flags())
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o, err := a.clusterOptions(c, r)
		if err != nil {
			return err
		}
		show := a.display([]string{cmd.Name()})
		ctx := progress.With(cmd.Context(), show, cmd.Name())
		start := time.Now()
		progress.Emit(ctx, progress.Event{Kind: progress.Started})
		report, text, err := c.act(ctx, r, o, args)
		end := progress.Event{Kind: progress.Finished, Outcome: progress.Passed, Duration: time.Since(start)}
		if err != nil {
			end.Outcome, end.Text = progress.Failed, err.Error()
		}
		progress.Emit(ctx, end)
		show.Close()
		if a.json {
			a.printJSON(struct {
				Result any      `json:"result,omitempty"`
				Error  *failure `json:"error,omitempty"`
			}{report, describe(err)})
			if err != nil {
				return reported{err}
			}
			return nil
		}
		text()
		return err
	}
	return cmd
}

// clusterOptions checks the requirements of the command and returns the options for its
// environment.
func (a *app) clusterOptions(c clusterCommand, r *request) (o deploy.Options, err error) {
	if err := a.requireReportOutput(); err != nil {
		return o, err
	}
	if r.Root, r.Config, err = a.load(); err != nil {
		return o, err
	}
	if a.program.Deployer == nil {
		return o, fault.Inputf("deploy.no-deployer", "this slipway was built without support for deployments").WithFix("use the slipway program")
	}
	if err := a.complete(r); err != nil {
		return o, err
	}
	if c.changes && !r.yes {
		e, err := r.Config.Environment(r.Environment)
		if err == nil && e.Protected {
			if err := a.confirm("roll back", r.Environment); err != nil {
				return o, err
			}
		}
	}
	return ship.DeployOptions(r.Root, r.Config, r.Environment, r.Deployment, nil)
}

// clusterCommands returns the commands that work on the current state of an environment.
func (a *app) clusterCommands() []clusterCommand {
	return []clusterCommand{
		{
			use: "status", short: "Show what is released and the state of its pods", args: cobra.NoArgs,
			example: "  slipway status --env prod\n  slipway status --env prod -o json | jq '.result[].state'",
			act: func(ctx context.Context, _ *request, o deploy.Options, _ []string) (any, func(), error) {
				all, err := a.program.Deployer.Status(ctx, o)
				return all, func() { deploy.WriteStatus(a.out, all) }, err
			},
		},
		{
			use: "history", short: "Show the revisions of a release", args: cobra.NoArgs,
			example: "  slipway history --env prod",
			act: func(ctx context.Context, _ *request, o deploy.Options, _ []string) (any, func(), error) {
				all, err := a.program.Deployer.Status(ctx, o)
				return all, func() { deploy.WriteHistory(a.out, all) }, err
			},
		},
		{
			use: "rollback [REVISION]", short: "Roll back to a revision, by default the newest good one before the current", args: cobra.MaximumNArgs(1),
			example: `  slipway rollback --env prod
  slipway rollback --env prod 12`,
			flags:   rollbackFlags,
			changes: true,
			act: func(ctx context.Context, r *request, o deploy.Options, args []string) (any, func(), error) {
				revision := 0
				if len(args) == 1 {
					if _, err := fmt.Sscanf(args[0]+"\n", "%d\n", &revision); err != nil || revision < 1 {
						return nil, func() {}, fault.Inputf("usage", "%q is not a revision", args[0]).WithFix("slipway history lists them")
					}
				}
				result, err := ship.Rollback(ctx, r.Options, o, revision)
				return result, func() { deploy.Write(a.out, result) }, err
			},
		},
	}
}
