package release

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/slipway-ci/slipway/pipeline/fault"
)

func (c *Client) applyErrorOrNil(err error) error {
	if err == nil {
		return nil
	}
	return c.applyError(err)
}

// applyError gives back what the Waiter said where it was the Waiter, because
// Helm flattens errors of hooks to text.
func (c *Client) applyError(err error) error {
	if c.kube.waitErr != nil {
		return c.kube.waitErr
	}
	text := oneLine(err.Error())
	switch {
	case apierrors.IsRequestEntityTooLargeError(err), strings.Contains(text, "Too long: "), strings.Contains(text, "Request entity too large"):
		return fault.Gatef("deploy.release-too-large", "release %s does not fit into a Secret of 1 MiB: %s", c.Name, text).
			WithFix("keep large files out of the chart with .helmignore (https://github.com/helm/helm/issues/6711)")
	case strings.Contains(text, "field is immutable"):
		return fault.Gatef("deploy.immutable", "%s", text).WithFix("Kubernetes does not change this field: delete the object by hand, or give it a new name")
	case strings.Contains(text, "cannot be imported into the current release"):
		return conflict(text)
	case strings.Contains(text, "exceeded quota"):
		return fault.Gatef("deploy.quota", "%s", text).WithFix("raise the namespace's ResourceQuota or ask for less")
	case strings.Contains(text, "admission webhook"), strings.Contains(text, "violates PodSecurity"), strings.Contains(text, "denied the request"):
		return fault.Gatef("deploy.admission", "%s", text)
	}
	return c.explain("applying", err)
}

// explain says what was being done to which release, and what to do about it.
func (c *Client) explain(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := fault.Failedf("deploy.failed", "%s: release %s in namespace %s: %w", doing, c.Name, c.Namespace, flat{err})
	switch {
	case apierrors.IsForbidden(err), strings.Contains(err.Error(), "is forbidden: User"):
		e.Code = "deploy.forbidden"
		return e.WithFix("the deployer's Role lacks this; docs/deploy.md has what is needed")
	case apierrors.IsUnauthorized(err):
		e.Code = "deploy.unauthorized"
		return e.WithFix("renew the credentials in the kubeconfig")
	case unreachable(err):
		e.Code = "deploy.unreachable"
		return e.WithFix("check the kubeconfig's server and the network")
	}
	return e
}

// flat puts an error on one line; Helm lists several one below the other.
type flat struct{ error }

func (f flat) Error() string { return oneLine(f.error.Error()) }

func (f flat) Unwrap() error { return f.error }

func unreachable(err error) bool {
	text := err.Error()
	for _, s := range []string{"connection refused", "no such host", "i/o timeout", "Kubernetes cluster unreachable", "connection reset", "no route to host", "Client.Timeout"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
