// Command server is the order service.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/slipway-ci/slipway/sample-app/internal/config"
	"github.com/slipway-ci/slipway/sample-app/internal/logging"
	"github.com/slipway-ci/slipway/sample-app/internal/serve"
	"github.com/slipway-ci/slipway/sample-app/internal/telemetry"
)

// The linker sets these variables:
// -ldflags "-X main.version=... -X main.commit=... -X main.date=...".
var (
	version = "dev"
	commit  = "unknown"
	date    = "unknown"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// healthTimeout is shorter than the timeout of the image's HEALTHCHECK, which is
// five seconds.
const healthTimeout = 4 * time.Second

const usage = `server is the order service.

Usage:
  server [--config FILE]                      serve requests until SIGTERM or SIGINT
  server health [--config FILE] [--url URL]   check whether the local service is ready
  server version                              print the version, the commit and the build time

Flags:
  --config FILE   configuration file in YAML (default: ` + config.DefaultPath + `, if it exists)
  --url URL       address that the health command requests (default: the local readiness probe)
  --version       same as the version command
  --help          print this text

Exit codes: 0 if the service stopped cleanly or is ready, 1 if it failed or is not
ready, 2 if the usage or the configuration is invalid.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// A second signal terminates the process immediately.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run runs the program with the given arguments, environment and output, and
// returns its exit code.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	command := "serve"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("server", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "", "")
	url := flags.String("url", "", "")
	showVersion := flags.Bool("version", false, "")
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp), command == "help":
		printHelp(stdout)
		return exitOK
	case err != nil:
		return complain(stderr, exitUsage, fmt.Errorf("%w; run server --help for usage", err))
	case flags.NArg() > 0:
		return complain(stderr, exitUsage, fmt.Errorf("unexpected argument %q; run server --help for usage", flags.Arg(0)))
	case *showVersion:
		command = "version"
	case *url != "" && command != "health":
		return complain(stderr, exitUsage, errors.New("the flag --url is only for the command server health; run server --help for usage"))
	}

	switch command {
	case "version":
		_, _ = fmt.Fprintf(stdout, "version=%s commit=%s date=%s\n", version, commit, date)
		return exitOK
	case "health":
		if err := checkHealth(ctx, *url, *path, lookup); err != nil {
			return complain(stderr, exitFailed, err)
		}
		return exitOK
	case "serve":
		return runService(ctx, *path, lookup, stdout, stderr)
	}
	return complain(stderr, exitUsage, fmt.Errorf("unknown command %q; run server --help for usage", command))
}

// runService runs the service until ctx is done and returns the exit code.
func runService(ctx context.Context, path string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	cfg, err := config.Load(path, lookup)
	if err != nil {
		return complain(stderr, exitUsage, err)
	}
	log, level := logging.New(stdout, cfg.Log.Level.Level, cfg.Console())
	defer func() { _ = log.Sync() }() // a terminal and a pipe cannot be flushed and need not be
	log.Info("starting", zap.String("version", version), zap.String("commit", commit), zap.String("date", date))
	telemetry.LogErrors(log)
	service, err := serve.New(ctx, cfg, log, serve.Live{
		Version: version, Level: level, File: path, Load: func() (config.Config, error) { return config.Reload(path, lookup) },
	})
	if err != nil {
		return complain(stderr, exitUsage, err)
	}
	if err := service.Run(ctx); err != nil {
		return complain(stderr, exitFailed, err)
	}
	return exitOK
}

// checkHealth returns nil if the URL responds with status 200. An empty URL means
// the readiness probe of the local service.
func checkHealth(ctx context.Context, url, path string, lookup func(string) (string, bool)) error {
	if url == "" {
		// Only the address is needed, so the other settings are not validated.
		cfg, err := config.Read(path, lookup)
		if err != nil {
			return err
		}
		if url, err = readyURL(cfg.Server.Listen); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	// The transport ignores proxy settings in the environment, because the request
	// stays in the container.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // used only in the error message
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("check health: %s responded with %s: %s", url, resp.Status, body)
	}
	return nil
}

// readyURL returns the URL of the readiness probe of a service that listens on the
// given address.
func readyURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("server.listen: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/health/ready", nil
}

// printHelp prints the usage and the environment variables.
func printHelp(w io.Writer) {
	var b strings.Builder
	b.WriteString(usage)
	b.WriteString("\nEnvironment variables, which override the configuration file:\n")
	for _, env := range config.EnvVars() {
		fmt.Fprintf(&b, "  %-26s %s\n", env.Name, env.Key)
	}
	_, _ = io.WriteString(w, b.String())
}

// complain prints err in one line and returns code.
func complain(w io.Writer, code int, err error) int {
	line := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	_, _ = fmt.Fprintf(w, "server: %s\n", line)
	return code
}
