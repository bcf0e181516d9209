package standin

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/logging"
	"github.com/slipway-ci/slipway/sample-app/internal/metrics"
	"github.com/slipway-ci/slipway/sample-app/internal/telemetry"
)

// Program is the program of a simulated service.
type Program struct {
	// Name is that of the program and of the service in its telemetry.
	Name string
	// Listen is the address that the program listens on without a configuration file.
	Listen string
	// Define defines the flags of the service and returns a function that makes the service
	// after they were parsed.
	Define func(*flag.FlagSet) func() http.Handler
	// Lookup returns the environment variables.
	Lookup         func(string) (string, bool)
	Stdout, Stderr io.Writer
}

// Run serves requests until ctx is done and returns the exit code: 0 after a clean end, 1 if
// the service failed, and 2 if its usage is invalid.
func (p Program) Run(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(p.Stderr)
	file := flags.String("config", "", "configuration `file`, of which the sections app, log, otlp, server and shutdown are used")
	listen := flags.String("listen", "", "`address` to listen on, "+p.Listen+" without a configuration file; with port 0, a free port is chosen")
	service := p.Define(flags)
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	cfg, err := p.configure(*file, *listen)
	if err != nil {
		_, _ = fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
		return 2
	}
	if err := p.serve(ctx, cfg, *file != "", service()); err != nil {
		_, _ = fmt.Fprintf(p.Stderr, "%s: %v\n", p.Name, err)
		if _, inUse := errors.AsType[*net.OpError](err); inUse {
			return 2
		}
		return 1
	}
	return 0
}

// configure reads the settings that all services have in common.
func (p Program) configure(file, listen string) (config.Config, error) {
	cfg, err := config.Read(file, p.Lookup)
	if err != nil {
		return config.Config{}, err
	}
	if file == "" { // a service for development
		cfg.Server.Listen, cfg.Shutdown.DrainDelay.Duration = p.Listen, 0
	}
	if listen != "" {
		cfg.Server.Listen = listen
	}
	if cfg.OTLP.ServiceName == config.Default().OTLP.ServiceName {
		cfg.OTLP.ServiceName = p.Name
	}
	return cfg, cfg.ValidateServing()
}

// serve serves requests until ctx is done, and metrics if monitored is true.
func (p Program) serve(ctx context.Context, cfg config.Config, monitored bool, service http.Handler) (err error) {
	log, _ := logging.New(p.Stdout, cfg.Log.Level.Level, cfg.Console())
	counted := metrics.New()
	telemetry.LogErrors(log)
	sends, err := telemetry.Start(ctx, telemetry.Configured(cfg, "simulated", counted, log))
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if lost := sends.Shutdown(last); lost != nil {
			log.Warn("the last telemetry could not be sent", zap.Error(lost))
		}
	}()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Server.Listen)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	monitor := make(chan error, 1)
	if monitored {
		scrape, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Server.MetricsListen)
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		go func() { monitor <- Serve(serving, scrape, counted.Handler()) }()
	} else {
		monitor <- nil
	}
	// Requests go on for the drain delay, so that load balancers have time to notice.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(cfg.Shutdown.DrainDelay.Duration, stop) })()
	_, _ = fmt.Fprintf(p.Stdout, "simulated %s service listens on http://%s\n", p.Name, listener.Addr())
	err = Serve(serving, listener, sends.Handler(record(service, log, counted), isProbe))
	stop()
	return errors.Join(err, <-monitor)
}

// isProbe reports whether a request is from the kubelet.
func isProbe(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/health/") }

// record logs and counts requests, except those of probes.
func record(next http.Handler, log *zap.Logger, counted *metrics.Metrics) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isProbe(r) {
			next.ServeHTTP(w, r)
			return
		}
		start := time.Now()
		answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		next.ServeHTTP(answer, r)
		took := time.Since(start)
		method, route, known := strings.Cut(r.Pattern, " ")
		if !known {
			method, route = "other", "unmatched"
		}
		counted.Request(r.Context(), method, route, answer.status, took)
		log.Info("request", zap.String("method", r.Method), zap.String("path", r.URL.Path),
			zap.Int("status", answer.status), zap.Duration("duration_ms", took), logging.Trace(r.Context()))
	})
}

// statusWriter remembers the status of a response.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}
