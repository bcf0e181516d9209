package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/hook"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of slipway", Args: cobra.NoArgs,
		Example: "  slipway version -o json",
		RunE: func(*cobra.Command, []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			if a.json {
				a.printJSON(map[string]any{
					"version": a.program.Version, "commit": a.program.Commit, "date": a.program.Date, "go": runtime.Version(),
					"platform": runtime.GOOS + "/" + runtime.GOARCH, "scanner": a.program.Scanner != nil,
				})
				return nil
			}
			fmt.Fprintln(a.stdout, a.program.describe())
			return nil
		},
	}
}

// describe returns the version of the program and whether it includes the scanner.
func (p Program) describe() string {
	scanner := "with the scanner"
	if p.Scanner == nil {
		scanner = "without the scanner"
	}
	return fmt.Sprintf("slipway %s %s/%s %s, %s", p.Version, runtime.GOOS, runtime.GOARCH, runtime.Version(), scanner)
}

func (a *app) registryCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use: "registry", Short: "Serve the embedded registry on 127.0.0.1, to pull what was shipped", Args: cobra.NoArgs,
		Example: "  slipway registry &\n  crane ls 127.0.0.1:5077/orders",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := cache.User()
			if err != nil {
				return err
			}
			folder := dir.Path("registry")
			ports := embedded.Ports(folder)
			if cmd.Flags().Changed("port") {
				ports = []int{port}
			}
			server, err := embedded.Start(cmd.Context(), folder, ports...)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "serving %s on %s until interrupted\n", folder, server.Addr)
			return server.Wait(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&port, "port", embedded.Port, "`PORT` to listen on; 0 chooses a free one; by default a second one is tried if another program uses the first")
	return cmd
}

func (a *app) initCommand() *cobra.Command {
	var force, hooks bool
	cmd := &cobra.Command{
		Use: "init", Short: "Write a slipway.yaml and a .dockerignore for this repository", Args: cobra.NoArgs,
		Example: `  slipway init
  slipway init -C services/orders
  slipway init --hooks                run slipway check before every git push`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			if hooks {
				return a.installHook(cmd.Context(), force)
			}
			return a.initialize(cmd.Context(), force)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace an existing slipway.yaml; with --hooks, replace another pre-push hook, which is kept as "+hook.KeptName)
	cmd.Flags().BoolVar(&hooks, "hooks", false, "only install a git pre-push hook that runs slipway check; git push --no-verify skips it once")
	return cmd
}

// installHook installs the hook for the app that slipway check would check in DIR. It
// does not read the configuration; slipway check reports a malformed one when it runs.
func (a *app) installHook(ctx context.Context, force bool) error {
	if a.configFile != "" {
		return fault.Inputf("usage", "--config cannot be used with --hooks: the hook runs slipway check with the slipway.yaml that it finds")
	}
	if _, err := os.Stat(a.dir); err != nil {
		return fault.Inputf("usage", "-C %s: %w", a.dir, err)
	}
	dir := a.dir
	file, err := config.Find(dir)
	if err != nil {
		return err
	}
	if file != "" {
		dir = filepath.Dir(file)
	}
	r, err := hook.Install(ctx, hook.Options{Dir: dir, Force: force})
	if err != nil {
		return err
	}
	if a.json {
		written := []string{}
		if r.Written {
			written = append(written, r.Path)
		}
		report := map[string]any{"written": written}
		if r.Kept != "" {
			report["kept"] = r.Kept
		}
		a.printJSON(report)
		return nil
	}
	if !r.Written {
		fmt.Fprintln(a.stdout, r.Path, "exists already, nothing to do")
		return nil
	}
	if r.Kept != "" {
		fmt.Fprintln(a.stdout, "kept the old hook as", r.Kept)
	}
	fmt.Fprintln(a.stdout, "wrote", r.Path)
	if r.Shared {
		fmt.Fprintln(a.stdout, "note: core.hooksPath is outside this repository, so other repositories that use it run the hook too")
	}
	fmt.Fprintln(a.stdout, "git push now runs slipway check first; skip it once with: git push --no-verify")
	return nil
}

func (a *app) initialize(ctx context.Context, force bool) error {
	dir, err := filepath.Abs(a.dir)
	if err != nil {
		return fmt.Errorf("resolving %s: %w", a.dir, err)
	}
	target := filepath.Join(dir, config.FileName)
	if _, err := os.Stat(target); err == nil && !force {
		return fault.Inputf("init.exists", "%s exists already", target).WithFix("replace it with --force")
	}
	o, err := ship.SourceOptions(ctx, dir, config.App{})
	if err != nil {
		return err
	}
	mains, err := source.Mains(ctx, o)
	if err != nil {
		return err
	}
	if len(mains) == 0 {
		return fault.Inputf("source.no-main", "the module in %s has no main package", dir)
	}
	pin := ""
	if o.Go != nil {
		pin = o.Go.Version
	}
	written := map[string]string{target: starterConfig(mains, pin)}
	ignore := filepath.Join(dir, source.IgnoreFile)
	if _, err := os.Stat(ignore); errors.Is(err, fs.ErrNotExist) {
		written[ignore] = "# These files never enter a build, and changing them rebuilds nothing.\n.git\n.slipway\n**/*.md\n"
	}
	for file, text := range written {
		if err := renameio.WriteFile(file, []byte(text), 0o644); err != nil {
			return fault.Inputf("output.unwritable", "writing %s: %w", file, err)
		}
	}
	var names []string
	for file := range written {
		names = append(names, file)
	}
	slices.Sort(names)
	if a.json {
		a.printJSON(map[string]any{"written": names, "mains": mains})
		return nil
	}
	for _, file := range names {
		fmt.Fprintln(a.stdout, "wrote", file)
	}
	fmt.Fprintln(a.stdout, "next: slipway doctor, then slipway ship")
	return nil
}

// starterConfig returns the slipway.yaml that slipway init writes.
func starterConfig(mains []string, pin string) string {
	var b strings.Builder
	b.WriteString("# yaml-language-server: $schema=https://raw.githubusercontent.com/slipway-ci/slipway/main/pipeline/config/schema.json\n")
	b.WriteString("# Every setting is optional; see docs/configuration.md of slipway.\napp:\n")
	fmt.Fprintf(&b, "  main: %s\n", mains[0])
	if len(mains) > 1 {
		fmt.Fprintf(&b, "  # others: %s\n", strings.Join(mains[1:], ", "))
	}
	if pin != "" {
		fmt.Fprintf(&b, "  toolchain: %s # pinned, so that every machine builds the same digest\n", pin)
	}
	b.WriteString(`  # platforms: [linux/amd64, linux/arm64]

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
