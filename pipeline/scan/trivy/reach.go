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

// probeTime is how long the Go vulnerability database may take to answer at all.
const probeTime = 10 * time.Second

// answers is what govulncheck says of each vulnerability, by every name it has.
type answers struct {
	asked bool
	err   error
	byID  map[string]answer
}

type answer struct {
	reachability scan.Reachability
	trace        []string
}

// reach finds out which vulnerable functions the program calls, with
// govulncheck's library. It never fails the scan: what is not known stays so.
//
// A vulnerability is called when a call path to one of its functions exists,
// and not called when its functions are known and none does. When only its
// module or package is known, or the database does not have it, it is unknown.
func reach(ctx context.Context, o scan.Options, database installed) answers {
	a := answers{asked: true, byID: map[string]answer{}}
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

// goDatabase settles which Go vulnerability database to ask, and that it can be.
func goDatabase(ctx context.Context, o scan.Options, database installed) (url string, clean func(), err error) {
	none := func() {}
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
			return "", none, err
		}
		run, err := o.Cache.Run()
		if err != nil {
			return "", none, err
		}
		clean := func() { _ = run.Close() } // the next run sweeps it
		if err := WriteGoDatabase(run.Dir, a); err != nil {
			clean()
			return "", none, err
		}
		return "file://" + filepath.ToSlash(run.Dir), clean, nil
	}
	if !strings.Contains(source, "://") {
		dir := source
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(o.Root, dir)
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return "", none, err
		}
		if _, err := os.Stat(filepath.Join(dir, "index", "modules.json")); err != nil {
			return "", none, fmt.Errorf("%s is not a Go vulnerability database: %w", source, err)
		}
		return "file://" + filepath.ToSlash(dir), none, nil
	}
	if strings.HasPrefix(source, "file://") {
		return source, none, nil
	}
	if o.Settings.Offline {
		return "", none, fmt.Errorf("offline, the Go vulnerability database %s is not asked", source)
	}
	return source, none, probe(ctx, source)
}

// probe asks for the smallest file, because govulncheck asks only after it has
// loaded the whole program.
func probe(ctx context.Context, source string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, strings.TrimRight(source, "/")+"/index/db.json.gz", http.NoBody)
	if err != nil {
		return fmt.Errorf("the Go vulnerability database %s: %w", source, err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the Go vulnerability database %s cannot be reached: %w", source, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the Go vulnerability database %s answers %s", source, resp.Status)
	}
	return nil
}

// govulncheck runs the analysis in this process. It cannot be interrupted while
// it loads the program; when ctx ends it is left to end by itself.
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
		// It starts the go command on PATH, which finds this toolchain by its name.
		cmd.Env = r.Go.Env("GOROOT=", "GOTOOLCHAIN="+r.Go.Version, "GOVERSION="+r.Go.Version)
	}
	// Without GOFLAGS=-mod=mod and the like: go.mod must not be changed by a scan.
	cmd.Env = append(append(cmd.Env, r.Env...), "GOPACKAGESDRIVER=off", "GOTELEMETRY=off")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("analysing calls: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case err := <-done:
		if err != nil {
			return nil, fmt.Errorf("analysing calls: %s", firstLine(stderr.String(), err))
		}
		return stdout.Bytes(), nil
	}
}

func firstLine(text string, err error) string {
	text = strings.TrimSpace(err.Error() + "\n" + text)
	lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
	return strings.TrimSpace(strings.Join(lines[:min(len(lines), 3)], " "))
}

// The parts of govulncheck's output (https://pkg.go.dev/golang.org/x/vuln/internal/govulncheck) that matter here.
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

// read takes in govulncheck's answer.
func (a *answers) read(out []byte) error {
	entries := map[string]*vulnEntry{}
	found := map[string][]vulnFinding{}
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var m vulnMessage
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("reading the analysis of calls: %w", err)
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
			continue // not at the version that the source has: nothing is known
		}
		got := answer{reachability: scan.Unknown}
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

// maxTrace is how many functions of a call path are shown: its ends matter.
const maxTrace = 5

// path is the call path from the program's own function to the vulnerable one.
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

// apply writes the answers to the findings on Go modules.
func (a answers) apply(ctx context.Context, o scan.Options, found *findings, r *scan.Result) {
	if !a.asked {
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
		consequence = "; as that is not known, they count as called"
	}
	r.Warn(ctx, "which vulnerable functions are called is unknown: %s%s", oneLine(a.err), consequence)
}
