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
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// exitChanges is a plan's exit code when something would change.
const exitChanges = 3

// clusterFlags add which environment, and how its cluster is reached.
func (r *request) clusterFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.environment, "env", "", "`ENVIRONMENT` of slipway.yaml")
	f.StringVar(&r.deployment.Kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: KUBECONFIG or ~/.kube/config)")
	f.StringVar(&r.deployment.Server, "cluster-server", "", "reach the API server at `HOST[:PORT]` in place of the kubeconfig's; its certificate's name stays")
}

// deployFlags add how a deployment goes.
func (r *request) deployFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.DurationVar(&r.deployment.Timeout, "timeout", 0, "how long a rollout may take (default: the environment's, 5m)")
	f.BoolVar(&r.deployment.NoWaitLock, "no-wait-lock", false, "fail at once when another run is deploying this release")
	f.BoolVar(&r.deployment.NoRollback, "no-rollback", false, "leave a failed rollout as it is")
	f.BoolVar(&r.deployment.RollbackAll, "rollback-all", false, "when a cluster fails, also take back those before it")
	f.BoolVar(&r.deployment.Test, "test", false, "run the chart's tests after the rollout")
	f.BoolVar(&r.yes, "yes", false, "deploy to a protected environment without asking")
	f.StringVar(&r.gitTag, "git-tag", "", "the `TAG` this commit has, where .git is not at hand")
}

// everything is every stage from the source to pods.
func everything() []ship.Name {
	return []ship.Name{
		ship.Lint, ship.Test, ship.Build, ship.Scan, ship.Compress, ship.Image, ship.SBOMs,
		ship.Push, ship.Sign, ship.Attest, ship.Verify,
	}
}

func (a *app) planCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "plan", "Show what a deployment would change", `  slipway plan --env prod
  slipway plan --env prod --image ghcr.io/acme/orders@sha256:...
  slipway plan --env prod -o json | jq '.plan.clusters[].changes[].object'`, buildFlags, ship.Build, ship.Compress, ship.Image, ship.Plan)
	cmd.Long = `Plan renders the chart and asks the cluster, by dry runs of the very changes a
deployment would send, what would become of every object. Values of Secrets are
hidden. Nothing is pushed or changed.

Exit codes: 0 nothing would change, 3 something would, else as ever.`
	r.clusterFlags(cmd)
	r.accessFlags(cmd)
	cmd.Flags().StringVar(&r.image, "image", "", "the `IMAGE`, as repository@sha256:... (default: what this source builds)")
	return cmd
}

func (a *app) deployCommand() *cobra.Command {
	r := request{}
	cmd := a.stageCommandFor(&r, "deploy", "Bring an image to a cluster and follow the rollout", `  slipway deploy --env staging                      everything from the source on
  slipway deploy --env prod --image ghcr.io/acme/orders@sha256:...
  slipway deploy --env prod --image ... --yes       protected, in CI
  slipway deploy --env prod --image ... -o json | jq .deploy.clusters`, verdictFlags|buildFlags|pushFlags, append(everything(), ship.Deploy)...)
	cmd.Long = `Deploy verifies the image's signature by the environment's policy, installs or
upgrades the Helm release and follows its pods until they are ready. When the
rollout fails it says why, with events and logs, and goes back to the newest good
revision. Without --image it runs everything before it: lint, test, build, scan,
push, sign and attest.

A release is locked while it is deployed; one that a dead run left pending is
recovered. Deploying what runs already changes nothing.`
	r.clusterFlags(cmd)
	r.deployFlags(cmd)
	r.scanFlags(cmd)
	r.signFlags(cmd)
	cmd.Flags().StringVar(&r.image, "image", "", "the `IMAGE`, as repository@sha256:... (default: what this source builds)")
	return cmd
}

// protect asks for what a protected environment needs, before anything is done.
func (a *app) protect(ctx context.Context, root string, c config.Config, r *request) error {
	e, err := c.Environment(r.environment)
	if err != nil || !e.Protected {
		return err
	}
	s, err := source.Open(ctx, source.Options{
		Root: root, Dir: c.App.Dir, Main: c.App.Main, Name: c.App.Name, Tags: c.App.Tags, Revision: r.revision, Epoch: os.Getenv("SOURCE_DATE_EPOCH"),
	})
	if err != nil {
		return err
	}
	tags, found, err := source.Tags(s.Dir)
	if err != nil {
		return err
	}
	changed, err := source.Changes(s.Dir) // the chart and slipway.yaml count too
	if err != nil {
		return err
	}
	if s.Dirty && len(changed) == 0 {
		changed = []string{"as --revision says"}
	}
	tag := cmp.Or(r.gitTag, ci.Detect(nil).GitTag())
	switch {
	case found && tag != "" && !slices.Contains(tags, tag):
		return fault.Gatef("deploy.protected", "environment %s is protected, and this commit does not have the tag %s", r.environment, tag).
			WithFix("check that tag out, with its tags fetched")
	case tag == "" && len(tags) > 0:
		tag = tags[len(tags)-1]
	}
	switch {
	case len(changed) > 0:
		return fault.Gatef("deploy.protected", "environment %s is protected, and files were changed since the commit: %s", r.environment, strings.Join(changed, ", ")).
			WithFix("commit them, and tag the commit")
	case tag == "":
		return fault.Gatef("deploy.protected", "environment %s is protected, and this commit has no tag", r.environment).
			WithFix("deploy from a tag, for example git tag v1.2.3")
	case r.yes:
		return nil
	}
	what := s.Name + " " + tag
	if r.image != "" {
		what = r.image
	}
	return a.confirm("deploy "+what+" to", r.environment)
}

// confirm has a person at a terminal type the environment's name.
func (a *app) confirm(what, environment string) error {
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fault.Gatef("deploy.protected", "environment %s is protected", environment).WithFix("--yes says that it is meant")
	}
	fmt.Fprintf(a.stderr, "%s %s? Type the environment's name: ", what, environment)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil || strings.TrimSpace(answer) != environment {
		return fault.Gatef("deploy.protected", "not confirmed; nothing was done")
	}
	return nil
}

// who names this run to others that wait for it.
func who() string {
	if name := ci.Detect(nil).Run(); name != "" {
		return name
	}
	host, _ := os.Hostname()
	if u, err := user.Current(); err == nil {
		return u.Username + "@" + host
	}
	return host
}

// clusterCommand is a command about an environment that needs no image.
func (a *app) clusterCommand(use, short, example string, args cobra.PositionalArgs, add func(*request, *cobra.Command), act func(ctx context.Context, o deploy.Options, args []string) (any, func(), error)) *cobra.Command {
	r := request{}
	cmd := &cobra.Command{Use: use, Short: short, Example: example, Args: args}
	r.clusterFlags(cmd)
	if add != nil {
		add(&r, cmd)
	}
	stage, _, _ := strings.Cut(use, " ")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.only(); err != nil {
			return err
		}
		root, c, err := a.load()
		if err != nil {
			return err
		}
		if a.program.Deployer == nil {
			return fault.Inputf("deploy.no-deployer", "this slipway was built without what deploys").WithFix("use the slipway program")
		}
		if r.takesBack && !r.yes {
			e, err := c.Environment(r.environment)
			if err == nil && e.Protected {
				if err := a.confirm("roll back", r.environment); err != nil {
					return err
				}
			}
		}
		r.deployment.Run = who()
		o, err := ship.DeployOptions(root, c, r.environment, r.deployment, nil)
		if err != nil {
			return err
		}
		show := a.display([]string{stage})
		ctx := progress.With(cmd.Context(), show, stage)
		start := time.Now()
		progress.Emit(ctx, progress.Event{Kind: progress.Started})
		report, text, err := act(ctx, o, args)
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

func (a *app) statusCommand() *cobra.Command {
	return a.clusterCommand("status", "Show what is released, and how its pods are", "  slipway status --env prod\n  slipway status --env prod -o json | jq '.result[].state'", cobra.NoArgs, nil,
		func(ctx context.Context, o deploy.Options, _ []string) (any, func(), error) {
			all, err := a.program.Deployer.Status(ctx, o)
			return all, func() { deploy.WriteStatus(a.stdout, all) }, err
		})
}

func (a *app) historyCommand() *cobra.Command {
	return a.clusterCommand("history", "Show the revisions of a release", "  slipway history --env prod", cobra.NoArgs, nil,
		func(ctx context.Context, o deploy.Options, _ []string) (any, func(), error) {
			all, err := a.program.Deployer.Status(ctx, o)
			return all, func() { deploy.WriteHistory(a.stdout, all) }, err
		})
}

func (a *app) rollbackCommand() *cobra.Command {
	var noWait bool
	cmd := a.clusterCommand("rollback [REVISION]", "Go back to a revision, by default the newest good one before", `  slipway rollback --env prod
  slipway rollback --env prod 12`, cobra.MaximumNArgs(1),
		func(r *request, cmd *cobra.Command) {
			r.takesBack = true
			cmd.Flags().BoolVar(&r.yes, "yes", false, "roll a protected environment back without asking")
			cmd.Flags().BoolVar(&noWait, "no-wait-lock", false, "fail at once when another run is deploying this release")
		},
		func(ctx context.Context, o deploy.Options, args []string) (any, func(), error) {
			revision := 0
			if len(args) == 1 {
				if _, err := fmt.Sscanf(args[0]+"\n", "%d\n", &revision); err != nil || revision < 1 {
					return nil, func() {}, fault.Inputf("usage", "%q is not a revision", args[0]).WithFix("slipway history lists them")
				}
			}
			if noWait {
				o.LockTimeout = 0
			}
			result, err := a.program.Deployer.Rollback(ctx, o, revision)
			return result, func() { deploy.Write(a.stdout, result) }, err
		})
	return cmd
}
