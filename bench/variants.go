package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// variants is the result of one application in several kinds of images.
type variants struct {
	App    string    `json:"app"`
	Chroot bool      `json:"chroot"` // started in a chroot of the unpacked image, as the image's user
	Kinds  []variant `json:"kinds"`
}

// variant is the result of one kind of image.
type variant struct {
	Name    string       `json:"name"`
	Skipped string       `json:"skipped,omitempty"` // why it was not measured
	Image   *imageSize   `json:"image,omitempty"`
	Starts  []startTimes `json:"starts,omitempty"`
}

// startTimes is the measurement of one start of the program in an image.
type startTimes struct {
	Version float64 `json:"version_s"`      // seconds from exec until the program has printed its version and exited
	Healthy float64 `json:"healthy_s"`      // seconds from exec to the first successful health check
	Memory  int64   `json:"peak_rss_bytes"` // in bytes, up to the first successful health check
}

const startTimeout = 30 * time.Second

// measureVariants builds each kind of image with slipway, pulls it from the
// registry, unpacks it and measures how long its program takes to start.
func (b *bench) measureVariants(ctx context.Context, a app, built *site, registry, work string, static []file) error {
	if err := os.MkdirAll(work, 0o755); err != nil {
		return fmt.Errorf("creating a temporary directory: %w", err)
	}
	kinds, err := b.imageKinds(ctx, registry, static)
	if err != nil {
		return err
	}
	r := &variants{App: a.Name, Chroot: os.Geteuid() == 0}
	env := append(b.environ(), "HOME="+work, "TMPDIR="+work, "GOCACHE="+built.goCache, "SLIPWAY_CACHE="+filepath.Join(work, "cache"))
	var runs []program
	for i, k := range kinds {
		v := variant{Name: k.name, Skipped: k.skip}
		p := program{start: a.Start, chroot: r.Chroot, dir: filepath.Join(work, "root"+strconv.Itoa(i))}
		if k.skip == "" {
			b.log.Info("building a variant", "app", a.Name, "variant", k.name)
			command := publish(b.tools.Slipway, built.tree.dir, a.Main, registry+"/"+a.Name+"/variant"+strconv.Itoa(i), k.flags...)
			stdout, err := output(ctx, built.tree.dir, env, command[0], command[1:]...)
			if err != nil {
				return err
			}
			reference, err := slipwayReference(stdout)
			if err != nil {
				return err
			}
			if v.Image, err = weigh(ctx, reference); err != nil {
				return err
			}
			if p.entry, err = unpack(ctx, reference, p.dir); err != nil {
				return err
			}
		}
		r.Kinds, runs = append(r.Kinds, v), append(runs, p)
	}
	if err := b.measureStarts(ctx, r, runs); err != nil {
		return err
	}
	b.results.Variants = r
	return nil
}

// imageKind is a kind of image and the flags with which slipway builds it.
type imageKind struct {
	name  string
	skip  string // why the kind cannot be built, or empty
	flags []string
}

// imageKinds returns all kinds of images. It pushes the base images that some of
// them need.
func (b *bench) imageKinds(ctx context.Context, registry string, static []file) ([]imageKind, error) {
	distroless, err := pushBase(ctx, registry+"/bases/distroless-like", static)
	if err != nil {
		return nil, err
	}
	var alpine, noAlpine, noUPX string
	shell, err := shellFiles(b.busybox)
	switch {
	case errors.Is(err, os.ErrNotExist):
		noAlpine = "a statically linked busybox is not installed"
	case err != nil:
		return nil, err
	default:
		if alpine, err = pushBase(ctx, registry+"/bases/alpine-like", append(shell, accountFiles()...)); err != nil {
			return nil, err
		}
	}
	if b.tools.UPXVersion == "" {
		noUPX = "upx is not installed"
	}
	return []imageKind{
		{"scratch", "", nil},
		{"scratch, zstd", "", []string{"--compression", "zstd"}},
		{"distroless-like", "", []string{"--base", distroless}},
		{"alpine-like", noAlpine, []string{"--base", alpine}},
		{"scratch, UPX", noUPX, []string{"--upx"}},
	}, nil
}

// measureStarts starts the program of each variant in turn. The first round is
// not measured, because it reads the files from disk into memory.
func (b *bench) measureStarts(ctx context.Context, r *variants, runs []program) error {
	for round := range b.starts + 1 {
		for i, p := range runs {
			if r.Kinds[i].Skipped != "" {
				continue
			}
			times, err := p.measure(ctx)
			if err != nil {
				return fmt.Errorf("starting %s: %w", r.Kinds[i].Name, err)
			}
			if round > 0 {
				r.Kinds[i].Starts = append(r.Kinds[i].Starts, times)
			}
		}
	}
	return nil
}

// program is the program in an unpacked image.
type program struct {
	*start
	dir    string
	entry  string
	chroot bool
}

// command returns a command that runs the program.
func (p program) command(ctx context.Context, env []string, args ...string) *exec.Cmd {
	path := p.entry
	if !p.chroot {
		path = filepath.Join(p.dir, p.entry)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir = env, p.dir
	if p.chroot {
		const nobody = 65534
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.dir, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	return cmd
}

// measure measures how long the program takes to print its version and to become
// healthy.
func (p program) measure(ctx context.Context) (startTimes, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	var times startTimes
	cmd := p.command(ctx, []string{}, p.Version...)
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return times, fmt.Errorf("running it to print its version: %w", err)
	}
	times.Version = time.Since(begin).Seconds()

	ports, err := freePorts(ctx, 2)
	if err != nil {
		return times, err
	}
	cmd = p.command(ctx, p.Env(ports[0], ports[1]), p.Args...)
	begin = time.Now()
	if err := cmd.Start(); err != nil {
		return times, fmt.Errorf("starting it: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	err = awaitHealthy(ctx, "http://127.0.0.1:"+ports[0]+p.Health, exited)
	times.Healthy = time.Since(begin).Seconds()
	if err != nil {
		return times, err
	}
	// The peak in /proc, unlike the one in the resource usage, does not include
	// the memory of the parent.
	peak, err := field(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid), "VmHWM")
	cancel()
	err = errors.Join(err, killed(<-exited))
	if err != nil {
		return times, err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(peak, " kB"), 10, 64)
	if err != nil {
		return times, fmt.Errorf("reading its memory: %w", err)
	}
	times.Memory = kib << 10
	return times, nil
}

// killed returns nil if err says that a signal terminated a process, and otherwise
// err.
func killed(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && !exit.Exited() {
		return nil
	}
	return err
}

// awaitHealthy sends a request every half millisecond until the response has status
// 200.
func awaitHealthy(ctx context.Context, url string, exited <-chan error) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(time.Millisecond / 2)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return fmt.Errorf("checking its health: %w", err)
		}
		if resp, err := client.Do(req); err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-exited:
			return fmt.Errorf("it exited before it was healthy: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("waiting until it is healthy: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

// freePorts returns n ports of 127.0.0.1 on which nothing listens.
func freePorts(ctx context.Context, n int) ([]string, error) {
	ports := make([]string, n)
	for i := range ports {
		var listen net.ListenConfig
		ln, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
		defer ln.Close()
		if _, ports[i], err = net.SplitHostPort(ln.Addr().String()); err != nil {
			return nil, fmt.Errorf("finding a free port: %w", err)
		}
	}
	return ports, nil
}
