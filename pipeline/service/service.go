// Package service starts Postgres and Redis for the tests of an app, with the
// programs that are installed on this machine. It leaves no process and no file
// when the tests fail, when the run is cancelled or when slipway itself is killed.
//
// In a Dagger module or a CI job, these services usually run next to the tests. If
// their addresses are in the environment, nothing is started.
//
// The package promises no compatibility to programs other than slipway.
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

// Kind is a kind of service.
type Kind string

// The kinds of services.
const (
	Postgres Kind = "postgres" // sets DATABASE_URL: the database testdb, with the superuser test
	Redis    Kind = "redis"    // sets REDIS_URL: database 0, with a password
)

// Kinds returns all kinds, sorted.
func Kinds() []Kind { return []Kind{Postgres, Redis} }

// Variable returns the name of the environment variable with the address of the
// service. It returns "" for an unknown kind.
func (k Kind) Variable() string {
	switch k {
	case Postgres:
		return "DATABASE_URL"
	case Redis:
		return "REDIS_URL"
	}
	return ""
}

// startTimeout is how long a server may take to answer after it was started. On a
// machine under full load it needs a few seconds.
const startTimeout = time.Minute

// attempts is how often a server is started if another process binds the port
// after it was chosen and before the server binds it.
const attempts = 5

// Options are the options of [Start].
type Options struct {
	Kinds []Kind // services to start; duplicates are ignored
	// Dir is the parent of the servers' data directories; default: [os.TempDir].
	// If slipway runs as root, the servers run as another user, who needs search
	// permission for Dir. Without it, /tmp is used instead.
	Dir string
	// Lookup reads the environment; default: [os.LookupEnv]. A service whose
	// variable is set and not empty is not started.
	Lookup func(name string) (value string, ok bool)
}

// Set is a set of services: those that were started and those in the environment.
type Set struct {
	env       []string
	servers   []*server
	home      *home
	stopAfter func() bool // cancels the call of stop when the context ends
	once      sync.Once
}

// Start starts the services at the same time. It returns when each of them has
// answered a query with the credentials that the tests use.
//
// The services stop when [Set.Stop] is called, when ctx ends and, on Linux, when
// the calling process dies.
//
// Start returns a [fault.Input] error for an unknown kind and for a program that is
// not installed.
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
	s.stopAfter = context.AfterFunc(ctx, s.stop)
	return s, nil
}

// choose returns the kinds that must be started, and adds the services in the
// environment to the set.
func (s *Set) choose(ctx context.Context, o Options) ([]Kind, error) {
	var wanted []Kind
	for _, kind := range o.Kinds {
		variable := kind.Variable()
		if variable == "" {
			return nil, fault.Inputf("service.unknown", "unknown service %q", kind).
				WithFix("use one of: %s", join(Kinds()))
		}
		if slices.Contains(wanted, kind) {
			continue
		}
		if value, ok := o.Lookup(variable); ok && value != "" {
			progress.Statusf(ctx, "using the %s service in %s", kind, variable)
			if entry := variable + "=" + value; !slices.Contains(s.env, entry) {
				s.env = append(s.env, entry)
			}
			continue
		}
		wanted = append(wanted, kind)
	}
	return wanted, nil
}

// prepareAll prepares all kinds. Its error contains every missing program, so that
// they can be installed together.
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

// startAll starts the servers at the same time. If one of them fails, the others
// are still added to the set, so that they are stopped.
func (s *Set) startAll(ctx context.Context, plans []plan, acc *account) error {
	// The context of the group ends when startAll returns, but the servers keep
	// running.
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

// Env returns the addresses of the services in the form NAME=value. They contain
// passwords, so they must not be printed.
func (s *Set) Env() []string { return slices.Clone(s.env) }

// Stop stops the servers that Start started, waits until they have ended and
// removes their data. It may be called more than once and from several goroutines.
func (s *Set) Stop() {
	s.stop()
	if s.stopAfter != nil {
		s.stopAfter()
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

// plan describes how a kind of service is set up and started.
type plan interface {
	kind() Kind
	// setUp creates the data in an empty directory that acc owns.
	setUp(ctx context.Context, dir, password string, acc *account) error
	// command returns the command of a server that listens on a port of 127.0.0.1.
	command(dir string, port int, password string) launch
	// ready sends a query to the server and returns nil if the answer is correct.
	ready(ctx context.Context, port int, password string) error
	// url returns the address for the tests.
	url(port int, password string) string
}

// prepare finds the programs for a kind.
func prepare(kind Kind) (plan, error) {
	if kind == Postgres {
		return findPostgres()
	}
	return findRedis()
}

// startServer starts a server on a free port of 127.0.0.1 and returns it with its
// address. If the returned server is not nil, it must be stopped, even if there is
// an error.
func startServer(ctx context.Context, p plan, h *home, acc *account) (*server, string, error) {
	password := newPassword()
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

// newPassword returns a password with 128 random bits. It needs no escaping in a URL,
// a configuration file or SQL.
func newPassword() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: https://pkg.go.dev/crypto/rand#Read
	return hex.EncodeToString(b[:])
}

// join returns the kinds as a list for an error.
func join(kinds []Kind) string {
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// missing returns the error for a program that is not installed.
func missing(program, pkg, variable string) error {
	return fault.Inputf("program.missing", "%s is not installed", program).
		WithFix("apt-get install %s, or set %s", pkg, variable)
}

// search returns the path of a program on PATH or in one of the folders, or "" if it
// is not installed.
func search(program string, folders []string) string {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), folders...) {
		path := filepath.Join(dir, program)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return path
		}
	}
	return ""
}
