// Command app is the program that the tests roll out on a real cluster. Its argument
// selects how it behaves:
//
//	serve    answers every request on port 8080 with status 200
//	unready  is the same as serve, but answers /readyz with status 503
//	broken   answers every request on port 8080 with status 500
//	crash    writes a line and ends with exit code 3
//	oom      allocates memory until it is killed
//	exit0    ends with exit code 0
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	fmt.Println("app:", mode)
	switch mode {
	case "exit0":
	case "crash":
		fmt.Fprintln(os.Stderr, "app: cannot reach the database")
		os.Exit(3)
	case "oom":
		var all [][]byte
		for {
			b := make([]byte, 4<<20)
			for i := range b {
				b[i] = 1 // a page uses memory only after it was written
			}
			all = append(all, b)
			_ = len(all)
		}
	case "serve", "unready", "broken":
		s := &http.Server{Addr: ":8080", ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case mode == "broken":
				w.WriteHeader(http.StatusInternalServerError)
			case mode == "unready" && r.URL.Path == "/readyz":
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})}
		fmt.Fprintln(os.Stderr, s.ListenAndServe())
		os.Exit(1)
	default:
		fmt.Fprintln(os.Stderr, "app: unknown mode", mode)
		os.Exit(2)
	}
}
