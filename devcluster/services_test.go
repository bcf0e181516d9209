//go:build linux

package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestServices(t *testing.T) {
	b := newBench(t)
	if missing := missingServicePackages(serviceNames()); len(missing) > 0 {
		t.Skipf("packages are not installed: %v", missing)
	}
	s, _, a := b.up(t, "services", "--services", "postgres,redis")
	if got := exchange(t, serviceAddress(t, s, "redis", 6379), "PING\r\n", 7); got != "+PONG\r\n" {
		t.Errorf("redis answers %q", got)
	}
	address := serviceAddress(t, s, "postgres", 5432)
	// The start of a protocol 3.0 session for the user app. The server answers
	// with a request for SCRAM authentication.
	hello := "\x00\x03\x00\x00user\x00app\x00database\x00orders\x00\x00"
	hello = string([]byte{0, 0, 0, byte(len(hello) + 4)}) + hello
	if got := exchange(t, address, hello, 22); got[0] != 'R' || !strings.Contains(got, "SCRAM-SHA-256") {
		t.Errorf("postgres answers %q", got)
	}
	checkPasswords(t, address)
	var pods struct {
		Items []struct {
			Status struct {
				ContainerStatuses []struct{ RestartCount int }
			}
		}
	}
	if err := a.do(t.Context(), http.MethodGet, "/api/v1/namespaces/backing/pods", nil, &pods); err != nil {
		t.Fatal(err)
	}
	if len(pods.Items) != 2 {
		t.Errorf("%d pods", len(pods.Items))
	}
	for _, pod := range pods.Items {
		for _, container := range pod.Status.ContainerStatuses {
			if container.RestartCount > 0 {
				t.Errorf("a service restarted %d times", container.RestartCount)
			}
		}
	}
}

// serviceAddress returns the address of a backing service.
func serviceAddress(t *testing.T, s Status, name string, port int) string {
	t.Helper()
	found, err := resolver(*s.Network).LookupHost(t.Context(), name+".backing.svc.cluster.local.")
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort(found[0], strconv.Itoa(port))
}

// exchange sends a question and returns the first bytes of the answer.
func exchange(t *testing.T, address, question string, length int) string {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, length)
	if _, err = conn.Write([]byte(question)); err == nil {
		_, err = io.ReadFull(conn, answer)
	}
	if err != nil {
		t.Errorf("asking %s: %v, %q", address, err, answer)
	}
	return string(answer)
}

// checkPasswords logs in with the right password and with a wrong one, if psql
// is installed.
func checkPasswords(t *testing.T, address string) {
	t.Helper()
	psql, err := lookPath("psql")
	if err != nil {
		t.Log("psql is not installed, so no password was tested")
		return
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for password, good := range map[string]bool{"only-on-devcluster": true, "wrong": false} {
		command := exec.CommandContext(t.Context(), psql, "-h", host, "-p", port, "-U", "app", "-Atc", "CREATE TABLE IF NOT EXISTS t (a int); SELECT current_user", "orders")
		command.Env = append(os.Environ(), "PGPASSWORD="+password)
		out, err := command.CombinedOutput()
		if (err == nil) != good || good && !strings.Contains(string(out), "app") {
			t.Errorf("password %s: %v\n%s", password, err, out)
		}
	}
}
