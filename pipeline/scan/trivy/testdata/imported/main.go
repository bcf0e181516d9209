// The fixture requires golang.org/x/net but uses nothing of it that is vulnerable.
package main

import (
	"fmt"

	"golang.org/x/net/idna"
)

func main() {
	name, err := idna.ToASCII("bücher.example")
	fmt.Println(name, err)
}
