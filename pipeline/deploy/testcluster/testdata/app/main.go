// Command app is what the tests of deployments run. MODE or else its first
// argument says how it behaves: serve (the default), crash, exit0, oom, unready,
// unstarted.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
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
	case "exit0", "health": // a chart tests with the app's own image
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
	probe := func(bad bool) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if bad || draining.Load() {
				http.Error(w, "no", http.StatusInternalServerError)
				return
			}
			fmt.Fprintln(w, os.Getenv("VERSION"))
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/startup", probe(mode == "unstarted"))
	mux.HandleFunc("/ready", probe(mode == "unready"))
	mux.HandleFunc("/live", probe(false))
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
		// Endpoints take a moment to forget this pod.
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
