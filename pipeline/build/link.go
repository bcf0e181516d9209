package build

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// stamp is a variable of package main that the linker sets.
type stamp struct{ variable, value string }

// stamps returns the variables that are set in every program.
func stamps(s source.Source) []stamp {
	return []stamp{
		{"main.version", s.Version},
		{"main.commit", s.Revision},
		{"main.date", s.Time.Format(time.RFC3339)},
	}
}

// configuredFlags returns the flags of app.ldflags.
func configuredFlags(o Options) ([]string, error) {
	values := struct{ Version, Commit, Date string }{
		o.Source.Version, o.Source.Revision, o.Source.Time.Format(time.RFC3339),
	}
	var flags []string
	for _, text := range o.Settings.LDFlags {
		t, err := template.New("ldflags").Option("missingkey=error").Parse(text)
		if err != nil {
			return nil, fault.Inputf("build.ldflags", "app.ldflags: %w", err)
		}
		var b strings.Builder
		if err := t.Execute(&b, values); err != nil {
			return nil, fault.Inputf("build.ldflags", "app.ldflags: %w", err)
		}
		flags = append(flags, b.String())
	}
	return flags, nil
}

// linkerFlags returns the value of -ldflags: the stamps, then the configured flags.
func (c *compiler) linkerFlags(stamps []stamp) string {
	flags := []string{"-s", "-w"}
	for _, s := range stamps {
		flags = append(flags, "-X", s.variable+"="+s.value)
	}
	if c.Settings.CGO {
		flags = append(flags, "-linkmode", "external", "-extldflags", "'-static'")
	}
	return strings.Join(append(flags, c.configured...), " ")
}

// notString is the linker's message for a variable that -X cannot set.
var notString = regexp.MustCompile(`^(main\.\w+): cannot set with -X: not a var of type string`)

// build runs go build. A program can have a variable named version that is not a string,
// for example a flag. The linker refuses to set it, and nothing but the linker knows its
// type for certain, so the program is then linked again without that stamp.
func (c *compiler) build(ctx context.Context, env []string, out string) error {
	set := stamps(c.Source)
	for {
		lines, err := c.goBuild(ctx, env, c.linkerFlags(set), out)
		if err == nil {
			return nil
		}
		before := len(set)
		for _, line := range lines {
			m := notString.FindStringSubmatch(line)
			i := slices.IndexFunc(set, func(s stamp) bool { return m != nil && m[1] == s.variable })
			if i >= 0 {
				progress.Line(ctx, set[i].variable+" is not set, because it is not a variable of type string")
				set = slices.Delete(set, i, i+1)
			}
		}
		if len(set) == before {
			return c.explain(ctx, err, lines)
		}
	}
}

// goBuild runs go build and returns its messages.
func (c *compiler) goBuild(ctx context.Context, env []string, ldflags, out string) ([]string, error) {
	tmp, err := os.MkdirTemp(c.RunDir, "go-")
	if err != nil {
		return nil, fmt.Errorf("creating a folder for the go command: %w", err)
	}
	args := []string{"build", "-v", "-trimpath", "-buildvcs=false", "-o", out, "-ldflags", ldflags}
	if c.Source.NoVendor {
		args = append(args, "-mod=readonly") // the overlay hides the folder vendor
	}
	if c.overlay != "" {
		args = append(args, "-overlay", c.overlay)
	}
	tags := slices.Clone(c.Settings.Tags)
	if c.Settings.CGO {
		tags = append(tags, "netgo", "osusergo") // a static program cannot use the resolver of the C library
	}
	if len(tags) > 0 {
		args = append(args, "-tags", strings.Join(tags, ","))
	}
	cmd := toolchain.Command(ctx, c.Go.Program, append(args, c.Source.Main)...)
	cmd.Dir = c.Source.Dir
	cmd.Env = slices.Concat(env, []string{"GOTMPDIR=" + tmp})
	log := &compilerLog{ctx: ctx, platform: c.platform.String()}
	cmd.Stdout, cmd.Stderr = log, log
	progress.Statusf(ctx, "compiling %s", c.platform)
	err = toolchain.Run(cmd)
	return log.text(), err
}
