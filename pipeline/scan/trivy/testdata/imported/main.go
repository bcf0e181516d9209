// Program imported requires a vulnerable version of golang.org/x/net, but does not
// call a vulnerable function.
package main

import (
	"fmt"

	"golang.org/x/net/idna"
)

func main() {
	name, err := idna.ToASCII("bücher.example")
	fmt.Println(name, err)
}
