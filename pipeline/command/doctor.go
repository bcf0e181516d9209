package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// finding is one line of the output of slipway doctor.
type finding struct {
	Name     string `json:"name"`
	State    string `json:"state"` // ok, missing, or unused if it is missing but not required
	Detail   string `json:"detail,omitempty"`
	Fix      string `json:"fix,omitempty"`
	Required bool   `json:"required"`
}

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Report what this machine has and lacks for this app", Args: cobra.NoArgs,
		Example: "  slipway doctor\n  slipway doctor -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			root, c, err := a.load()
			if err != nil {
				return err
			}
			e := examine(cmd.Context(), root, c)
			if a.program.Scanner == nil {
				e.add("scanner", false, "", scan.Absent(a.program.Version))
			} else {
				e.add("scanner", false, "Trivy, in this program", nil)
			}
			return a.report(e)
		},
	}
}

// examination collects findings.
type examination []finding

func (e *examination) add(name string, required bool, detail string, err error) {
	f := finding{Name: name, State: "ok", Detail: detail, Required: required}
	if err != nil {
		f.State, f.Detail = "missing", err.Error()
		if fe, ok := errors.AsType[*fault.Error](err); ok {
			f.Detail, f.Fix = fe.Err.Error(), fe.Fix
		}
		if !required {
			f.State = "unused"
		}
	}
	*e = append(*e, f)
}

// program adds a finding for the first of the names that is installed, or for the first
// name if none of them is installed.
func (e *examination) program(required bool, fix string, names ...string) {
	for _, name := range names {
		if path, err := lookPath(name); err == nil {
			e.add(names[0], required, path, nil)
			return
		}
	}
	e.add(names[0], required, "", fault.Inputf("program.missing", "not installed").WithFix("%s", fix))
}

// examine checks everything that the stages need for an app.
func examine(ctx context.Context, root string, c config.Config) examination {
	var e examination
	o, goErr := ship.SourceOptions(ctx, root, c.App)
	o.NoMain = goErr != nil
	s, err := source.Open(ctx, o)
	e.add("source", true, fmt.Sprintf("%s %s of %s", s.Name, s.Version, s.Module), err)
	if goErr != nil {
		e.add("go", true, "", goErr)
	} else if g := o.Go; g != nil {
		e.add("go", true, g.Version+" in "+g.Root, nil)
		_, err := os.Stat(g.ZoneInfo())
		e.add("zone data", true, g.ZoneInfo(), err)
	}
	folder, err := cache.User()
	if err == nil {
		_, err = folder.Make("runs")
	}
	if err == nil {
		err = checkGoCaches(ctx)
	}
	e.add("cache", true, string(folder), err)
	e.program(c.Test.Race == nil || *c.Test.Race, "apt-get install gcc, or set test.race: false in slipway.yaml", "gcc", "clang", "cc")
	e.program(false, "the first lint finds it on PATH or builds it from the module proxy", "golangci-lint")
	e.program(slices.Contains(c.Test.Services, "postgres") && os.Getenv("DATABASE_URL") == "", "apt-get install postgresql, or set DATABASE_URL", "postgres")
	e.program(slices.Contains(c.Test.Services, "redis") && os.Getenv("REDIS_URL") == "", "apt-get install redis-server, or set REDIS_URL", "redis-server")
	e.program(c.Image.UPX, "apt-get install upx-ucl (from backports)", "upx")
	e.program(c.App.CGO, "apt-get install musl-tools", "musl-gcc")
	return e
}

// report prints the findings. It returns an error if anything that the app requires is
// missing.
func (a *app) report(findings []finding) error {
	missing := 0
	for _, f := range findings {
		if f.State == "missing" {
			missing++
		}
	}
	if a.json {
		a.printJSON(map[string]any{"findings": findings})
	} else {
		for _, f := range findings {
			line := fmt.Sprintf("  %-14s %-8s %s", f.Name, f.State, f.Detail)
			if f.Fix != "" {
				line += " (" + f.Fix + ")"
			}
			fmt.Fprintln(a.out, line)
		}
	}
	if missing == 0 {
		return nil
	}
	err := fault.Gatef("doctor.missing", "%d things that this app needs are missing", missing)
	if a.json {
		return reported{err}
	}
	return err
}

// lookPath returns the path of a program. It searches in the same places as the stages:
// PATH and, for postgres, Debian's folders.
func lookPath(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil || name != "postgres" {
		return path, err
	}
	found, globErr := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if globErr != nil || len(found) == 0 {
		return "", err
	}
	return found[len(found)-1], nil
}
