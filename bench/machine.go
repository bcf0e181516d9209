package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine describes the machine on which the benchmark runs.
type machine struct {
	Date   time.Time `json:"date"`
	CPU    string    `json:"cpu"`
	CPUs   int       `json:"cpus"`
	Memory int64     `json:"memory_bytes"`
	Kernel string    `json:"kernel"`
	Load   float64   `json:"load"` // load average of the minute before the start
}

// busy reports whether other processes load the machine enough to affect the
// measurements.
func (m machine) busy() bool { return m.Load > 0.25*float64(m.CPUs) }

// describeMachine returns a description of this machine.
func describeMachine(ctx context.Context) (machine, error) {
	m := machine{Date: time.Now().UTC().Truncate(time.Second), CPUs: runtime.NumCPU()}
	var err error
	if m.CPU, err = field("/proc/cpuinfo", "model name"); err != nil {
		return m, err
	}
	total, err := field("/proc/meminfo", "MemTotal")
	if err != nil {
		return m, err
	}
	kib, err := strconv.ParseInt(strings.TrimSuffix(total, " kB"), 10, 64)
	if err != nil {
		return m, fmt.Errorf("reading the size of the memory: %w", err)
	}
	m.Memory = kib << 10
	kernel, err := output(ctx, "", os.Environ(), "uname", "-sr")
	if err != nil {
		return m, err
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return m, fmt.Errorf("reading the load average: %w", err)
	}
	first, _, _ := strings.Cut(string(load), " ")
	if m.Load, err = strconv.ParseFloat(first, 64); err != nil {
		return m, fmt.Errorf("reading the load average: %w", err)
	}
	return m, nil
}

// field returns the value of the first line "name : value" in a file of /proc, or
// "unknown" if there is no such line.
func field(file, name string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("describing the machine: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if strings.TrimSpace(key) == name {
			return strings.TrimSpace(value), nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("describing the machine: %w", err)
	}
	return "unknown", nil
}
