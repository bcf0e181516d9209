package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/hook"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/starter"
)

// initFlags are the flags of slipway init.
type initFlags struct{ force, hooks, dryRun, noLint bool }

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	cmd := &cobra.Command{
		Use: "init", Short: "Write a slipway.yaml and a .dockerignore for this repository", Args: cobra.NoArgs,
		Example: `  slipway init
  slipway init -C services/orders
  slipway init --dry-run              only print what would be written
  slipway init --hooks                run slipway check before every git push`,
		Long: `Init chooses the main package that looks most like the service: one that a
Dockerfile builds, that listens on a port, or that is named as the module or the
repository. It says why, and names the others.

It also runs golangci-lint, which can take minutes the first time. If there are
findings, slipway.yaml sets lint.newFrom, so that only findings in changed lines
fail.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			if f.hooks {
				return a.installHook(cmd.Context(), f.force)
			}
			return a.initialize(cmd.Context(), f)
		},
	}
	cmd.Flags().BoolVar(&f.force, "force", false, "replace an existing slipway.yaml; with --hooks, replace another pre-push hook, which is kept as "+hook.KeptName)
	cmd.Flags().BoolVar(&f.hooks, "hooks", false, "only install a git pre-push hook that runs slipway check; git push --no-verify skips it once")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "print the files instead of writing them")
	cmd.Flags().BoolVar(&f.noLint, "no-lint", false, "do not run golangci-lint")
	return cmd
}

// proposal is what slipway init proposes for an app.
type proposal struct {
	files map[string]string // text by path
	mains []starter.Candidate
	pin   string // of the toolchain; empty if none was found
	lint  lintProposal
}

func (a *app) initialize(ctx context.Context, f initFlags) error {
	dir, err := filepath.Abs(a.dir)
	if err != nil {
		return fmt.Errorf("resolving %s: %w", a.dir, err)
	}
	target := filepath.Join(dir, config.FileName)
	if _, err := os.Stat(target); err == nil && !f.force {
		return fault.Inputf("init.exists", "%s exists already", target).WithFix("replace it with --force")
	}
	o, err := ship.SourceOptions(ctx, dir, config.App{})
	if err != nil {
		return err
	}
	p := proposal{files: map[string]string{}}
	if o.Go != nil {
		p.pin = o.Go.Version
	}
	guess, err := starterOptions(ctx, dir, o)
	if err != nil {
		return err
	}
	if p.mains, err = starter.Choose(ctx, guess); err != nil {
		return err
	}
	if !f.noLint {
		if p.lint, err = a.tryLint(ctx, dir); err != nil {
			return err
		}
	}
	p.files[target] = p.config()
	ignore := filepath.Join(dir, source.IgnoreFile)
	if _, err := os.Stat(ignore); errors.Is(err, fs.ErrNotExist) {
		p.files[ignore] = ignoreText(starter.Embeds(ctx, guess, ".md"))
	}
	if f.dryRun {
		a.reportProposal(p, nil)
		return nil
	}
	written := slices.Sorted(maps.Keys(p.files))
	for _, file := range written {
		if err := renameio.WriteFile(file, []byte(p.files[file]), 0o644); err != nil {
			return fault.Inputf("output.unwritable", "writing %s: %w", file, err).WithFix("print it with --dry-run")
		}
	}
	a.reportProposal(p, written)
	return nil
}

// starterOptions returns what is known of the app for the choice of its main package.
func starterOptions(ctx context.Context, dir string, o source.Options) (starter.Options, error) {
	mains, err := source.Mains(ctx, o)
	if err != nil {
		return starter.Options{}, err
	}
	if len(mains) == 0 {
		return starter.Options{}, fault.Inputf("source.no-main", "the module in %s has no main package", dir)
	}
	guess := starter.Options{Dir: dir, Mains: mains, Go: o.Go, Env: o.Env}
	o.NoMain = true
	s, err := source.Open(ctx, o)
	if err != nil {
		return guess, err
	}
	guess.Dir, guess.Module = s.Dir, s.Module
	repository, err := source.OpenRepository(ctx, dir)
	if err == nil && repository != nil {
		guess.Repository = repository.Top
	}
	return guess, nil
}

// ignoreText returns the .dockerignore that slipway init writes. Markdown is not in it if
// the program embeds some.
func ignoreText(embedsMarkdown bool) string {
	text := "# These files never enter a build, and changing them rebuilds nothing.\n.git\n.slipway\n"
	if !embedsMarkdown {
		text += "**/*.md\n"
	}
	return text
}

// reportProposal prints what was written, or what would be if written is nil.
func (a *app) reportProposal(p proposal, written []string) {
	var mains []string
	for _, c := range p.mains {
		mains = append(mains, c.Main)
	}
	if a.json {
		report := map[string]any{"written": append([]string{}, written...), "mains": mains, "main": mains[0], "reasons": append([]string{}, p.mains[0].Reasons...)}
		if written == nil {
			report["files"] = p.files
		}
		if p.lint.tried {
			report["lint"] = p.lint.report()
		}
		a.printJSON(report)
		return
	}
	for _, file := range written {
		fmt.Fprintln(a.out, "wrote", file)
	}
	if written == nil {
		for _, file := range slices.Sorted(maps.Keys(p.files)) {
			fmt.Fprintf(a.out, "# %s\n%s\n", file, p.files[file])
		}
	}
	fmt.Fprintf(a.out, "main package %s: it %s\n", mains[0], p.mains[0].Why())
	if len(p.mains) > 1 {
		var others []string
		for _, c := range p.mains[1:] {
			text := c.Main
			if why := slices.Concat(c.Reasons, c.Doubts); len(why) > 0 {
				text += " (" + strings.Join(why, ", ") + ")"
			}
			others = append(others, display.Clean(text))
		}
		fmt.Fprintf(a.out, "others, for app.main: %s\n", strings.Join(others, ", "))
	}
	for _, line := range p.lint.lines() {
		fmt.Fprintln(a.out, line)
	}
	fmt.Fprintln(a.out, "a gate that fails today need not stop a run: see --allow in slipway ship --help")
	fmt.Fprintln(a.out, "next: slipway doctor, then slipway ship")
}

// config returns the slipway.yaml that slipway init writes.
func (p proposal) config() string {
	var b strings.Builder
	b.WriteString("# yaml-language-server: $schema=https://raw.githubusercontent.com/slipway-ci/slipway/main/pipeline/config/schema.json\n")
	b.WriteString("# Every setting is optional; see docs/configuration.md of slipway.\napp:\n")
	fmt.Fprintf(&b, "  main: %s # it %s\n", yamlText(p.mains[0].Main), p.mains[0].Why())
	if len(p.mains) > 1 {
		var others []string
		for _, c := range p.mains[1:] {
			others = append(others, display.Clean(c.Main))
		}
		fmt.Fprintf(&b, "  # others: %s\n", strings.Join(others, ", "))
	}
	if p.pin != "" {
		fmt.Fprintf(&b, "  toolchain: %s # pinned, so that every machine builds the same digest\n", p.pin)
	}
	b.WriteString("  # platforms: [linux/amd64, linux/arm64]\n")
	b.WriteString(p.lint.config())
	b.WriteString(`
# image:
#   repository: ghcr.io/acme/orders
#   args: [--config, /etc/app/config.yaml]
#   env: {TZ: Asia/Shanghai}

# test:
#   services: [postgres, redis]
#   coverage: 70
`)
	return b.String()
}
