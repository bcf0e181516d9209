// Package build compiles the app for every platform. The result does not depend on
// this machine: the same commit and toolchain give the same bytes.
//
// The package promises no compatibility to programs other than slipway.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/config"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/source"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Options are the options of [Run].
type Options struct {
	Source   source.Source
	Go       *toolchain.Go
	Settings config.App
	Cache    cache.Dir
	RunDir   string // folder of this run, on the file system of the cache; the binaries are in it
}

// Binary is the compiled program for one platform.
type Binary struct {
	Platform v1.Platform `json:"platform"`
	Path     string      `json:"-"`
	Size     int64       `json:"size"`   // bytes
	SHA256   string      `json:"sha256"` // hex
}

// Result is the result of [Run].
type Result struct {
	Toolchain string   `json:"toolchain"` // Go version
	Binaries  []Binary `json:"binaries"`  // in the order of Options.Settings.Platforms
	Relinked  bool     `json:"relinked"`  // whether any binary was linked; false if all were up to date
	Seconds   float64  `json:"seconds"`
}

// Run compiles the app for all platforms at the same time. It returns no binaries
// if one platform fails.
//
// If the compiler fails, Run reports the compiler's output as progress and
// returns a [fault.Failed] error with its first message. It returns [fault.Input]
// errors for malformed linker flags and for a missing C compiler.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	overlay, err := writeOverlay(o)
	if err != nil {
		return Result{}, err
	}
	configured, err := configuredFlags(o)
	if err != nil {
		return Result{}, err
	}
	platforms, err := config.ParsePlatforms(o.Settings.Platforms)
	if err != nil {
		return Result{}, err
	}
	r := Result{Toolchain: o.Go.Version, Binaries: make([]Binary, len(platforms))}
	relinked := make([]bool, len(platforms))
	g, gctx := errgroup.WithContext(ctx)
	for i, p := range platforms {
		g.Go(func() error {
			c := compiler{Options: o, platform: p, overlay: overlay, configured: configured}
			var err error
			r.Binaries[i], relinked[i], err = c.compile(gctx)
			return err
		})
	}
	err = g.Wait()
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if err != nil {
		return Result{}, err
	}
	r.Relinked = slices.Contains(relinked, true)
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

// writeOverlay writes an overlay file that hides the excluded files from the go
// command, and returns its path, or "" if no files are excluded. To the go
// command, a file that an overlay maps to "" does not exist
// (https://pkg.go.dev/cmd/go#hdr-Compile_packages_and_dependencies, -overlay).
func writeOverlay(o Options) (string, error) {
	if len(o.Source.Excluded) == 0 {
		return "", nil
	}
	replace := make(map[string]string, len(o.Source.Excluded))
	for _, file := range o.Source.Excluded {
		replace[file] = ""
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", fmt.Errorf("encoding the overlay that hides excluded files: %w", err)
	}
	path := filepath.Join(o.RunDir, "overlay.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return "", fmt.Errorf("writing the overlay that hides excluded files: %w", err)
	}
	return path, nil
}

// compiler compiles the app for one platform.
type compiler struct {
	Options
	platform v1.Platform
	overlay  string
	// configured holds the flags of app.ldflags.
	configured []string
}

// compile compiles the program and reports whether it was linked.
//
// The program is written to a folder of the cache that is kept after the run,
// because the go command does not link a program again that is up to date there,
// which saves about two seconds. The run gets a hard link to the program, so that
// another run cannot replace it in the meantime.
func (c *compiler) compile(ctx context.Context) (Binary, bool, error) {
	key := sha256.Sum256([]byte(strings.Join([]string{c.Source.Dir, c.Source.Main, c.platform.String(), strconv.FormatBool(c.Settings.CGO)}, "\x00")))
	slot := filepath.Join("build", hex.EncodeToString(key[:16]))
	unlock, err := c.Cache.Lock(ctx, slot, "lock")
	if err != nil {
		return Binary{}, false, err
	}
	defer unlock()
	env, err := c.environ()
	if err != nil {
		return Binary{}, false, err
	}
	out := c.Cache.Path(slot, c.Source.Name)
	sum, err := c.kept(slot, out)
	if err != nil {
		return Binary{}, false, fmt.Errorf("checking the program for %s of an earlier run: %w", c.platform, err)
	}
	before, _ := os.Stat(out) // fails if the program has not been built before
	if err := c.build(ctx, env, out); err != nil {
		return Binary{}, false, err
	}
	after, err := os.Stat(out)
	if err != nil {
		return Binary{}, false, fmt.Errorf("reading the program for %s: %w", c.platform, err)
	}
	b := Binary{
		Platform: c.platform,
		Path:     filepath.Join(c.RunDir, strings.ReplaceAll(c.platform.String(), "/", "_")),
		Size:     after.Size(),
	}
	if err := linkOrCopy(out, b.Path); err != nil {
		return Binary{}, false, fmt.Errorf("linking the program for %s into the folder of the run: %w", c.platform, err)
	}
	linked := before == nil || !os.SameFile(before, after)
	if linked { // the go command replaces a program by a new file
		if sum, err = cache.HashFile(b.Path); err == nil {
			err = c.Cache.Store(sum, slot, sumFile)
		}
		if err != nil {
			return Binary{}, false, fmt.Errorf("hashing the program for %s: %w", c.platform, err)
		}
	}
	b.SHA256 = sum
	return b, linked, nil
}

// linkOrCopy creates a hard link to a file, or a copy if that fails.
func linkOrCopy(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return copyProgram(from, to) // the file system has no hard links
	}
	return nil
}

// sumFile is the entry of a slot with the SHA-256 of the program that is kept there.
const sumFile = "sum.json"

// kept returns the hash of the program that an earlier run has left at path, or "" if there
// is none. A program that is not what that run left is removed: the go command would
// believe that it is up to date because of an identifier in the program itself.
func (c *compiler) kept(slot, path string) (string, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var before, now string
	if c.Cache.Load(&before, slot, sumFile) && fi.Mode().IsRegular() {
		if now, err = cache.HashFile(path); err != nil {
			return "", err
		}
	}
	if now == "" || now != before {
		return "", os.RemoveAll(path)
	}
	return now, nil
}

// copyProgram copies an executable file.
func copyProgram(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}

// environ returns the environment of the go command.
func (c *compiler) environ() ([]string, error) {
	env := c.Go.Env("GOOS="+c.platform.OS, "GOARCH="+c.platform.Architecture)
	if v := c.platform.Variant; v != "" {
		switch c.platform.Architecture {
		case "amd64":
			env = append(env, "GOAMD64="+v)
		case "arm":
			env = append(env, "GOARM="+strings.TrimPrefix(v, "v"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Settings.Env)) {
		env = append(env, name+"="+c.Settings.Env[name])
	}
	if !c.Settings.CGO {
		return append(env, "CGO_ENABLED=0"), nil
	}
	cc := c.Settings.CC[c.platform.String()]
	if cc == "" {
		if c.platform.Architecture != runtime.GOARCH {
			return nil, fault.Inputf("build.no-cross-compiler", "a cgo build for %s needs a musl cross compiler", c.platform).
				WithFix("set it in slipway.yaml as app.cc: {%s: ...}, or build with --platforms linux/%s", c.platform, runtime.GOARCH)
		}
		cc = "musl-gcc"
	}
	program, _, _ := strings.Cut(cc, " ")
	if _, err := exec.LookPath(program); err != nil {
		return nil, fault.Inputf("program.missing", "%s, the C compiler for %s, is not installed", program, c.platform).
			WithFix("on Debian: apt-get install musl-tools; on Alpine: apk add musl-dev gcc")
	}
	return append(env, "CGO_ENABLED=1", "CC="+cc), nil
}

// explain returns the error for a failed go build and reports the compiler's
// output as progress, line by line.
func (c *compiler) explain(ctx context.Context, err error, lines []string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	status, ran := toolchain.ExitStatus(err)
	if !ran {
		return fmt.Errorf("running go build for %s: %w", c.platform, err)
	}
	for _, line := range lines {
		progress.Line(ctx, line)
	}
	e := fault.Failedf("build.failed", "go build for %s failed with exit status %d: %s", c.platform, status, firstError(lines))
	if excluded := c.excluded(lines); len(excluded) > 0 {
		return e.WithFix("%s", excludedFix(excluded))
	}
	return e
}

// firstError returns the first line that is not a heading with the name of a
// package.
func firstError(lines []string) string {
	for _, line := range lines {
		if !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return "no output"
}

// compilerLog is a writer for the output of go build -v. It reports packages and
// downloads as progress and keeps all other lines.
type compilerLog struct {
	ctx      context.Context
	platform string
	partial  []byte   // last line, as long as it is not complete
	lines    []string // lines that are kept
	packages int
}

// Write handles every line that p completes.
func (l *compilerLog) Write(p []byte) (int, error) {
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.line(string(l.partial[:i]))
		l.partial = l.partial[i+1:]
	}
}

func (l *compilerLog) line(s string) {
	switch module, downloading := strings.CutPrefix(s, "go: downloading "); {
	case s == "":
	case downloading:
		progress.Statusf(l.ctx, "downloading %s", module)
	case !strings.ContainsAny(s, " \t:"): // a line without these characters is an import path
		l.packages++
		progress.Statusf(l.ctx, "compiling %s: %d packages", l.platform, l.packages)
	default:
		l.lines = append(l.lines, s)
	}
}

// text returns the lines that were kept.
func (l *compilerLog) text() []string {
	if len(l.partial) > 0 {
		l.line(string(l.partial))
		l.partial = nil
	}
	return l.lines
}
