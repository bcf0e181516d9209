package advice

import (
	"fmt"
	"net"
	"regexp"
	"strings"
)

// hint returns what to do about an error that has another reason in a container than
// outside one, to append to the line.
func hint(line string) string {
	if m := regexp.MustCompile(`dial tcp (127\.[0-9.]+|\[::1\]):([0-9]+): connect: connection refused`).FindStringSubmatch(line); m != nil {
		address := "tcp://" + net.JoinHostPort(strings.Trim(m[1], "[]"), m[2])
		how := fmt.Sprintf("with-registry --service %s for a registry, with-cluster --service %[1]s for a cluster", address)
		switch {
		case strings.Contains(line, "registry "):
			how = "with-registry --service " + address
		case regexp.MustCompile(`(?i)kubernetes|cluster|/version`).MatchString(line):
			how = "with-cluster --service " + address
		}
		return fmt.Sprintf(" (%s is an address of the container, not of your machine; to reach your machine, add %s, or SLIPWAY_SERVICES=%s to .env)",
			net.JoinHostPort(strings.Trim(m[1], "[]"), m[2]), how, address)
	}
	// A service on the caller's machine is reached by its own address or by a name of the
	// module. If nothing listens there, the engine accepts the connection and closes it.
	if m := regexp.MustCompile(`\b(?:127\.[0-9.]+|localhost|cluster|registry|port-[0-9]+):([0-9]+)\S*: EOF`).FindStringSubmatch(line); m != nil {
		return fmt.Sprintf(" (nothing answers at port %s of your machine; check that what should listen there is running)", m[1])
	}
	if unreachable(line) && strings.Contains(line, "pull") {
		return " (" + mirror + ")"
	}
	return ""
}

const mirror = "to pull images from a mirror, add --images mirror=REGISTRY after dagger call, or SLIPWAY_IMAGES=mirror=REGISTRY to .env"

func unreachable(line string) bool {
	return regexp.MustCompile(`no such host|i/o timeout|connection refused|connection reset|no route to host|network is unreachable|TLS handshake|TOOMANYREQUESTS|toomanyrequests`).
		MatchString(line)
}

// Engine adds to an error of the engine what to do about it. images are the images of the
// module by their name in --images, as they are pulled.
func Engine(text string, images map[string]string) string {
	m := regexp.MustCompile(`failed to resolve image "([^"]+)"`).FindStringSubmatch(text)
	if m == nil {
		return text
	}
	var todo []string
	for name, reference := range images {
		if reference != "" && strings.HasSuffix(m[1], reference) {
			todo = append(todo, fmt.Sprintf("to use another image, add --images %s=REFERENCE after dagger call", name))
			break
		}
	}
	if unreachable(text) {
		todo = append(todo, mirror)
	}
	if todo == nil {
		return text
	}
	return text + " (" + strings.Join(todo, "; ") + ")"
}
