package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// setup creates a database for the application under test. The password is not
// secret: by default the cluster can be reached only from the machine it runs on.
const setup = `CREATE ROLE app LOGIN PASSWORD 'only-on-devcluster';
CREATE DATABASE orders OWNER app;
`

// postgres replaces this process with the PostgreSQL server. First it creates the
// database in the directory data, unless an earlier container has done so. It
// returns only on failure.
func postgres(ctx context.Context, bin, data string) error {
	// The server must own its data directory, but the volume belongs to root.
	dir := filepath.Join(data, "main")
	if _, err := os.Stat(dir); err != nil {
		if err := create(ctx, bin, dir); err != nil {
			return err
		}
	}
	server := filepath.Join(bin, "postgres")
	err := syscall.Exec(server, []string{
		server, "-D", dir,
		"-c", "listen_addresses=*", "-c", "unix_socket_directories=",
		// The data is deleted with the pod, so it need not be durable.
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
	}, os.Environ())
	return fmt.Errorf("starting the server: %w", err)
}

// create creates the database in a temporary directory, which it renames to dir
// when the database is complete.
func create(ctx context.Context, bin, dir string) error {
	temp := dir + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("deleting an incomplete database: %w", err)
	}
	err := run(exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata", temp, "--username", "postgres",
		"--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256", "--auth-local", "reject",
		"--pwfile", "/dev/stdin", "--no-sync", "--no-instructions"), "only-on-devcluster\n")
	if err != nil {
		return err
	}
	if err := run(exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--single", "-D", temp, "postgres"), setup); err != nil {
		return err
	}
	hba, err := os.OpenFile(filepath.Join(temp, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("allowing clients to connect: %w", err)
	}
	defer hba.Close()
	if _, err := hba.WriteString("host all all all scram-sha-256\n"); err != nil { //nolint:dupword // database, user and address
		return fmt.Errorf("allowing clients to connect: %w", err)
	}
	return os.Rename(temp, dir)
}

func run(command *exec.Cmd, stdin string) error {
	command.Stdin, command.Stdout, command.Stderr = strings.NewReader(stdin), os.Stdout, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("running %s: %w", filepath.Base(command.Path), err)
	}
	return nil
}
