package command

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/ship"
	"github.com/slipway-ci/slipway/pipeline/starter"
)

func (a *app) chartCommand() *cobra.Command {
	chart := &cobra.Command{
		Use: "chart", Short: "Work with slipway's own chart", Args: cobra.NoArgs,
		Example: "  slipway chart eject",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var to string
	eject := &cobra.Command{
		Use: "eject", Short: "Write slipway's own chart into the repository, to change it there", Args: cobra.NoArgs,
		Long: `Write slipway's own chart into the repository, to change it there. The defaults of its
values are then those that slipway uses for this app: the settings of deploy.service and
the ports of the image. What is deployed stays the same.`,
		Example: `  slipway chart eject                    writes charts/NAME
  slipway chart eject --to deploy/chart  set deploy.chart: deploy/chart afterwards`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			root, c, err := a.load()
			if err != nil {
				return err
			}
			result, err := ship.EjectChart(cmd.Context(), root, c, to)
			if err != nil {
				return err
			}
			if err := starter.Eject(result.Path, result.Name, result.Values); err != nil {
				return err
			}
			if a.json {
				a.printJSON(result)
				return nil
			}
			shown := result.Path
			if rel, err := filepath.Rel(root, result.Path); err == nil && filepath.IsLocal(rel) {
				shown = rel
			}
			fmt.Fprintf(a.out, "wrote %s\n", shown)
			for _, step := range result.Next {
				fmt.Fprintf(a.out, "next: %s\n", step)
			}
			return nil
		},
	}
	eject.Flags().StringVar(&to, "to", "", "write the chart to `DIR`, relative to slipway.yaml (default: charts/NAME with the name of the app)")
	chart.AddCommand(eject)
	return chart
}
