// Command bench measures slipway against go build and ko, side by side in one
// run: from a service's source to an image in a registry on this machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

const usage = `bench measures slipway against go build and ko, side by side, and writes
README.md, results.json and SVG plots.

Usage, in the bench folder of slipway's repository:
  go run . [flags]

Flags:
`

// options are the program's flags.
type options struct {
	root       string
	slipway    string
	out        string
	apps       []string
	rounds     int
	coldRounds int
	shipRounds int
	starts     int
	busybox    string
	pngs       string
	render     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	if len(os.Args) > 1 && os.Args[1] == meterCommand {
		os.Exit(meter(ctx, os.Args[2:]))
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program without the process around it. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "bench: %v: see --help\n", err)
		return exitUsage
	}
	if o.render {
		err = render(o)
	} else {
		err = benchmark(ctx, o, stderr)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		fmt.Fprintln(stderr, "bench: interrupted")
		return exitInterrupted
	case err != nil:
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return exitFailed
	}
	return exitOK
}

func parse(args []string, stdout io.Writer) (options, error) {
	var o options
	var names []string
	for _, a := range apps() {
		names = append(names, a.Name)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	list := flags.String("apps", strings.Join(names, ","), "what to build, separated by commas")
	flags.StringVar(&o.root, "root", "..", "slipway's repository, `DIR`")
	flags.StringVar(&o.slipway, "slipway", "", "slipway's program, `PATH` (default: built from --root)")
	flags.StringVar(&o.out, "out", "../docs/bench", "write the results to `DIR`")
	flags.IntVar(&o.rounds, "rounds", 7, "rounds of the warm cases")
	flags.IntVar(&o.coldRounds, "cold-rounds", 1, "rounds of the cold case; 0 leaves it out and starts with the caller's build cache")
	flags.IntVar(&o.shipRounds, "ship-rounds", 3, "rounds of the whole way, lint to verification, against a script of programs; 0 leaves it out")
	flags.IntVar(&o.starts, "starts", 20, "starts of each image variant; 0 leaves the variants out")
	flags.StringVar(&o.busybox, "busybox", "/bin/busybox", "static busybox for the alpine-like base, `PATH`")
	flags.StringVar(&o.pngs, "png", "", "write the plots as PNG, too, to `DIR`")
	flags.BoolVar(&o.render, "render", false, "measure nothing; write README and plots again from results.json")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, usage)
			flags.SetOutput(stdout)
			flags.PrintDefaults()
		}
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	o.apps = strings.Split(*list, ",")
	for _, name := range o.apps {
		if !slices.Contains(names, name) {
			return o, fmt.Errorf("--apps: %q is none of %s", name, strings.Join(names, ", "))
		}
	}
	if o.rounds < 1 || o.coldRounds < 0 || o.shipRounds < 0 || o.starts < 0 {
		return o, errors.New("--rounds must be at least 1, --cold-rounds, --ship-rounds and --starts at least 0")
	}
	for _, path := range []*string{&o.root, &o.slipway, &o.out, &o.pngs} {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return o, fmt.Errorf("resolving %s: %w", *path, err)
		}
		*path = abs
	}
	return o, nil
}

// benchmark measures everything and writes the results.
func benchmark(ctx context.Context, o options, stderr io.Writer) (err error) {
	work, err := os.MkdirTemp("", "slipway-bench-")
	if err != nil {
		return fmt.Errorf("making a work folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	b, err := newBench(ctx, o, work, stderr)
	if err != nil {
		return err
	}
	for _, name := range o.apps {
		if err := b.app(ctx, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return write(o, b.results)
}
