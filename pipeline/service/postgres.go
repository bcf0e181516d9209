package service

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	pgUser     = "test"
	pgDatabase = "testdb"
)

// postgres starts a new database cluster. Its settings favour speed over
// durability, because the data is removed after the tests.
type postgres struct{ initdb, server string }

func findPostgres() (plan, error) {
	folders := pgFolders("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin")
	p := postgres{search("initdb", folders), search("postgres", folders)}
	if p.initdb == "" || p.server == "" {
		return nil, missing("postgres", "postgresql", Postgres.Variable())
	}
	return p, nil
}

// pgFolders returns the folders that match the patterns, the newest version of
// Postgres first. Distributions install Postgres in folders that are not on PATH.
func pgFolders(patterns ...string) []string {
	var folders []string
	newest := map[string]int{}
	for _, pattern := range patterns {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // the patterns are constants and well formed
		}
		for _, dir := range found {
			digits := strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "pgsql-")
			newest[dir], _ = strconv.Atoi(digits) // 0, which sorts last, for 9.6 or without a version
			folders = append(folders, dir)
		}
	}
	slices.SortStableFunc(folders, func(a, b string) int { return newest[b] - newest[a] })
	return folders
}

func (postgres) kind() Kind { return Postgres }

// setUp creates the cluster. It passes the password in a temporary file (initdb
// --pwfile, https://www.postgresql.org/docs/current/app-initdb.html).
func (p postgres) setUp(ctx context.Context, dir, password string, acc *account) (err error) {
	pw := filepath.Join(dir, "password")
	if err := os.WriteFile(pw, []byte(password+"\n"), 0o600); err != nil {
		return fmt.Errorf("writing the password for initdb: %w", err)
	}
	defer func() {
		if rerr := os.Remove(pw); rerr != nil {
			err = errors.Join(err, fmt.Errorf("removing the password file of initdb: %w", rerr))
		}
	}()
	if err := acc.chown(pw); err != nil {
		return fmt.Errorf("changing the owner of the password file of initdb: %w", err)
	}
	locale := "C"
	if runtime.GOOS == "linux" {
		locale = "C.UTF-8" // upper, lower and regular expressions support all letters
	}
	return launch{
		program: p.initdb, dir: dir, quit: syscall.SIGTERM,
		env: pgEnv(),
		args: []string{
			"--pgdata=" + filepath.Join(dir, "data"), "--username=" + pgUser, "--pwfile=" + pw,
			// Every driver supports clear-text passwords. They are acceptable on the
			// loopback interface, because they are only valid during the tests.
			"--auth-host=password", "--auth-local=reject",
			"--encoding=UTF8", "--locale=" + locale,
			"--no-sync", "--no-instructions",
		},
	}.run(ctx, acc)
}

// command returns the command of a server that listens on 127.0.0.1 only, without
// a Unix socket.
func (p postgres) command(dir string, port int, _ string) launch {
	settings := []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(port), "unix_socket_directories=",
		"fsync=off", "synchronous_commit=off", "full_page_writes=off",
		"wal_level=minimal", "max_wal_senders=0", "logging_collector=off", "timezone=UTC",
	}
	l := launch{
		program: p.server, dir: dir, env: pgEnv(),
		args: []string{"-D", filepath.Join(dir, "data")},
		quit: syscall.SIGQUIT, // "immediate shutdown" ends the children too and makes no checkpoint
	}
	for _, s := range settings {
		l.args = append(l.args, "-c", s)
	}
	return l
}

// pgEnv returns the environment of the programs of Postgres. It has none of the
// caller's variables, for example PGDATA and PGPORT, and selects English messages,
// because portTaken parses them.
func pgEnv() []string { return []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"} }

// ready creates the database unless it exists, and queries it.
func (postgres) ready(ctx context.Context, port int, password string) error {
	err := pgQuery(ctx, port, password, "postgres", "CREATE DATABASE "+pgDatabase+" OWNER "+pgUser)
	if err != nil && !errors.Is(err, errDuplicate) {
		return err
	}
	return pgQuery(ctx, port, password, pgDatabase, "SELECT 1")
}

func (postgres) url(port int, password string) string {
	return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=disable", pgUser, password, port, pgDatabase)
}

// errDuplicate is the error for SQLSTATE 42P04, duplicate_database
// (https://www.postgresql.org/docs/current/errcodes-appendix.html).
var errDuplicate = errors.New("the database exists")

// pgQuery logs in with a clear-text password and runs a simple query. It implements
// only the part of the protocol that this needs
// (https://www.postgresql.org/docs/current/protocol-flow.html).
func pgQuery(ctx context.Context, port int, password, database, query string) error {
	conn, err := dial(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	startup := binary.BigEndian.AppendUint32(nil, 3<<16) // protocol 3.0
	for _, s := range []string{"user", pgUser, "database", database, ""} {
		startup = append(append(startup, s...), 0)
	}
	if err := pgSend(conn, 0, startup); err != nil {
		return err
	}
	r := bufio.NewReader(conn)
	sent := false
	for {
		kind, body, err := pgReceive(r)
		if err != nil {
			return err
		}
		switch {
		case kind == 'E':
			return pgError(body)
		case kind == 'R' && len(body) >= 4 && binary.BigEndian.Uint32(body) == 3: // AuthenticationCleartextPassword
			err = pgSend(conn, 'p', append([]byte(password), 0))
		case kind == 'Z' && sent: // ReadyForQuery
			return pgSend(conn, 'X', nil)
		case kind == 'Z':
			sent = true
			err = pgSend(conn, 'Q', append([]byte(query), 0))
		}
		if err != nil {
			return err
		}
	}
}

// pgSend writes a message. The kind of the startup message is 0.
func pgSend(w io.Writer, kind byte, body []byte) error {
	var msg []byte
	if kind != 0 {
		msg = append(msg, kind)
	}
	msg = binary.BigEndian.AppendUint32(msg, uint32(len(body)+4)) //nolint:gosec // a few dozen bytes
	if _, err := w.Write(append(msg, body...)); err != nil {
		return fmt.Errorf("sending a message to postgres: %w", err)
	}
	return nil
}

// pgReceive reads a message.
func pgReceive(r io.Reader) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("reading a message of postgres: %w", err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size < 4 || size > 1<<20 {
		return 0, nil, fmt.Errorf("reading a message of postgres: invalid size of %d bytes", size)
	}
	body = make([]byte, size-4)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, fmt.Errorf("reading a message of postgres: %w", err)
	}
	return head[0], body, nil
}

// pgError returns the error in an ErrorResponse, whose fields consist of a letter
// and a string.
func pgError(body []byte) error {
	fields := map[byte]string{}
	for field := range strings.SplitSeq(string(body), "\x00") {
		if field != "" {
			fields[field[0]] = field[1:]
		}
	}
	if fields['C'] == "42P04" {
		return errDuplicate
	}
	return fmt.Errorf("postgres: %s (SQLSTATE %s)", fields['M'], fields['C'])
}
