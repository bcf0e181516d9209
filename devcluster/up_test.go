//go:build linux

package main

import (
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The interrupt comes while the API server starts.
func TestInterruptedUpLeavesNothing(t *testing.T) {
	b := newBench(t)
	// This builds the programs, so that the interrupt below does not come during
	// the build.
	b.up(t, "built")
	b.run(t, "built", "down")
	command := exec.Command(b.program, "up", "--name", "interrupted", "--state-dir", b.state)
	stderr, err := command.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := newCluster(b.state, "interrupted")
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	namespace := ""
	for chunk := make([]byte, 4096); ; {
		n, err := stderr.Read(chunk)
		said.Write(chunk[:n])
		if err != nil {
			break
		}
		if namespace == "" && strings.Contains(said.String(), "etcd answers") {
			namespace = b.namespaceOf(t, c)
			if err := command.Process.Signal(unix.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = command.Wait()
	if code := command.ProcessState.ExitCode(); code != 130 {
		t.Errorf("exit code %d\n%s", code, said.String())
	}
	if left := trace(t, c, namespace); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
