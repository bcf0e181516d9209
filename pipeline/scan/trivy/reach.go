package trivy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	vulnscan "golang.org/x/vuln/scan"

	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/scan"
)

// probeTime limits the time for the first response of the Go vulnerability
// database.
const probeTime = 10 * time.Second

// analysis is the result of govulncheck for each vulnerability.
type analysis struct {
	done bool                  // reach was called
	err  error                 // why the result is unknown
	byID map[string]callResult // by identifiers and aliases
}

type callResult struct {
	reachability scan.Reachability
	trace        []string
}

// reach determines with govulncheck's library which vulnerable functions the
// program calls. It never fails the scan: after an error, all results are
// [scan.Unknown].
//
// A vulnerability is [scan.Called] if a call path to one of its functions exists,
// and [scan.NotCalled] if its functions are known and there is no call path. It is
// [scan.Unknown] if the database has only its module or package, or does not have
// it at all.
func reach(ctx context.Context, o scan.Options, database installed) analysis {
	a := analysis{done: true, byID: map[string]callResult{}}
	a.err = func() error {
		source, clean, err := goDatabase(ctx, o, database)
		if err != nil {
			return err
		}
		defer clean()
		progress.Statusf(ctx, "analysing which functions are called")
		out, err := govulncheck(ctx, *o.Reach, source)
		if err != nil {
			return err
		}
		return a.read(out)
	}()
	return a
}

// goDatabase returns the URL of the Go vulnerability database for the scan. It
// returns an error if the database is missing or unreachable. The caller must call
// clean after the analysis, unless goDatabase returns an error.
func goDatabase(ctx context.Context, o scan.Options, database installed) (url string, clean func(), err error) {
	noop := func() {}
	source := o.Reach.Database
	switch {
	case source == "" && database.Source == scan.Bundled:
		source = scan.Bundled
	case source == "":
		source = scan.GoDatabase
	}
	if source == scan.Bundled {
		a, _, err := BundledAdvisories()
		if err != nil {
			return "", noop, err
		}
		run, err := o.Cache.Run()
		if err != nil {
			return "", noop, err
		}
		clean := func() { _ = run.Close() } // if that fails, the next run removes the folder
		if err := WriteGoDatabase(run.Dir, a); err != nil {
			clean()
			return "", noop, err
		}
		return "file://" + filepath.ToSlash(run.Dir), clean, nil
	}
	if !strings.Contains(source, "://") {
		dir := source
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(o.Root, dir)
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return "", noop, err
		}
		if _, err := os.Stat(filepath.Join(dir, "index", "modules.json")); err != nil {
			return "", noop, fmt.Errorf("%s is not a Go vulnerability database: %w", source, err)
		}
		return "file://" + filepath.ToSlash(dir), noop, nil
	}
	if strings.HasPrefix(source, "file://") {
		return source, noop, nil
	}
	if o.Settings.Offline {
		return "", noop, fmt.Errorf("offline mode does not use the Go vulnerability database %s", source)
	}
	return source, noop, probe(ctx, source)
}

// probe requests the smallest file of the database. govulncheck sends its first
// request only after it has loaded the whole program, which takes seconds.
func probe(ctx context.Context, source string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimRight(source, "/")+"/index/db.json.gz", http.NoBody)
	if err != nil {
		return fmt.Errorf("requesting the Go vulnerability database %s: %w", source, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the Go vulnerability database %s is unreachable: %w", source, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the Go vulnerability database %s responds with status %s", source, resp.Status)
	}
	return nil
}

// govulncheck runs the analysis in this process and returns its output. The library
// cannot be interrupted while it loads the program, so if ctx ends, govulncheck
// returns and the analysis continues in the background.
func govulncheck(ctx context.Context, r scan.Reach, source string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	args := []string{"-json", "-C", r.Dir, "-db", source}
	if len(r.Tags) > 0 {
		args = append(args, "-tags", strings.Join(r.Tags, ","))
	}
	main := r.Main
	if main == "" {
		main = "./..."
	}
	cmd := vulnscan.Command(ctx, append(args, main)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(""), &stdout, &stderr
	cmd.Env = os.Environ()
	if r.Go != nil {
		// govulncheck runs the go command on PATH, which selects this toolchain. The
		// environment has no GOFLAGS, so -mod=mod cannot make the analysis change go.mod.
		cmd.Env = r.Go.Env("GOROOT=", "GOTOOLCHAIN="+r.Go.Version, "GOVERSION="+r.Go.Version)
	}
	cmd.Env = append(append(cmd.Env, r.Env...), "GOPACKAGESDRIVER=off", "GOTELEMETRY=off")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("analysing which functions are called: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case err := <-done:
		if err != nil {
			return nil, fmt.Errorf("analysing which functions are called: %s", firstLines(stderr.String(), err))
		}
		return stdout.Bytes(), nil
	}
}

// firstLines returns the error and the first lines of text on one line.
func firstLines(text string, err error) string {
	text = strings.TrimSpace(err.Error() + "\n" + text)
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
	return strings.TrimSpace(strings.Join(lines[:min(len(lines), 3)], " "))
}

// vulnMessage is a message in the output of govulncheck
// (https://pkg.go.dev/golang.org/x/vuln/internal/govulncheck). It has only the
// fields that are used here.
type vulnMessage struct {
	OSV     *vulnEntry   `json:"osv"`
	Finding *vulnFinding `json:"finding"`
}

type vulnEntry struct {
	ID       string   `json:"id"`
	Aliases  []string `json:"aliases"`
	Affected []struct {
		Specific struct {
			Imports []struct {
				Symbols []string `json:"symbols"`
			} `json:"imports"`
		} `json:"ecosystem_specific"`
	} `json:"affected"`
}

type vulnFinding struct {
	OSV   string      `json:"osv"`
	Trace []vulnFrame `json:"trace"` // from the vulnerable symbol to the entry point
}

type vulnFrame struct {
	Package  string `json:"package"`
	Function string `json:"function"`
	Receiver string `json:"receiver"`
}

// read parses the output of govulncheck.
func (a *analysis) read(out []byte) error {
	entries := map[string]*vulnEntry{}
	found := map[string][]vulnFinding{}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var m vulnMessage
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("reading the output of govulncheck: %w", err)
		}
		if m.OSV != nil {
			entries[m.OSV.ID] = m.OSV
		}
		if m.Finding != nil {
			found[m.Finding.OSV] = append(found[m.Finding.OSV], *m.Finding)
		}
	}
	for id, e := range entries {
		if len(found[id]) == 0 {
			continue // the version in go.mod is not affected, so there is no result for the binary
		}
		got := callResult{reachability: scan.Unknown}
		if e.hasSymbols() {
			got.reachability = scan.NotCalled
		}
		for _, f := range found[id] {
			if len(f.Trace) > 0 && f.Trace[0].Function != "" {
				trace := f.path()
				if got.reachability != scan.Called || len(trace) < len(got.trace) {
					got.trace = trace
				}
				got.reachability = scan.Called
			}
		}
		for _, name := range append([]string{e.ID}, e.Aliases...) {
			a.byID[name] = got
		}
	}
	return nil
}

func (e *vulnEntry) hasSymbols() bool {
	for _, a := range e.Affected {
		for _, i := range a.Specific.Imports {
			if len(i.Symbols) > 0 {
				return true
			}
		}
	}
	return false
}

// maxTrace is the maximal number of functions of a call path that are shown. If
// there are more, the middle ones are left out.
const maxTrace = 5

// path returns the call path from a function of the app to the vulnerable one.
func (f vulnFinding) path() []string {
	var names []string
	for _, frame := range slices.Backward(f.Trace) {
		name := path.Base(frame.Package) + "."
		if r := strings.TrimPrefix(frame.Receiver, "*"); r != "" {
			name += r[strings.LastIndexByte(r, '.')+1:] + "."
		}
		names = append(names, name+frame.Function)
	}
	if len(names) > 0 {
		first := f.Trace[len(f.Trace)-1]
		names[0] = first.Package + strings.TrimPrefix(names[0], path.Base(first.Package))
	}
	if len(names) > maxTrace {
		names = slices.Concat(names[:maxTrace-2], []string{"…"}, names[len(names)-1:])
	}
	return names
}

// apply sets the reachability of the findings for Go modules. If the analysis
// failed, it warns.
func (a analysis) apply(ctx context.Context, o scan.Options, found *findings, r *scan.Result) {
	if !a.done {
		return
	}
	unknown := 0
	mark := func(f *scan.Finding) {
		if !f.IsGo() {
			return
		}
		f.Reachability = scan.Unknown
		for _, id := range append([]string{f.ID}, f.Aliases...) {
			if got, ok := a.byID[id]; ok {
				f.Reachability, f.Trace = got.reachability, got.trace
				break
			}
		}
		if f.Reachability == scan.Unknown {
			unknown++
		}
	}
	for i := range found.findings {
		mark(&found.findings[i])
	}
	for i := range found.ignored {
		mark(&found.ignored[i].Finding)
	}
	if a.err == nil {
		return
	}
	consequence := ""
	if o.Settings.FailOn.ReachableOnly && unknown > 0 {
		consequence = "; with scan.failOn.reachableOnly they count as called"
	}
	r.Warn(ctx, "it is unknown which vulnerable functions are called: %s%s", oneLine(a.err), consequence)
}
