// Package compress packs binaries with UPX. It is off by default: an image is
// compressed anyway on its way and in the registry, and a packed program
// starts more slowly; what it saves is space on the node.
package compress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/build"
	"github.com/slipway-ci/slipway/pipeline/cache"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// ErrRefused is in the chain of the error for a binary that UPX cannot pack.
var ErrRefused = errors.New("upx refused the binary")

// Options says what to pack.
type Options struct {
	Binaries []build.Binary
	Cache    cache.Dir
	RunDir   string // folder of this run on the cache's file system
}

// Packed is a binary after packing.
type Packed struct {
	build.Binary
	Before int64 `json:"before"` // size of the plain binary in bytes
	reused bool
}

// Result is what was packed.
type Result struct {
	Program  string   `json:"program"` // version of upx
	Binaries []Packed `json:"binaries"`
	Reused   bool     `json:"reused"` // an earlier run packed all of them
	Seconds  float64  `json:"seconds"`
}

// Run packs every binary with upx --best --lzma. A binary that upx refuses is
// a [fault.Failed] error around [ErrRefused]; a missing upx is a
// [fault.Input] error.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	program, err := exec.LookPath("upx")
	if err != nil {
		return Result{}, fault.Inputf("program.missing", "upx is not installed").
			WithFix("on Debian: apt-get install upx-ucl (from backports); or leave out --upx")
	}
	version, err := Version(ctx, program)
	if err != nil {
		return Result{}, err
	}
	r := Result{Program: "upx " + version, Binaries: make([]Packed, len(o.Binaries))}
	g, gctx := errgroup.WithContext(ctx)
	for i, b := range o.Binaries {
		g.Go(func() (err error) {
			r.Binaries[i], err = pack(gctx, o, program, version, b)
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
	r.Reused = !slices.ContainsFunc(r.Binaries, func(p Packed) bool { return !p.reused })
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

var versionLine = regexp.MustCompile(`(?m)^upx ([0-9][0-9.]*)`)

// Version asks upx for its version. It is part of what makes a packed image
// reproducible, so it is part of every cache key.
func Version(ctx context.Context, program string) (string, error) {
	out, err := toolchain.Command(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("asking upx for its version: %w", err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", fault.Inputf("program.foreign", "%s does not say which version of upx it is", program)
	}
	return string(m[1]), nil
}

// pack packs one binary, or takes what an earlier run made of the same bytes:
// packing thirty megabytes takes half a minute.
func pack(ctx context.Context, o Options, program, version string, b build.Binary) (Packed, error) {
	key := sha256.Sum256([]byte("upx\x00" + version + "\x00--best --lzma\x00" + b.SHA256))
	slot := hex.EncodeToString(key[:])
	unlock, err := o.Cache.Lock(ctx, "upx", slot+".lock")
	if err != nil {
		return Packed{}, err
	}
	defer unlock()
	p := Packed{Binary: b, Before: b.Size, reused: true}
	p.Path = o.Cache.Path("upx", slot)
	var known record
	if !o.Cache.Load(&known, "upx", slot+".json") || p.measure() != nil || known != (record{p.SHA256, p.Size}) {
		p.reused = false
		progress.Statusf(ctx, "packing %s", b.Platform)
		tmp := filepath.Join(o.RunDir, "upx-"+slot[:16])
		var output bytes.Buffer
		cmd := toolchain.Command(ctx, program, "--best", "--lzma", "--no-progress", "-q", "-o", tmp, b.Path)
		cmd.Stdout, cmd.Stderr = &output, &output
		err := toolchain.Run(cmd)
		if err == nil {
			check := toolchain.Command(ctx, program, "-t", "-q", "--no-progress", tmp)
			check.Stdout, check.Stderr = &output, &output
			err = toolchain.Run(check)
		}
		if ctx.Err() != nil {
			return Packed{}, ctx.Err()
		}
		if err != nil {
			if _, ran := toolchain.ExitStatus(err); !ran {
				return Packed{}, fmt.Errorf("running upx: %w", err)
			}
			return Packed{}, fault.Failedf("compress.refused", "packing the program for %s: %w: %s", b.Platform, ErrRefused, reason(output.String())).
				WithFix("build this platform without --upx")
		}
		if err := os.Rename(tmp, p.Path); err != nil {
			return Packed{}, fmt.Errorf("keeping the packed program: %w", err)
		}
		if err := p.measure(); err != nil {
			return Packed{}, fmt.Errorf("reading the packed program: %w", err)
		}
		if err := o.Cache.Store(record{p.SHA256, p.Size}, "upx", slot+".json"); err != nil {
			return Packed{}, err
		}
	}
	cache.Touch(p.Path)
	return p, nil
}

// record is what a packed program in the cache is known by. One that was
// damaged on disk must not become an image.
type record struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// measure reads the packed program.
func (p *Packed) measure() error {
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if p.Size, err = io.Copy(h, f); err != nil {
		return err
	}
	p.SHA256 = hex.EncodeToString(h.Sum(nil))
	return nil
}

var exception = regexp.MustCompile(`(?m)^upx: .*?(\w+Exception(?:: .*)?)$`)

// reason is upx's own explanation: "upx: FILE: NameOfException: text", where
// the text may be missing.
func reason(output string) string {
	if m := exception.FindStringSubmatch(output); m != nil {
		return strings.TrimSpace(m[1])
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}
