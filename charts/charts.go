// Package charts contains the Helm charts that are part of slipway.
//
// The package promises no compatibility to programs other than slipway.
package charts

import (
	"embed"
	"fmt"
	"io/fs"
)

//go:embed service/.helmignore service/Chart.yaml service/README.md service/values.yaml service/values.schema.json
//go:embed all:service/templates all:service/charts
var files embed.FS

// Service returns the files of the chart service, which runs any Go service.
func Service() (fs.FS, error) {
	service, err := fs.Sub(files, "service")
	if err != nil {
		return nil, fmt.Errorf("reading slipway's own chart: %w", err)
	}
	return service, nil
}
