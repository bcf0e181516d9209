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

// The names of the files that the benchmark writes.
const (
	readmeFile  = "README.md"
	resultsFile = "results.json"
)

// render writes the README and the plots again from an existing results.json.
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
		return fmt.Errorf("creating the directory for the results: %w", err)
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

// readme returns the results as Markdown.
func readme(r results) []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, "# Benchmark\n\nThis benchmark compares slipway, `go build` and ko in a single run. It measures the time from the source of a service to an image in a registry on the same machine, for linux/amd64.\n"+
		"`make bench` writes this page; the measured values are in [%s](%s).\n\n", resultsFile, resultsFile)
	writeMachine(&w, r)
	writeBars(&w, r.Bars)
	fmt.Fprintf(&w, "## Times\n\n![Seconds by contestant, for a one-line change and for no change](times.svg)\n\n"+
		"Seconds from start to exit: median (lowest to highest). *Cold*: all caches except the module cache are empty, %s. "+
		"*One-line change*: one string constant in a package of the program has been changed and committed, and the caches are warm, %s. "+
		"*Nothing changed*: the same command again.\n\n", rounds(r.ColdRounds), rounds(r.Rounds))
	for i := range r.Apps {
		writeTimes(&w, &r.Apps[i])
	}
	fmt.Fprint(&w, "## Sizes\n\n![Compressed size of the image by contestant](sizes.svg)\n\n"+
		"*Image* is what a node pulls: the compressed layers, the configuration and the manifest. *Unpacked* is the size of all files. 1 MB is a million bytes.\n\n")
	for i := range r.Apps {
		writeSizes(&w, &r.Apps[i])
	}
	fmt.Fprint(&w, "## Memory and processor\n\n"+
		"*Peak* is the largest resident set of any single process among the command and its children (`ru_maxrss`), in MB. It is not a sum. "+
		"*Processor* is the user and system time of all of them, in seconds. All values are medians.\n\n")
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
		fmt.Fprint(w, "**The machine was busy with other work when the benchmark started, so the measurements may vary more than usual.**\n\n")
	}
}

func writeBars(w *bytes.Buffer, all []bar) {
	fmt.Fprint(w, "## Limits\n\nslipway's design sets these limits. Ratios compare medians.\n\n| app | what | limit | measured | |\n|---|---|--:|--:|---|\n")
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
		for _, k := range []scenario{changed, unchanged} {
			fmt.Fprintf(w, " %s | %s | %s |", seconds(c.wall(k)), ratio(c, plain, k), ratio(c, ko, k))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w)
}

func writeSizes(w *bytes.Buffer, a *appResult) {
	fmt.Fprintf(w, "### %s\n\nThe stripped program takes up %.2f MB, compressed with gzip %.2f MB, and compressed with zstd %.2f MB.\n\n", a.Name, megabytes(a.Program), megabytes(a.ProgramGzip), megabytes(a.ProgramZstd))
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
	for _, k := range scenarios() {
		fmt.Fprintf(w, " %s: peak | processor |", title(k))
	}
	fmt.Fprint(w, "\n|---|--:|--:|--:|--:|--:|--:|\n")
	for _, c := range a.Contestants {
		fmt.Fprintf(w, "| %s |", c.Name)
		for _, k := range scenarios() {
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

func title(k scenario) string {
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
	fmt.Fprintf(w, "## The complete pipeline\n\nFrom source to a verified image, %s of %s with warm caches: lint, race tests, build, scan, SBOMs, push, signature, three attestations, verification. "+
		"The script runs golangci-lint %s, ko, trivy %s and cosign %s one after another. Both contestants use the same linter configuration and the same vulnerability database, "+
		"and both skip the tests that need Postgres or Redis.\n\n| | one-line change | x script | nothing changed | x script |\n|---|--:|--:|--:|--:|\n",
		rounds(r.Rounds), r.App, r.Tools.LinterVersion, r.Tools.TrivyVersion, r.Tools.CosignVersion)
	base := r.of(script)
	for i := range r.Contestants {
		c := &r.Contestants[i]
		fmt.Fprintf(w, "| %s |", c.Name)
		for _, k := range []scenario{changed, unchanged} {
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
		where = "in a chroot of the unpacked image, as user 65534"
	}
	fmt.Fprintf(w, "## Kinds of image\n\n![Compressed size and start-up by kind of image](variants.svg)\n\n"+
		"Each image contains the %s. It is pulled from the registry, and its program is started %s. *Version*: from exec until the program has printed its version and exited. "+
		"*Healthy*: from exec to the first successful response of the liveness probe, which is requested every half millisecond. Milliseconds, median (lowest to highest). "+
		"*Memory*: peak resident set up to that response. The first start of each image is not measured, because it reads the files from disk.\n\n", v.App, where)
	fmt.Fprint(w, "**No public base image was pulled.** *distroless-like* contains root certificates, time zone data and accounts; *alpine-like* contains a statically linked busybox and accounts. "+
		"The benchmark builds both as substitutes for the real images (the real Alpine image also contains a package manager and a C library, so it is larger). slipway adds root certificates and time zone data to every base image.\n\n")
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
	fmt.Fprint(w, "## Method\n\n")
	if len(r.Apps) > 0 {
		for _, c := range r.Apps[0].Contestants {
			fmt.Fprintf(w, "- **%s**: %s\n", c.Name, c.Note)
		}
	}
	fmt.Fprint(w, `
Each contestant has its own copy of the application in a git repository, its own
build cache and its own settings. All contestants share the module cache, which
already contains all modules, and nothing can be downloaded. In each round every
contestant runs once, and each round starts with another contestant. Every change
has a unique value, so no cache contains its result, and every run that is cold or
follows a change uploads a new program. The file systems are synced before each run.
All contestants push to the same registry, go-containerregistry's, which runs on
127.0.0.1 in the process of the benchmark. The time it needs is part of every
measurement.

ko's default base image cannot be pulled on every machine. Here ko uses a base image
with root certificates, time zone data and accounts from the same registry.

    make bench                          # run the complete benchmark
    cd bench && go run . --help         # show all flags
    cd bench && go run . --render       # write this page and the plots again from `+resultsFile+`
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

func ratio(c, to *contestantResult, k scenario) string {
	if to == nil || to.wall(k).Median == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", c.wall(k).Median/to.wall(k).Median)
}
