package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dagger/slipway/internal/dagger"
)

// service is a server that the tests need.
type service struct {
	name      string // of slipway.yaml, of --images and of the host
	container *dagger.Container
	options   dagger.ContainerAsServiceOpts
	variable  string // with which the app finds it
	url       string
}

func (v service) start() *dagger.Service { return v.container.AsService(v.options) }

// services are the servers that slipway.yaml asks for. Their credentials are not secret:
// the servers end with the call.
func (s *Slipway) services() []service {
	var all []service
	for _, name := range s.TestServices {
		switch name {
		case "postgres":
			all = append(all, service{ //nolint:gosec // not a secret
				name: name,
				container: s.pull(s.images().Postgres).
					WithEnvVariable("POSTGRES_USER", "test").
					WithEnvVariable("POSTGRES_PASSWORD", "test").
					WithEnvVariable("POSTGRES_DB", "testdb").
					WithExposedPort(5432),
				options:  dagger.ContainerAsServiceOpts{UseEntrypoint: true},
				variable: "DATABASE_URL",
				url:      "postgres://test:test@postgres:5432/testdb?sslmode=disable",
			})
		case "redis":
			all = append(all, service{
				name:      name,
				container: s.pull(s.images().Redis).WithExposedPort(6379),
				options: dagger.ContainerAsServiceOpts{
					UseEntrypoint: true,
					// Without a password, Redis answers only its own machine by default.
					Args: []string{"redis-server", "--protected-mode", "no"},
				},
				variable: "REDIS_URL",
				url:      "redis://redis:6379/0",
			})
		}
	}
	return all
}

// withServices binds the services of slipway.yaml to a container.
func (s *Slipway) withServices(c *dagger.Container) *dagger.Container {
	for _, v := range s.services() {
		c = c.WithServiceBinding(v.name, v.start()).WithEnvVariable(v.variable, v.url)
	}
	return c
}

// patience is how long a server may take to accept connections after its image was
// pulled. examination is how long the command of a server is run to see whether it ends.
const (
	patience    = 2 * time.Minute
	examination = 20 * time.Second
)

// unready waits until it is clear that a service does not become ready, and returns why.
// The engine waits for ever for a server that runs and accepts no connections. It returns
// nil if all of them are ready, or if ctx ends before.
func (s *Slipway) unready(ctx context.Context, function string) error {
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(patience):
	}
	for _, v := range s.services() {
		if _, err := v.container.Sync(ctx); err != nil {
			return nil //nolint:nilerr // the step that needs the image reports it
		}
		limited, cancel := context.WithTimeout(ctx, patience)
		_, err := v.start().Start(limited)
		cancel()
		if err != nil && ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
			return s.silent(function, v)
		}
	}
	return nil
}

// startServices starts the services, and returns why one does not start.
func (s *Slipway) startServices(ctx context.Context, function string) error {
	for _, v := range s.services() {
		if _, err := v.container.Sync(ctx); err != nil {
			return s.explain(function, err)
		}
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		switch _, err := v.start().Start(limited); {
		case err == nil:
		case ctx.Err() == nil && errors.Is(limited.Err(), context.DeadlineExceeded):
			return s.silent(function, v)
		default:
			if reason := s.unstarted(ctx, function); reason != nil {
				return reason
			}
			return s.explain(function, err)
		}
	}
	return nil
}

func (s *Slipway) silent(function string, v service) error {
	return fmt.Errorf("%s: the service %s did not accept connections within %s of its start; its image is %s (%s)",
		function, v.name, patience, s.image(v.name), otherImage(v.name))
}

// unstarted runs the services and returns why one of them ends, or nil if none does.
func (s *Slipway) unstarted(ctx context.Context, function string) error {
	for _, v := range s.services() {
		limited, cancel := context.WithTimeout(ctx, examination)
		defer cancel()
		done := v.container.
			WithEnvVariable("SLIPWAY_RUN", nonce()).
			WithExec(v.options.Args, dagger.ContainerWithExecOpts{UseEntrypoint: true, Expect: dagger.ReturnTypeAny})
		code, err := done.ExitCode(limited)
		if err != nil {
			continue // it runs
		}
		reason := fmt.Sprintf("its image %s ended with status %d", s.image(v.name), code)
		if said, err := done.CombinedOutput(limited); err == nil && strings.TrimSpace(said) != "" {
			reason += ": " + lastLine(said)
		}
		return fmt.Errorf("%s: the service %s did not start: %s (%s)", function, v.name, reason, otherImage(v.name))
	}
	return nil
}

func (s *Slipway) image(name string) string {
	return s.images().Reference(s.images().Named()[name])
}

func otherImage(name string) string {
	return "to use another image, add --images " + name + "=REFERENCE after dagger call"
}

// lastLine returns the last line of a text that is not empty.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
