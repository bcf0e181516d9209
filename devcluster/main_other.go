//go:build !linux

// Command devcluster runs a real single-node Kubernetes cluster. It works only
// on Linux.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "devcluster: this program runs only on Linux; on other systems use an existing cluster through its kubeconfig")
	os.Exit(2)
}
