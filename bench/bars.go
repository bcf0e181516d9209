package main

import (
	"fmt"
	"math"
)

// bar compares a measured value with the limit that slipway's design sets for it.
type bar struct {
	App   string  `json:"app"`
	What  string  `json:"what"`
	Limit string  `json:"limit"`
	Value float64 `json:"value"`
	Shown string  `json:"shown"`
	OK    bool    `json:"ok"`
}

// The limits. Those without a unit are ratios.
const (
	maxZstdToGo   = 1.15
	maxGzipToGo   = 1.30
	maxToKo       = 0.75
	maxUnchanged  = 0.5 // seconds
	maxIdleToKo   = 0.25
	maxSizeToKo   = 0.6
	maxOverheadMB = 0.7
	maxToScript   = 0.7
)

// bars compares the medians of all results with the limits.
func bars(results []appResult, ship *shipResult) []bar {
	var all []bar
	for i := range results {
		a := &results[i]
		plain, ko := a.of(goBuild), a.of(koDefault)
		add := func(what, unit string, value, limit float64) {
			all = append(all, bar{
				App: a.Name, What: what, Limit: fmt.Sprintf("%.2f%s", limit, unit), Value: value,
				Shown: fmt.Sprintf("%.2f%s", value, unit), OK: value <= limit && !math.IsNaN(value),
			})
		}
		for _, c := range []struct {
			name   string
			toGo   float64
			packed int64
		}{{ourZstd, maxZstdToGo, a.ProgramZstd}, {ourGzip, maxGzipToGo, a.ProgramGzip}} {
			s := a.of(c.name)
			if s == nil || plain == nil || ko == nil || s.Image == nil || ko.Image == nil {
				continue
			}
			add(c.name+", one-line change, compared with go build", " x", s.wall(changed).Median/plain.wall(changed).Median, c.toGo)
			add(c.name+", one-line change, compared with ko", " x", s.wall(changed).Median/ko.wall(changed).Median, maxToKo)
			add(c.name+", nothing changed", " s", s.wall(unchanged).Median, maxUnchanged)
			add(c.name+", nothing changed, compared with ko", " x", s.wall(unchanged).Median/ko.wall(unchanged).Median, maxIdleToKo)
			add(c.name+", image, compared with ko", " x", float64(s.Image.Compressed)/float64(ko.Image.Compressed), maxSizeToKo)
			add(c.name+", image size beyond the compressed program", " MB", megabytes(s.Image.Compressed-c.packed), maxOverheadMB)
		}
	}
	if ship != nil {
		ours, theirs := ship.of(ourShip), ship.of(script)
		for _, k := range []scenario{changed, unchanged} {
			value := ours.wall(k).Median / theirs.wall(k).Median
			all = append(all, bar{
				App: ship.App, What: ourShip + ", " + title(k) + ", compared with " + script, Limit: fmt.Sprintf("%.2f x", maxToScript), Value: value,
				Shown: fmt.Sprintf("%.2f x", value), OK: value <= maxToScript && !math.IsNaN(value),
			})
		}
	}
	return all
}

// megabytes converts bytes to megabytes of a million bytes, as registries do.
func megabytes(n int64) float64 { return float64(n) / 1e6 }
