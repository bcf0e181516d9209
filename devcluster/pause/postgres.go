package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// setup is all a test's application needs: a database of its own. The
// password is no secret; the cluster is reached from its machine only.
const setup = `CREATE ROLE app LOGIN PASSWORD 'only-on-devcluster';
CREATE DATABASE orders OWNER app;
`

// postgres makes the database in data unless a container before this one did,
// and turns into the server.
func postgres(bin, data string) error {
	// The volume itself belongs to root; the server wants to own its folder.
	dir := filepath.Join(data, "main")
	if _, err := os.Stat(dir); err != nil {
		if err := create(bin, dir); err != nil {
			return err
		}
	}
	server := filepath.Join(bin, "postgres")
	err := syscall.Exec(server, []string{
		server, "-D", dir,
		"-c", "listen_addresses=*", "-c", "unix_socket_directories=",
		// The data goes with the pod.
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
	}, os.Environ())
	return fmt.Errorf("starting the server: %w", err)
}

func create(bin, dir string) error {
	temp := dir + ".new"
	if err := os.RemoveAll(temp); err != nil {
		return fmt.Errorf("removing half a database: %w", err)
	}
	err := run(exec.Command(filepath.Join(bin, "initdb"), "--pgdata", temp, "--username", "postgres",
		"--encoding", "UTF8", "--locale", "C", "--auth", "scram-sha-256", "--auth-local", "reject",
		"--pwfile", "/dev/stdin", "--no-sync", "--no-instructions"), "only-on-devcluster\n")
	if err != nil {
		return err
	}
	if err := run(exec.Command(filepath.Join(bin, "postgres"), "--single", "-D", temp, "postgres"), setup); err != nil {
		return err
	}
	hba, err := os.OpenFile(filepath.Join(temp, "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("letting clients in: %w", err)
	}
	defer hba.Close()
	if _, err := hba.WriteString("host all all all scram-sha-256\n"); err != nil {
		return fmt.Errorf("letting clients in: %w", err)
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
