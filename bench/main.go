// Command bench compares slipway with go build and ko. In one run it measures how
// long each of them takes from the source of a service to an image in a registry
// on this machine.
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

const usage = `bench compares slipway with go build and ko, and writes the results to README.md,
results.json and SVG plots.

Usage, in the directory bench of slipway's repository:
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
	context.AfterFunc(ctx, stop) // a second signal terminates the program immediately
	if len(os.Args) > 1 && os.Args[1] == meterCommand {
		os.Exit(meter(ctx, os.Args[2:]))
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the program with the given arguments and returns its exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "bench: %v; run bench --help for usage\n", err)
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

// parse parses the flags. It prints the help text to stdout if it is requested.
func parse(args []string, stdout io.Writer) (options, error) {
	var o options
	var names []string
	for _, a := range apps() {
		names = append(names, a.Name)
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	list := flags.String("apps", strings.Join(names, ","), "comma-separated `LIST` of the applications to build")
	flags.StringVar(&o.root, "root", "..", "root `DIR` of slipway's repository")
	flags.StringVar(&o.slipway, "slipway", "", "`PATH` of the slipway program (default: built from --root)")
	flags.StringVar(&o.out, "out", "../docs/bench", "`DIR` for the results")
	flags.IntVar(&o.rounds, "rounds", 7, "number of rounds with warm caches")
	flags.IntVar(&o.coldRounds, "cold-rounds", 1, "number of rounds with cold caches; 0 skips them and starts with the build cache of the user")
	flags.IntVar(&o.shipRounds, "ship-rounds", 3, "number of rounds of the complete pipeline, from lint to verification, compared with a shell script that runs separate programs; 0 skips it")
	flags.IntVar(&o.starts, "starts", 20, "number of starts of each image variant; 0 skips the variants")
	flags.StringVar(&o.busybox, "busybox", "/bin/busybox", "`PATH` of a statically linked busybox, for the alpine-like base image")
	flags.StringVar(&o.pngs, "png", "", "also write the plots as PNG files to `DIR`")
	flags.BoolVar(&o.render, "render", false, "measure nothing; write README.md and the plots again from results.json")
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
			return o, fmt.Errorf("invalid value for --apps: %q is not one of %s", name, strings.Join(names, ", "))
		}
	}
	if o.rounds < 1 || o.coldRounds < 0 || o.shipRounds < 0 || o.starts < 0 {
		return o, errors.New("--rounds must be at least 1; --cold-rounds, --ship-rounds and --starts must be at least 0")
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

// benchmark runs all measurements and writes the results.
func benchmark(ctx context.Context, o options, stderr io.Writer) (err error) {
	work, err := os.MkdirTemp("", "slipway-bench-")
	if err != nil {
		return fmt.Errorf("creating a temporary directory: %w", err)
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
