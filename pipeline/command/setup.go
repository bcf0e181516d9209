package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/hook"
	"github.com/slipway-ci/slipway/pipeline/registry/embedded"
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
			fmt.Fprintln(a.out, a.program.describe())
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
	var writable bool
	cmd := &cobra.Command{
		Use: "registry", Short: "Serve the embedded registry on 127.0.0.1, to pull what was shipped", Args: cobra.NoArgs,
		Example: "  slipway registry &\n  crane ls 127.0.0.1:5077/orders",
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := cache.User()
			if err != nil {
				return err
			}
			folder := dir.Path("registry")
			var options []embedded.Option
			if !writable {
				options = append(options, embedded.Guarded())
			}
			var server *embedded.Server
			if cmd.Flags().Changed("port") {
				server, err = embedded.Start(cmd.Context(), folder, port, options...)
			} else {
				server, err = embedded.Share(cmd.Context(), folder, options...)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "serving %s on %s until interrupted\n", folder, server.Addr)
			if server.Name != server.Addr {
				fmt.Fprintf(a.stderr, "another slipway process serves it on %s, which this one does when that ends\n", server.Name)
			}
			return server.Wait(cmd.Context())
		},
	}
	cmd.Flags().IntVar(&port, "port", embedded.Port, "`PORT` to listen on; 0 chooses a free one; if it is not set and another program uses the default, another one is chosen")
	cmd.Flags().BoolVar(&writable, "writable", false, "let every program and every user of this machine push to it; by default only slipway can")
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
		fmt.Fprintln(a.out, r.Path, "exists already, nothing to do")
		return nil
	}
	if r.Kept != "" {
		fmt.Fprintln(a.out, "kept the old hook as", r.Kept)
	}
	fmt.Fprintln(a.out, "wrote", r.Path)
	if r.Shared {
		fmt.Fprintln(a.out, "note: core.hooksPath is outside this repository, so other repositories that use it run the hook too")
	}
	fmt.Fprintln(a.out, "git push now runs slipway check first; skip it once with: git push --no-verify")
	return nil
}
