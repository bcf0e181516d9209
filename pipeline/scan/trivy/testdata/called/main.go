// Program called serves HTTP/2 with a vulnerable version of golang.org/x/net.
package main

import (
	"log"
	"net/http"

	"golang.org/x/net/http2"
)

func main() { serve(":8443") }

func serve(addr string) {
	srv := &http.Server{Addr: addr, Handler: http.NotFoundHandler()}
	if err := http2.ConfigureServer(srv, &http2.Server{}); err != nil {
		log.Fatal(err)
	}
	log.Fatal(srv.ListenAndServeTLS("tls.crt", "tls.key"))
}
