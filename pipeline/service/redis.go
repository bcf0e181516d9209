package service

import (
	"bufio"
	"context"
	"fmt"
	"strings"
	"syscall"
)

// redis starts redis-server without persistence.
type redis struct{ program string }

func findRedis() (plan, error) {
	program := search("redis-server", []string{"/usr/sbin", "/usr/local/bin"})
	if program == "" {
		return nil, missing("redis-server", "redis-server", Redis.Variable())
	}
	return redis{program}, nil
}

func (redis) kind() Kind { return Redis }

func (redis) setUp(context.Context, string, string, *account) error { return nil }

// command returns the command of a server that reads its configuration from standard
// input, so that the password is neither in the arguments nor in a file
// (https://redis.io/docs/latest/operate/oss_and_stack/management/config/).
func (r redis) command(dir string, port int, password string) launch {
	conf := []string{
		"bind 127.0.0.1",
		fmt.Sprintf("port %d", port),
		"requirepass " + password,
		fmt.Sprintf("dir %q", dir),
		"daemonize no",
		`save ""`,
		"appendonly no",
	}
	return launch{
		program: r.program, args: []string{"-"}, dir: dir,
		stdin: strings.Join(conf, "\n") + "\n",
		quit:  syscall.SIGTERM,
	}
}

// ready logs in and sends a PING
// (https://redis.io/docs/latest/develop/reference/protocol-spec/).
func (redis) ready(ctx context.Context, port int, password string) error {
	conn, err := dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "AUTH %s\r\nPING\r\n", password); err != nil {
		return fmt.Errorf("sending commands to redis: %w", err)
	}
	r := bufio.NewReader(conn)
	for _, want := range []string{"+OK", "+PONG"} {
		line, err := r.ReadString('\n')
		if err != nil {
			return fmt.Errorf("reading the answer of redis: %w", err)
		}
		if got := strings.TrimSpace(line); got != want {
			return fmt.Errorf("redis answered %q instead of %q", got, want)
		}
	}
	return nil
}

func (redis) url(port int, password string) string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", password, port)
}
