// Package compress packs binaries with UPX. It is off by default: layers are
// compressed in the registry and in transit anyway, and a packed program starts
// more slowly. Packing only saves disk space on the node.
//
// The package promises no compatibility to programs other than slipway.
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

// ErrRefused is wrapped by the error for a binary that UPX cannot pack.
var ErrRefused = errors.New("upx refused the binary")

// Options are the options of [Run].
type Options struct {
	Binaries []build.Binary
	Cache    cache.Dir
	RunDir   string // folder of this run, on the file system of the cache
}

// Packed is a packed binary.
type Packed struct {
	build.Binary
	Before int64 `json:"before"` // size of the unpacked binary in bytes
	reused bool  // an earlier run packed it
}

// Result is the result of [Run].
type Result struct {
	Program  string   `json:"program"` // "upx" and its version
	Binaries []Packed `json:"binaries"`
	Reused   bool     `json:"reused"` // an earlier run packed all of them
	Seconds  float64  `json:"seconds"`
}

// Run packs every binary with upx --best --lzma.
//
// It returns a [fault.Failed] error that wraps [ErrRefused] if upx cannot pack a
// binary, and a [fault.Input] error if upx is missing.
func Run(ctx context.Context, o Options) (Result, error) {
	start := time.Now()
	program, err := exec.LookPath("upx")
	if err != nil {
		return Result{}, fault.Inputf("program.missing", "upx is not installed").
			WithFix("on Debian, run apt-get install upx-ucl (from backports); or omit --upx")
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

// Version returns the version of the upx program. The bytes of a packed binary
// depend on it, so it is part of every cache key. Version returns a [fault.Input]
// error if the program is not upx.
func Version(ctx context.Context, program string) (string, error) {
	out, err := toolchain.Command(ctx, program, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("reading the version of upx: %w", err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return "", fault.Inputf("program.foreign", "%s is not upx: its --version output has no version", program)
	}
	return string(m[1]), nil
}

// pack packs one binary, or reuses the result of an earlier run for the same
// bytes, because packing thirty megabytes takes half a minute.
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
			return Packed{}, fmt.Errorf("moving the packed program into the cache: %w", err)
		}
		if err := p.measure(); err != nil {
			return Packed{}, fmt.Errorf("hashing the packed program: %w", err)
		}
		if err := o.Cache.Store(record{p.SHA256, p.Size}, "upx", slot+".json"); err != nil {
			return Packed{}, err
		}
	}
	cache.Touch(p.Path)
	return p, nil
}

// record identifies a packed program in the cache, so that a damaged one is not
// used.
type record struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// measure sets the size and the hash from the file.
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

// reason returns the explanation from the output of upx, which has the form
// "upx: FILE: NameOfException: text". The text may be missing.
func reason(output string) string {
	if m := exception.FindStringSubmatch(output); m != nil {
		return strings.TrimSpace(m[1])
	}
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return lines[len(lines)-1]
}
