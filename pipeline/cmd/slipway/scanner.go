//go:build goexperiment.jsonv2 && !go1.27

package main

import (
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/scan"
	"github.com/slipway-ci/slipway/pipeline/scan/trivy"
)

// scanner returns the constructor of the scanner.
func scanner() func(cache.Dir) scan.Scanner {
	return func(dir cache.Dir) scan.Scanner { return trivy.New(dir) }
}
