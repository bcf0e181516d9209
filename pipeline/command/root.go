package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/slipway-ci/slipway/pipeline/ci"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/display"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// app holds the state that all commands share.
type app struct {
	program        Program
	stdin          io.Reader
	stdout, stderr io.Writer
	out            io.Writer // standard output for text, which makes it safe to print
	system         ci.System

	dir        string
	configFile string
	settings   string // the file that load has read; empty if there is none
	outputs    []string
	progress   string
	verbose    bool

	json    bool     // whether -o json was given
	places  []string // the values of -o other than text and json
	started bool     // whether the flags and arguments were valid
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "Take a Go service from source to running pods, the same way everywhere",
		Long: `Slipway lints, race-tests, builds, scans, pushes, signs and deploys a Go service.
The same commit gives the same image digest on a laptop, in GitHub Actions and
in GitLab CI.

Settings come from slipway.yaml at the root of the repository. Every setting has
a default, so the file may be empty or missing. Flags win over the file; a default
in the help of a flag is that of a file without the setting. Results go to standard
output, and progress goes to standard error.

Exit codes: 0 success, 1 a gate or stage failed, 2 wrong usage or configuration,
3 a plan found changes, 130 interrupted.`,
		Example: `  slipway init                        write a slipway.yaml for this repository
  slipway check                       run lint and tests, as before a push
  slipway build                       write the image to .slipway/image
  slipway publish --repository ghcr.io/acme/orders
  slipway ship --env staging          run everything, to running pods
  slipway rollback --env staging      roll back to the revision before`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.Version = a.program.Version
	root.SetVersionTemplate(a.program.describe() + "\n")
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetIn(a.stdin)
	flags := root.PersistentFlags()
	flags.StringVarP(&a.dir, "directory", "C", ".", "work in `DIR`")
	flags.StringVar(&a.configFile, "config", "", "configuration `FILE` (default: slipway.yaml in DIR or above it)")
	flags.StringArrayVarP(&a.outputs, "output", "o", nil, "report as `text|json`; a command that builds also takes oci:DIR, docker-archive:FILE, registry:REPOSITORY")
	flags.StringVar(&a.progress, "progress", "auto", "show progress as `auto|plain|json`")
	flags.BoolVarP(&a.verbose, "verbose", "v", false, "show every step")
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.start() }
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fault.Inputf("usage", "%w", err).WithFix("see %s --help", cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: "pipeline", Title: "The pipeline:"}, &cobra.Group{ID: "set-up", Title: "Setting up:"})
	var pipeline []*cobra.Command
	for _, c := range stageCommands() {
		pipeline = append(pipeline, a.stageCommand(c))
	}
	for _, c := range a.clusterCommands() {
		pipeline = append(pipeline, a.clusterCommand(c))
	}
	for _, c := range pipeline {
		c.GroupID = "pipeline"
		a.traced(c)
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{a.initCommand(), a.doctorCommand(), a.keysCommand(), a.chartCommand(), a.sealCommand(), a.sourceCommand(), a.registryCommand(), a.versionCommand()} {
		c.GroupID = "set-up"
		root.AddCommand(c)
	}
	return root
}

// start evaluates the global flags after cobra has parsed them.
func (a *app) start() error {
	a.started = true
	for _, o := range a.outputs {
		switch o {
		case "json":
			a.json = true
		case "text":
			a.json = false
		default:
			a.places = append(a.places, o)
		}
	}
	switch a.progress {
	case "auto", "plain", "json":
	default:
		return fault.Inputf("usage", "--progress %q is not auto, plain or json", a.progress)
	}
	return nil
}

// requireReportOutput rejects values of -o other than text and json, for commands that
// build no image.
func (a *app) requireReportOutput() error {
	if len(a.places) > 0 {
		return fault.Inputf("usage", "-o %q is not text or json", a.places[0])
	}
	return nil
}

// load finds and reads the configuration. root is the folder that the paths in it are
// relative to.
func (a *app) load() (root string, c config.Config, err error) {
	fi, err := os.Stat(a.dir)
	if err != nil {
		return "", c, fault.Inputf("usage", "-C %s: %w", a.dir, err)
	}
	if !fi.IsDir() {
		return "", c, fault.Inputf("usage", "-C %s is not a folder", a.dir)
	}
	root, err = filepath.Abs(a.dir)
	if err != nil {
		return "", c, fmt.Errorf("resolving %s: %w", a.dir, err)
	}
	file := a.configFile
	if file == "" {
		if file, err = config.Find(root); err != nil {
			return "", c, err
		}
		if file == "" {
			return root, config.Default(), nil
		}
	} else if !filepath.IsAbs(file) {
		file = filepath.Join(root, file)
	}
	shown := file
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, file); err == nil && filepath.IsLocal(rel) {
			shown = rel
		}
	}
	c, err = config.Load(shown)
	a.settings = file
	return filepath.Dir(file), c, err
}

// display returns the display that shows progress as --progress says. By default it
// depends on the CI system and on whether standard error is a terminal.
func (a *app) display(stages []string) display.Display {
	switch {
	case a.progress == "json", a.progress == "plain":
		return a.plainDisplay()
	case a.system.Name != "":
		return a.system.Display(a.stderr)
	case a.terminal() && !a.verbose:
		return display.Live(a.stderr, stages)
	default:
		return a.plainDisplay()
	}
}

// plainDisplay returns a display that writes lines, in JSON if --progress says so. In CI
// they go to a log.
func (a *app) plainDisplay() display.Display {
	if a.progress == "json" {
		return display.JSON(display.Lines(a.stderr, func(line string) string { return string(a.system.InertJSON([]byte(line))) }))
	}
	return display.Plain(display.Lines(a.stderr, a.system.Inert), a.verbose)
}

func (a *app) terminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// failure is the error in a JSON report.
type failure struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Exit    int    `json:"exit"`
}

func describe(err error) *failure {
	if err == nil {
		return nil
	}
	return &failure{fault.CodeOf(err), err.Error(), fault.ExitCode(err)}
}

// reported is an error that has already been printed as JSON.
type reported struct{ error }

func (r reported) Unwrap() error { return r.error }

// exit prints each error on one line and returns the exit code.
func (a *app) exit(err error) int {
	if err == nil {
		return fault.ExitOK
	}
	var input *fault.Error
	if !a.started && !errors.As(err, &input) {
		err = fault.Inputf("usage", "%w", err).WithFix("see slipway --help")
	}
	if _, ok := errors.AsType[planChangesError](err); ok {
		return exitChanges
	}
	code := fault.ExitCode(err)
	if code == fault.ExitInterrupted {
		fmt.Fprintln(a.stderr, "slipway: interrupted")
	} else {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(a.stderr, "slipway: "+a.system.Inert(strings.TrimRight(line, "\n")))
		}
	}
	var done reported
	if a.json && !errors.As(err, &done) {
		a.printJSON(map[string]any{"error": describe(err)})
	}
	return code
}

func (a *app) printJSON(v any) {
	var doc bytes.Buffer
	enc := json.NewEncoder(&doc)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v)                                      // encoding a report does not fail
	_, _ = a.stdout.Write(a.system.InertJSON(doc.Bytes())) // an error of standard output cannot be reported anywhere
}
