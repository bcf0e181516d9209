// Command app is the program in the image that the tests of deployments use. The
// environment variable MODE, or the first argument if MODE is not set, selects how it
// behaves:
//
//	serve      serves HTTP on port 8080 until SIGTERM; this is the default
//	unready    serves HTTP, but its readiness probe fails
//	unstarted  serves HTTP, but its startup probe fails
//	crash      writes a line and ends with exit code 7
//	oom        allocates memory until it is killed
//	exit0      ends with exit code 0
//	idle       waits until SIGTERM and listens on no port
//	health     ends with exit code 0, as the health check of a real app does
//
// A request of /burn takes 10 ms of CPU time. It and /count are counted in http_requests_total
// at /metrics.
//
// If DATA names a folder, the program appends VERSION to the file versions in it before it
// serves, and serves the file at /versions.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	mode := os.Getenv("MODE")
	if mode == "" && len(os.Args) > 1 {
		mode = os.Args[1]
	}
	fmt.Println("app", os.Getenv("VERSION"), "in mode", mode)
	switch mode {
	case "crash":
		fmt.Println("panic: the flux capacitor is missing, password", os.Getenv("PASSWORD"))
		os.Exit(7)
	case "exit0", "health": // the test of the order service's chart runs its own image with "health"
		return
	case "idle":
		idle, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		<-idle.Done()
		return
	case "oom":
		debug.SetGCPercent(-1)
		var held [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := range b {
				b[i] = 1
			}
			held = append(held, b)
			_ = held
		}
	}
	var draining atomic.Bool
	probe := func(failing bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if failing || draining.Load() {
				http.Error(w, "the probe fails", http.StatusInternalServerError)
				return
			}
			fmt.Fprintln(w, os.Getenv("VERSION"))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/startup", probe(mode == "unstarted"))
	mux.HandleFunc("/ready", probe(mode == "unready"))
	mux.HandleFunc("/live", probe(false))
	var requests atomic.Int64
	mux.HandleFunc("/burn", func(http.ResponseWriter, *http.Request) {
		requests.Add(1)
		for until := time.Now().Add(10 * time.Millisecond); time.Now().Before(until); {
		}
	})
	mux.HandleFunc("/count", func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "# TYPE http_requests_total counter\nhttp_requests_total %d\n", requests.Load())
	})
	if dir := os.Getenv("DATA"); dir != "" {
		file := filepath.Join(dir, "versions")
		if err := appendLine(file, os.Getenv("VERSION")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		mux.HandleFunc("/versions", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		if draining.Load() {
			w.Header().Set("Connection", "close")
		}
		fmt.Fprintln(w, os.Getenv("VERSION"))
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		<-ctx.Done()
		draining.Store(true)
		// Endpoints take a moment to remove this pod.
		time.Sleep(5 * time.Second)
		end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = server.Shutdown(end)
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Println(err)
		os.Exit(1)
	}
	<-ctx.Done()
}

func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, line)
	return errors.Join(err, f.Close())
}
