package rollout

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// pullReason reports whether a reason of the kubelet means that an image cannot be pulled,
// and whether that is final. A reason that is not final can have a temporary cause.
func pullReason(r string) (is, final bool) {
	switch r {
	case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable":
		return true, false
	case "ErrImageNeverPull", "ImageInspectError", "SignatureValidationFailed":
		return true, true
	}
	return false, false
}

// pull examines a container whose image cannot be pulled.
func (c container) pull(w *corev1.ContainerStateWaiting, final bool) finding {
	last, tries := c.attempts(func(e Event) bool {
		return e.Reason == "Failed" && strings.HasPrefix(e.Message, "Failed to pull image")
	})
	cause := shortPull(w.Message, c.spec.Image)
	if strings.HasPrefix(w.Message, "Back-off pulling image") {
		// Newer kubelets append the cause of the last attempt. Older ones report it
		// only in an event.
		_, after, _ := strings.Cut(w.Message, ": ErrImagePull: ")
		cause = shortPull(after, c.spec.Image)
		if cause == "" {
			cause = shortPull(last.Message, c.spec.Image)
		}
	}
	t := finding{grace: untilDeadline, Problem: Problem{
		Kind:    ImagePull,
		Reason:  w.Reason,
		Message: "cannot pull " + c.spec.Image + suffix(cmp.Or(cause, w.Message)),
		Known:   last.First,
	}}
	var sure bool
	t.Fix, sure = c.pullFix(cause)
	// A pod from before this rollout may still be in a long back-off although the image
	// exists by now, so only a new attempt counts.
	if !c.duringRollout(c.pod.CreationTimestamp.Time) && tries == 0 {
		t.Message += " (before this rollout; Kubernetes will retry)"
		return t
	}
	if final || sure || tries >= 2 || w.Reason == "ImagePullBackOff" {
		t.grace = c.patience.Image
	}
	return t
}

// pullFix returns how to fix a failed pull, and whether the cause is definite, so that a
// retry cannot succeed.
func (c container) pullFix(cause string) (fix string, definite bool) {
	low := strings.ToLower(cause)
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(low, w) })
	}
	host := registryHost(c.spec.Image)
	switch {
	case c.spec.ImagePullPolicy == corev1.PullNever:
		return "load the image onto the node, or set imagePullPolicy to IfNotPresent", true
	case has("unauthorized", "authorization failed", "authentication required", "denied", "forbidden"):
		return fmt.Sprintf("add an imagePullSecret for %s to namespace %s, for a user that is allowed to pull the image", host, c.pod.Namespace), true
	case has("not found", "manifest unknown", "name unknown"):
		return "push the image, or correct its name, tag or digest", true
	case has("no match for platform"):
		return "build the image for the node's platform", true
	case has("server gave http response to https client"):
		return "configure the container runtime of the node to access " + host + " without TLS", true
	case has("x509", "certificate"):
		return "configure the container runtime of the node to trust the certificate of " + host, true
	case has("connection refused", "no such host", "i/o timeout", "no route to host", "deadline exceeded"):
		return "make " + host + " reachable from the node", false
	case has("too many requests", "toomanyrequests", "429"):
		return "pull through a mirror, or log in to " + host, false
	}
	return "", false
}

// registryHost returns the registry of an image reference, which is docker.io if the
// reference contains none.
func registryHost(image string) string {
	host, _, ok := strings.Cut(image, "/")
	if ok && (strings.ContainsAny(host, ".:") || host == "localhost") {
		return host
	}
	return "docker.io"
}

// shortPull removes the prefixes that the layers of a container runtime add to the cause
// of a failed pull.
func shortPull(message, image string) string {
	m := oneLine(message)
	for {
		before := m
		for _, wrap := range []string{
			`^Failed to pull image "[^"]*": `,
			`^Failed to apply default image tag "[^"]*": `,
			`^rpc error: code = \w+ desc = `,
			`^failed to pull and unpack image "[^"]*": `,
			`^failed to resolve (reference )?"[^"]*": `,
			`^failed to resolve image: `,
			`^Error response from daemon: `,
			`^(pull access|unexpected status from) HEAD request to \S+: `,
		} {
			m = regexp.MustCompile(wrap).ReplaceAllString(m, "")
		}
		if image != "" {
			m = strings.TrimPrefix(m, image+": ")
		}
		if m == before {
			return m
		}
	}
}
