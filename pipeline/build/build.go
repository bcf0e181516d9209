// Package build compiles the app for every platform, with nothing of this
// machine in the result: the same commit and toolchain give the same bytes.
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
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/template"
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

// Options says what to compile and how.
type Options struct {
	Source   source.Source
	Go       *toolchain.Go
	Settings config.App
	Cache    cache.Dir
	RunDir   string // folder of this run on the cache's file system; holds the binaries
}

// Binary is the program for one platform.
type Binary struct {
	Platform v1.Platform `json:"platform"`
	Path     string      `json:"-"`
	Size     int64       `json:"size"`
	SHA256   string      `json:"sha256"` // hex
}

// Result is what was built.
type Result struct {
	Toolchain string   `json:"toolchain"` // Go version
	Binaries  []Binary `json:"binaries"`  // in the order of Options.Settings.Platforms
	Relinked  bool     `json:"relinked"`  // false: every binary was up to date
	Seconds   float64  `json:"seconds"`
}

// Run compiles the app for all platforms side by side. Compiler errors come
// back as one [fault.Failed] error after they were passed on as output; the
// binaries of a failed run are not returned.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	overlay, err := writeOverlay(o)
	if err != nil {
		return Result{}, err
	}
	ldflags, err := linkerFlags(o)
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
			c := compiler{Options: o, platform: p, overlay: overlay, ldflags: ldflags}
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

// writeOverlay hides the excluded files from the go command: in an overlay a
// file without a replacement does not exist
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
		return "", fmt.Errorf("hiding the excluded files: %w", err)
	}
	path := filepath.Join(o.RunDir, "overlay.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return "", fmt.Errorf("hiding the excluded files: %w", err)
	}
	return path, nil
}

func linkerFlags(o Options) (string, error) {
	stamp := struct{ Version, Commit, Date string }{
		o.Source.Version, o.Source.Revision, o.Source.Time.Format(time.RFC3339),
	}
	flags := []string{
		"-s", "-w",
		"-X", "main.version=" + stamp.Version,
		"-X", "main.commit=" + stamp.Commit,
		"-X", "main.date=" + stamp.Date,
	}
	if o.Settings.CGO {
		flags = append(flags, "-linkmode", "external", "-extldflags", "'-static'")
	}
	for _, text := range o.Settings.LDFlags {
		t, err := template.New("ldflags").Option("missingkey=error").Parse(text)
		if err != nil {
			return "", fault.Inputf("build.ldflags", "app.ldflags: %w", err)
		}
		var b strings.Builder
		if err := t.Execute(&b, stamp); err != nil {
			return "", fault.Inputf("build.ldflags", "app.ldflags: %w", err)
		}
		flags = append(flags, b.String())
	}
	return strings.Join(flags, " "), nil
}

type compiler struct {
	Options
	platform v1.Platform
	overlay  string
	ldflags  string
}

// compile leaves the linked program in a folder that outlives the run, because
// the go command does not link again what is up to date there: that is the
// difference between a tenth of a second and two. A hard link of it belongs to
// this run, so that another run cannot change it under our feet.
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
	tmp, err := os.MkdirTemp(c.RunDir, "go-")
	if err != nil {
		return Binary{}, false, fmt.Errorf("making a folder for the go command: %w", err)
	}
	out := c.Cache.Path(slot, c.Source.Name)
	before, _ := os.Stat(out) // absent the first time
	args := []string{"build", "-v", "-trimpath", "-buildvcs=false", "-o", out, "-ldflags", c.ldflags}
	if c.overlay != "" {
		args = append(args, "-overlay", c.overlay)
	}
	tags := slices.Clone(c.Settings.Tags)
	if c.Settings.CGO {
		tags = append(tags, "netgo", "osusergo") // glibc's resolver does not exist in a static program
	}
	if len(tags) > 0 {
		args = append(args, "-tags", strings.Join(tags, ","))
	}
	args = append(args, c.Source.Main)
	cmd := toolchain.Command(ctx, c.Go.Program, args...)
	cmd.Dir = c.Source.Dir
	env = append(env, "GOTMPDIR="+tmp)
	cmd.Env = env
	log := &compilerLog{ctx: ctx, platform: c.platform.String()}
	cmd.Stdout, cmd.Stderr = log, log
	progress.Statusf(ctx, "compiling %s", c.platform)
	if err := toolchain.Run(cmd); err != nil {
		return Binary{}, false, c.explain(ctx, err, log.text())
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
	if err := own(out, b.Path); err != nil {
		return Binary{}, false, fmt.Errorf("keeping the program for %s: %w", c.platform, err)
	}
	if b.SHA256, err = c.sum(slot, b.Path, after); err != nil {
		return Binary{}, false, fmt.Errorf("reading the program for %s: %w", c.platform, err)
	}
	return b, before == nil || !os.SameFile(before, after), nil
}

// own gives this run its own name for a file.
func own(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return duplicate(from, to) // a file system without hard links
	}
	return nil
}

// summed remembers the hash of the program in a slot. The go command never
// writes into a program that is there, it puts a new file in its place.
type summed struct {
	Inode  uint64
	Size   int64
	Time   int64
	SHA256 string
}

func (c *compiler) sum(slot, path string, fi os.FileInfo) (string, error) {
	now := summed{Size: fi.Size(), Time: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		now.Inode = st.Ino
	}
	var before summed
	if c.Cache.Load(&before, slot, "sum.json") {
		now.SHA256 = before.SHA256
		if now == before && now.Inode != 0 {
			return before.SHA256, nil
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	now.SHA256 = hex.EncodeToString(h.Sum(nil))
	return now.SHA256, c.Cache.Store(now, slot, "sum.json")
}

func duplicate(from, to string) (err error) {
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
				WithFix("name it in slipway.yaml under app.cc: {%s: ...}, or build with --platforms linux/%s", c.platform, runtime.GOARCH)
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

// explain turns a failed go build into an error; the compiler's own words go
// to the progress, one line each.
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
	return fault.Failedf("build.failed", "go build for %s ended with status %d: %s", c.platform, status, firstError(lines))
}

// firstError is the first line that is not a package's heading.
func firstError(lines []string) string {
	for _, line := range lines {
		if !strings.HasPrefix(line, "#") {
			return line
		}
	}
	return "no output"
}

// compilerLog splits what go build -v says into progress, the packages and
// downloads, and the messages worth keeping.
type compilerLog struct {
	ctx      context.Context
	platform string
	partial  []byte
	lines    []string
	packages int
}

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
	case !strings.ContainsAny(s, " \t:"): // an import path has none of these
		l.packages++
		progress.Statusf(l.ctx, "compiling %s: %d packages", l.platform, l.packages)
	default:
		l.lines = append(l.lines, s)
	}
}

func (l *compilerLog) text() []string {
	if len(l.partial) > 0 {
		l.line(string(l.partial))
		l.partial = nil
	}
	return l.lines
}
