package command

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/source"
)

// sourceCommand returns the command that shows what would be built. The Dagger module
// calls it to get the revision and the time for a build without a .git folder.
func (a *app) sourceCommand() *cobra.Command {
	r := &request{}
	cmd := &cobra.Command{
		Use: "source", Short: "Show what would be built: app, commit, time, version, changed files", Args: cobra.NoArgs,
		Example: "  slipway source\n  slipway source -o json | jq -r .version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			root, c, err := a.load()
			if err != nil {
				return err
			}
			r.Config = c
			if err := r.apply(); err != nil {
				return err
			}
			c = r.Config
			var s source.Source
			show := a.display(nil)
			ctx := progress.With(cmd.Context(), show, "source")
			o, err := ship.SourceOptions(ctx, root, c.App)
			if err == nil {
				o.Epoch = os.Getenv("SOURCE_DATE_EPOCH")
				s, err = source.Open(ctx, o)
			}
			show.Close()
			if err != nil {
				return err
			}
			if a.json {
				a.printJSON(s)
				return nil
			}
			w := tabwriter.NewWriter(a.out, 0, 8, 2, ' ', 0)
			for _, line := range [][2]string{
				{"app", s.Name}, {"module", s.Module}, {"main", s.Main}, {"commit", s.Revision},
				{"time", s.Time.Format(time.RFC3339)}, {"version", s.Version}, {"changed", strings.Join(s.Changed, ", ")},
			} {
				if line[1] != "" {
					fmt.Fprintf(w, "%s\t%s\n", line[0], display.Clean(line[1]))
				}
			}
			return w.Flush()
		},
	}
	sourceFlags(r, cmd.Flags())
	return cmd
}
