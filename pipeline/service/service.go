// Package service starts the Postgres and Redis that an app's tests talk to,
// from the programs installed on this machine, and leaves nothing behind: not
// when the tests fail, not when the run is cancelled and not when slipway itself
// is killed.
//
// In a Dagger module or a CI job the two usually stand beside the tests already;
// their addresses are then in the environment and nothing is started.
package service

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Kind names a service.
type Kind string

// The kinds there are.
const (
	Postgres Kind = "postgres" // gives DATABASE_URL: user test, who is superuser and owns testdb
	Redis    Kind = "redis"    // gives REDIS_URL: database 0, with a password
)

// Kinds returns every kind there is, in order.
func Kinds() []Kind { return []Kind{Postgres, Redis} }

// Variable returns the name of the environment variable in which tests find
// the service.
func (k Kind) Variable() string {
	switch k {
	case Postgres:
		return "DATABASE_URL"
	case Redis:
		return "REDIS_URL"
	}
	return ""
}

// answerWithin bounds how long a started server may take until it answers. A
// cold machine under full load needs a few seconds.
const answerWithin = time.Minute

// attempts bounds how often a server is started anew because somebody else took
// the port between our choosing it and the server's binding it.
const attempts = 5

// Options say what to start.
type Options struct {
	Kinds []Kind // what to start; duplicates are ignored
	// Dir is the parent of the servers' data directories; default [os.TempDir].
	// When slipway runs as root the servers run as another user, who must be
	// able to pass through Dir; where that is not so, /tmp takes its place.
	Dir string
	// Lookup reads the environment; default [os.LookupEnv]. A service whose
	// variable is set there and not empty is used as it is.
	Lookup func(name string) (value string, ok bool)
}

// Set is what was started and what was found.
type Set struct {
	env     []string
	servers []*server
	home    *home
	unhook  func() bool
	once    sync.Once
}

// Start starts the services side by side and returns when each has answered a
// query with the credentials it will be used with.
//
// They stop when ctx ends, on [Set.Stop], and when the calling process dies. A
// service that the environment names already is not started.
//
// It returns a [fault.Input] error for an unknown kind or a program that is not
// installed.
func Start(ctx context.Context, o Options) (_ *Set, err error) {
	if o.Lookup == nil {
		o.Lookup = os.LookupEnv
	}
	s := &Set{}
	wanted, err := s.choose(ctx, o)
	if err != nil || len(wanted) == 0 {
		return s, err
	}
	plans, err := prepareAll(wanted)
	if err != nil {
		return nil, err
	}
	acc, err := unprivileged()
	if err != nil {
		return nil, err
	}
	if s.home, err = newHome(o.Dir, acc); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()
	if err := s.startAll(ctx, plans, acc); err != nil {
		return nil, err
	}
	s.unhook = context.AfterFunc(ctx, s.stop)
	return s, nil
}

// choose returns the kinds that must be started. A service that the environment
// names is added to the set as it is.
func (s *Set) choose(ctx context.Context, o Options) ([]Kind, error) {
	var wanted []Kind
	for _, kind := range o.Kinds {
		variable := kind.Variable()
		if variable == "" {
			return nil, fault.Inputf("service.unknown", "there is no service %q", kind).
				WithFix("use one of: %s", join(Kinds()))
		}
		if slices.Contains(wanted, kind) {
			continue
		}
		if value, ok := o.Lookup(variable); ok && value != "" {
			progress.Statusf(ctx, "using the %s in %s", kind, variable)
			if entry := variable + "=" + value; !slices.Contains(s.env, entry) {
				s.env = append(s.env, entry)
			}
			continue
		}
		wanted = append(wanted, kind)
	}
	return wanted, nil
}

// prepareAll finds the programs of all kinds. Its error names every missing
// program, so that they can be installed at once.
func prepareAll(kinds []Kind) ([]plan, error) {
	plans := make([]plan, len(kinds))
	var missing []error
	for i, kind := range kinds {
		var err error
		if plans[i], err = prepare(kind); err != nil {
			missing = append(missing, err)
		}
	}
	return plans, errors.Join(missing...)
}

// startAll starts the servers at the same time. Those that started are part of
// the set even if another one failed.
func (s *Set) startAll(ctx context.Context, plans []plan, acc *account) error {
	// The servers outlive the group's context, which ends when startAll returns.
	group, gctx := errgroup.WithContext(ctx)
	servers := make([]*server, len(plans))
	env := make([]string, len(plans))
	for i, p := range plans {
		group.Go(func() error {
			progress.Statusf(ctx, "starting %s", p.kind())
			srv, url, err := startServer(gctx, p, s.home, acc)
			servers[i], env[i] = srv, p.kind().Variable()+"="+url
			if err != nil {
				if ctx.Err() != nil {
					err = ctx.Err()
				}
				return fmt.Errorf("starting %s: %w", p.kind(), err)
			}
			return nil
		})
	}
	err := group.Wait()
	for _, srv := range servers {
		if srv != nil {
			s.servers = append(s.servers, srv)
		}
	}
	if err != nil {
		return err
	}
	s.env = append(s.env, env...)
	return nil
}

// Env returns the services' addresses in the form NAME=value. They hold
// passwords: hand them to the tests, do not print them.
func (s *Set) Env() []string { return slices.Clone(s.env) }

// Stop ends the servers that Start started and removes their data. It returns
// when they are gone, and may be called more than once and from several
// goroutines.
func (s *Set) Stop() {
	s.stop()
	if s.unhook != nil {
		s.unhook()
	}
}

func (s *Set) stop() {
	s.once.Do(func() {
		var wg sync.WaitGroup
		for _, srv := range s.servers {
			wg.Go(srv.stop)
		}
		wg.Wait()
		if s.home != nil {
			s.home.remove()
		}
	})
}

// plan is how one kind of service is set up and started.
type plan interface {
	kind() Kind
	// setUp fills an empty directory that belongs to acc.
	setUp(ctx context.Context, dir, password string, acc *account) error
	// command returns the server listening on the loopback port.
	command(dir string, port int, password string) launch
	// ready asks the server a question and returns nil when it answers.
	ready(ctx context.Context, port int, password string) error
	// url is the address that tests use.
	url(port int, password string) string
}

// prepare finds the programs of a kind.
func prepare(kind Kind) (plan, error) {
	if kind == Postgres {
		return findPostgres()
	}
	return findRedis()
}

// startServer starts one server on a free loopback port. The returned server is
// not nil when it must be stopped, also beside an error.
func startServer(ctx context.Context, p plan, h *home, acc *account) (*server, string, error) {
	password := secret()
	dir, err := h.folder(string(p.kind()), acc)
	if err != nil {
		return nil, "", err
	}
	if err := p.setUp(ctx, dir, password, acc); err != nil {
		return nil, "", err
	}
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return nil, "", err
		}
		srv, err := p.command(dir, port, password).start(acc)
		if err != nil {
			return nil, "", err
		}
		err = srv.await(ctx, func(ctx context.Context) error { return p.ready(ctx, port, password) })
		switch {
		case err == nil:
			return srv, p.url(port, password), nil
		case ctx.Err() == nil && srv.portTaken() && try < attempts:
			srv.stop()
		default:
			return srv, "", err
		}
	}
}

// secret returns a password of 128 random bits, in characters that need no
// escaping in a URL, a configuration file or SQL.
func secret() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: https://pkg.go.dev/crypto/rand#Read
	return hex.EncodeToString(b[:])
}

func join(kinds []Kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// missing is the error for a program that is not installed.
func missing(program, pkg, variable string) error {
	return fault.Inputf("program.missing", "%s is not installed", program).
		WithFix("apt-get install %s, or set %s", pkg, variable)
}

// search returns the path of a program on PATH or in one of the folders.
func search(program string, folders []string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), folders...) {
		path := filepath.Join(dir, program)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
