package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// meterCommand is the argument with which this program runs another program and
// reports a reading. The benchmark measures through such a process because Linux
// includes the memory of the parent at the time of the fork in the peak of the
// child, and a parent that has just started uses little memory.
const meterCommand = "meter"

// reading is the measurement of one run of a program.
type reading struct {
	Wall float64 `json:"wall_s"` // seconds from start to exit
	CPU  float64 `json:"cpu_s"`  // user and system time in seconds, of the program and all children it waited for
	// Peak is the largest resident set of any single process among the program
	// and all children it waited for, in bytes. It is not a sum.
	Peak int64 `json:"peak_rss_bytes"`
}

// grace is how long an interrupted program may take to clean up.
const grace = 10 * time.Second

// meter runs args and writes the reading to file descriptor 3.
func meter(ctx context.Context, args []string) int {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = grace
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(args[0]), err)
		return exitFailed
	}
	r := reading{Wall: wall.Seconds(), CPU: (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.Peak = usage.Maxrss << 10 // Linux counts in KiB
	}
	report := os.NewFile(3, "reading")
	if err := errors.Join(json.NewEncoder(report).Encode(r), report.Close()); err != nil {
		fmt.Fprintf(os.Stderr, "reporting the measurement: %v\n", err)
		return exitFailed
	}
	return exitOK
}

// measure runs a command under a meter and returns its standard output.
func measure(ctx context.Context, self, dir string, env, command []string) (reading, []byte, error) {
	var r reading
	in, out, err := os.Pipe()
	if err != nil {
		return r, nil, fmt.Errorf("measuring: %w", err)
	}
	defer in.Close()
	defer out.Close()
	cmd := exec.CommandContext(ctx, self, append([]string{meterCommand}, command...)...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = dir, env, &stdout, &stderr, []*os.File{out}
	// In its own process group the program gets an interrupt from the terminal only
	// once, from cmd.Cancel.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = grace + time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return r, nil, ctx.Err()
		}
		return r, nil, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(stderr.String()))
	}
	if err := out.Close(); err != nil {
		return r, nil, fmt.Errorf("measuring: %w", err)
	}
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return r, nil, fmt.Errorf("measuring: %w", err)
	}
	return r, stdout.Bytes(), nil
}
