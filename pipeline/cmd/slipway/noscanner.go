//go:build !goexperiment.jsonv2 || go1.27

package main

import (
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// scanner returns nil, because Trivy does not compile with these settings.
func scanner() func(cache.Dir) scan.Scanner { return nil }
