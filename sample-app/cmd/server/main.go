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
)

// Stamped by the linker: -ldflags "-X main.version=... -X main.commit=... -X main.date=...".
//

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

// healthTimeout is below the five seconds that the image's HEALTHCHECK allows.
const healthTimeout = 4 * time.Second

const usage = `server is the order service.

Usage:
  server [--config FILE]                      serve until SIGTERM or SIGINT
  server health [--config FILE] [--url URL]   exit 0 if the local service is ready, else 1
  server version                              print version, commit and build time

Flags:
  --config FILE   settings as YAML (default ` + config.DefaultPath + `, which alone may be missing)
  --version       same as the version command
  --help          this text

Exit codes: 0 stopped in order or healthy, 1 failed or unhealthy, 2 bad usage or configuration.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	// After the first signal the second one kills, for whoever cannot wait.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr))
}

// run is main with everything it touches passed in. It returns the exit code.
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
		return complain(stderr, exitUsage, fmt.Errorf("%w: see server --help", err))
	case flags.NArg() > 0:
		return complain(stderr, exitUsage, fmt.Errorf("unexpected argument %q: see server --help", flags.Arg(0)))
	case *showVersion:
		command = "version"
	case *url != "" && command != "health":
		return complain(stderr, exitUsage, errors.New("--url belongs to server health: see server --help"))
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
	return complain(stderr, exitUsage, fmt.Errorf("unknown command %q: see server --help", command))
}

func runService(ctx context.Context, path string, lookup func(string) (string, bool), stdout, stderr io.Writer) int {
	cfg, err := config.Load(path, lookup)
	if err != nil {
		return complain(stderr, exitUsage, err)
	}
	log, _ := logging.New(stdout, cfg.Log.Level)
	log.Info("starting", zap.String("version", version), zap.String("commit", commit), zap.String("date", date))
	service, err := serve.New(ctx, cfg, log)
	if err != nil {
		return complain(stderr, exitUsage, err)
	}
	if err := service.Run(ctx); err != nil {
		return complain(stderr, exitFailed, err)
	}
	return exitOK
}

// checkHealth asks the local service whether it is ready.
func checkHealth(ctx context.Context, url, path string, lookup func(string) (string, bool)) error {
	if url == "" {
		// The address is all that is needed: the rest is for the service to judge.
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
	// A proxy from the environment must not come between a container and itself.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // only to explain
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("check health: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("check health: %s answers %s: %s", url, resp.Status, body)
	}
	return nil
}

// readyURL is the readiness probe at the address the service listens on.
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

func printHelp(w io.Writer) {
	var b strings.Builder
	b.WriteString(usage)
	b.WriteString("\nEnvironment (overrides the file):\n")
	for _, env := range config.EnvVars() {
		fmt.Fprintf(&b, "  %-26s %s\n", env.Name, env.Key)
	}
	_, _ = io.WriteString(w, b.String())
}

// complain prints err as one line and returns code.
func complain(w io.Writer, code int, err error) int {
	line := strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	_, _ = fmt.Fprintf(w, "server: %s\n", line)
	return code
}
