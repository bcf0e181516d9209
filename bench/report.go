package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The names of the files that are written.
const (
	readmeFile  = "README.md"
	resultsFile = "results.json"
)

// render writes the README and the plots of results that are there already.
func render(o options) error {
	data, err := os.ReadFile(filepath.Join(o.out, resultsFile))
	if err != nil {
		return fmt.Errorf("reading the results: %w", err)
	}
	var r results
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("reading %s: %w", resultsFile, err)
	}
	return write(o, r)
}

// write writes results.json, the plots and the README.
func write(o options, r results) error {
	r.Bars = bars(r.Apps, r.Ship)
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the results: %w", err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("making the folder for results: %w", err)
	}
	files := map[string][]byte{resultsFile: append(data, '\n')}
	for _, p := range plots(r) {
		if files[p.name+".svg"], err = p.svg(); err != nil {
			return fmt.Errorf("drawing %s: %w", p.name, err)
		}
		if o.pngs == "" {
			continue
		}
		png, err := p.png()
		if err != nil {
			return fmt.Errorf("drawing %s: %w", p.name, err)
		}
		if err := os.WriteFile(filepath.Join(o.pngs, p.name+".png"), png, 0o644); err != nil {
			return fmt.Errorf("writing a plot: %w", err)
		}
	}
	files[readmeFile] = readme(r)
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(o.out, name), content, 0o644); err != nil {
			return fmt.Errorf("writing the results: %w", err)
		}
	}
	return nil
}

// readme is the results for a person.
func readme(r results) []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, "# Benchmark\n\n%s, side by side in one run: from a service's source to an image in a registry on the same machine, for linux/amd64.\n"+
		"Written by `make bench`; the raw figures are in [%s](%s).\n\n", "slipway, `go build` and ko", resultsFile, resultsFile)
	writeMachine(&w, r)
	writeBars(&w, r.Bars)
	fmt.Fprintf(&w, "## Times\n\n![Seconds by contestant, for a one-line change and for no change](times.svg)\n\n"+
		"Seconds from start to exit: median (lowest to highest). *Cold*: all caches empty but the module cache, %s. "+
		"*One-line change*: another string constant in a package of the program, committed, caches warm, %s. "+
		"*Nothing changed*: the same command again.\n\n", rounds(r.ColdRounds), rounds(r.Rounds))
	for i := range r.Apps {
		writeTimes(&w, &r.Apps[i])
	}
	fmt.Fprint(&w, "## Sizes\n\n![Compressed size of the image by contestant](sizes.svg)\n\n"+
		"*Image* is what a node pulls: the compressed layers, the configuration and the manifest. *Unpacked* is all files. 1 MB is a million bytes.\n\n")
	for i := range r.Apps {
		writeSizes(&w, &r.Apps[i])
	}
	fmt.Fprint(&w, "## Memory and processor\n\n"+
		"*Peak* is the largest resident set of any one process among the command and all its children (`ru_maxrss`), in MB; it is no sum. "+
		"*Processor* is user and system time of all of them, in seconds. Medians.\n\n")
	for i := range r.Apps {
		writeMemory(&w, &r.Apps[i])
	}
	if r.Ship != nil {
		writeShip(&w, r.Ship)
	}
	if r.Variants != nil {
		writeVariants(&w, r.Variants)
	}
	writeMethod(&w, r)
	return w.Bytes()
}

func rounds(n int) string {
	if n == 1 {
		return "1 round"
	}
	return fmt.Sprintf("%d rounds", n)
}

func writeMachine(w *bytes.Buffer, r results) {
	m, t := r.Machine, r.Tools
	fmt.Fprintf(w, "| | |\n|---|---|\n| Date | %s |\n| Processor | %s, %d cores |\n| Memory | %.0f GiB |\n| Kernel | %s |\n",
		m.Date.Format(time.DateOnly), m.CPU, m.CPUs, float64(m.Memory)/(1<<30), m.Kernel)
	fmt.Fprintf(w, "| Load before the start | %.2f |\n| Go | %s |\n| ko | %s |\n| slipway | %s |\n", m.Load, strings.TrimPrefix(t.GoVersion, "go"), t.KoVersion, t.SlipwayVersion)
	if t.UPXVersion != "" {
		fmt.Fprintf(w, "| UPX | %s |\n", t.UPXVersion)
	}
	for _, a := range r.Apps {
		fmt.Fprintf(w, "| %s | `%s`, `%s` |\n", a.Name, strings.Trim(a.Module+"@"+a.Version, "@"), a.Main)
	}
	fmt.Fprintln(w)
	if m.busy() {
		fmt.Fprint(w, "**The machine was busy with other work when this started: take the figures with care.**\n\n")
	}
}

func writeBars(w *bytes.Buffer, all []bar) {
	fmt.Fprint(w, "## Bars\n\nRatios are of medians.\n\n| app | what | limit | measured | |\n|---|---|--:|--:|---|\n")
	for _, b := range all {
		verdict := "ok"
		if !b.OK {
			verdict = "**MISSED**"
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s | %s |\n", b.App, b.What, b.Limit, b.Shown, verdict)
	}
	fmt.Fprintln(w)
}

func writeTimes(w *bytes.Buffer, a *appResult) {
	fmt.Fprintf(w, "### %s\n\n| | cold | x go build | one-line change | x go build | x ko | nothing changed | x go build | x ko |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|\n", a.Name)
	plain, ko := a.of(goBuild), a.of(koDefault)
	for i := range a.Contestants {
		c := &a.Contestants[i]
		fmt.Fprintf(w, "| %s | %s | %s |", c.Name, seconds(c.wall(cold)), ratio(c, plain, cold))
		for _, k := range []kase{changed, unchanged} {
			fmt.Fprintf(w, " %s | %s | %s |", seconds(c.wall(k)), ratio(c, plain, k), ratio(c, ko, k))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

func writeSizes(w *bytes.Buffer, a *appResult) {
	fmt.Fprintf(w, "### %s\n\nThe stripped program: %.2f MB, in gzip %.2f MB, in zstd %.2f MB.\n\n", a.Name, megabytes(a.Program), megabytes(a.ProgramGzip), megabytes(a.ProgramZstd))
	fmt.Fprint(w, "| | program MB | image MB | x ko | unpacked MB |\n|---|--:|--:|--:|--:|\n")
	ko := a.of(koDefault)
	for i := range a.Contestants {
		c := &a.Contestants[i]
		if c.Image == nil {
			continue
		}
		toKo := "-"
		if ko != nil && ko.Image != nil {
			toKo = fmt.Sprintf("%.2f", float64(c.Image.Compressed)/float64(ko.Image.Compressed))
		}
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %s | %.2f |\n", c.Name, megabytes(c.Image.Program), megabytes(c.Image.Compressed), toKo, megabytes(c.Image.Unpacked))
	}
	fmt.Fprintln(w)
}

func writeMemory(w *bytes.Buffer, a *appResult) {
	fmt.Fprintf(w, "### %s\n\n| |", a.Name)
	for _, k := range cases() {
		fmt.Fprintf(w, " %s: peak | processor |", title(k))
	}
	fmt.Fprint(w, "\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, c := range a.Contestants {
		fmt.Fprintf(w, "| %s |", c.Name)
		for _, k := range cases() {
			if len(c.Runs[k]) == 0 {
				fmt.Fprint(w, " - | - |")
				continue
			}
			peak := spreadOf(c.Runs[k], func(r reading) float64 { return megabytes(r.Peak) })
			cpu := spreadOf(c.Runs[k], func(r reading) float64 { return r.CPU })
			fmt.Fprintf(w, " %.0f | %.2f |", peak.Median, cpu.Median)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

func title(k kase) string {
	switch k {
	case changed:
		return "one-line change"
	case unchanged:
		return "nothing changed"
	default:
		return string(k)
	}
}

func writeShip(w *bytes.Buffer, r *shipResult) {
	fmt.Fprintf(w, "## The whole way\n\nFrom source to a verified image, %s of %s, warm: lint, race tests, build, scan, SBOMs, push, signature, three attestations, verification. "+
		"The script runs golangci-lint %s, ko, trivy %s and cosign %s one after another; both ways have the same linter configuration and the same vulnerability database, "+
		"and the tests that need Postgres or Redis are skipped in both.\n\n| | one-line change | x script | nothing changed | x script |\n|---|--:|--:|--:|--:|\n",
		rounds(r.Rounds), r.App, r.Tools.LinterVersion, r.Tools.TrivyVersion, r.Tools.CosignVersion)
	base := r.of(script)
	for i := range r.Contestants {
		c := &r.Contestants[i]
		fmt.Fprintf(w, "| %s |", c.Name)
		for _, k := range []kase{changed, unchanged} {
			fmt.Fprintf(w, " %s | %s |", seconds(c.wall(k)), ratio(c, base, k))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
	for _, c := range r.Contestants {
		fmt.Fprintf(w, "- *%s*: %s.\n", c.Name, c.Note)
	}
	fmt.Fprintln(w)
}

func writeVariants(w *bytes.Buffer, v *variants) {
	where := "directly"
	if v.Chroot {
		where = "in the unpacked image as its root, as user 65534"
	}
	fmt.Fprintf(w, "## Kinds of image\n\n![Compressed size and start-up by kind of image](variants.svg)\n\n"+
		"The %s in each kind of image, pulled from the registry, its program started %s. *Version*: from exec until it has printed its version and exited. "+
		"*Healthy*: from exec to the first good answer of the liveness probe, asked every half millisecond. Milliseconds, median (lowest to highest). "+
		"*Memory*: peak resident set until then. The first start after the files came into memory does not count.\n\n", v.App, where)
	fmt.Fprint(w, "**No public base image was pulled.** *distroless-like* is certificate roots, zone data and accounts; *alpine-like* is a static busybox and accounts. "+
		"Both were made here and stand in for the real ones (the real Alpine is larger by its package manager and C library). slipway adds certificate roots and zone data to every base.\n\n")
	fmt.Fprint(w, "| | program MB | image MB | unpacked MB | version ms | healthy ms | memory MB |\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, k := range v.Kinds {
		if k.Skipped != "" {
			fmt.Fprintf(w, "| %s | not measured: %s | | | | | |\n", k.Name, k.Skipped)
			continue
		}
		memory := spreadOf(k.Starts, func(s startTimes) float64 { return megabytes(s.Memory) })
		fmt.Fprintf(w, "| %s | %.2f | %.2f | %.2f | %s | %s | %.0f |\n", k.Name, megabytes(k.Image.Program), megabytes(k.Image.Compressed), megabytes(k.Image.Unpacked),
			milliseconds(spreadOf(k.Starts, func(s startTimes) float64 { return s.Version })),
			milliseconds(spreadOf(k.Starts, func(s startTimes) float64 { return s.Healthy })), memory.Median)
	}
	fmt.Fprintln(w)
}

func writeMethod(w *bytes.Buffer, r results) {
	fmt.Fprint(w, "## How it is measured\n\n")
	if len(r.Apps) > 0 {
		for _, c := range r.Apps[0].Contestants {
			fmt.Fprintf(w, "- **%s**: %s\n", c.Name, c.Note)
		}
	}
	fmt.Fprint(w, `
Each contestant has its own copy of the app (a git repository), its own build
cache and its own settings; the module cache is shared and full, and nothing can
be downloaded. Contestants take turns within each round, another one first each
time. Every change is another value, so nobody's work is in anybody's cache, and
every cold or changed run has to upload a new program. The disk is synced before
each run. All push to the same registry, go-containerregistry's, in the
benchmark's own process on 127.0.0.1; its work counts as everybody's.

ko's default base cannot be pulled on every machine, so ko's base here is one of
certificate roots, zone data and accounts, pushed to the same registry.

    make bench                          # all of it
    cd bench && go run . --help         # the choices
    cd bench && go run . --render       # this page and the plots again from `+resultsFile+`
`)
}

func seconds(s spread) string {
	if s.Max == 0 {
		return "-" // not measured
	}
	return fmt.Sprintf("%.2f (%.2f to %.2f)", s.Median, s.Min, s.Max)
}

func milliseconds(s spread) string {
	return fmt.Sprintf("%.1f (%.1f to %.1f)", s.Median*1e3, s.Min*1e3, s.Max*1e3)
}

func ratio(c, to *contestantResult, k kase) string {
	if to == nil || to.wall(k).Median == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", c.wall(k).Median/to.wall(k).Median)
}
