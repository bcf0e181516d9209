package release

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
	"github.com/slipway-ci/slipway/pipeline/fault"
)

// applyError gives an error of an operation of Helm its code and fix. If the Waiter
// has failed, it returns the error of the Waiter, because Helm reduces the errors of
// hooks to text.
func (c *Client) applyError(err error) error {
	if err == nil {
		return nil
	}
	if c.kube.waitErr != nil {
		return c.kube.waitErr
	}
	if known, ok := errors.AsType[*fault.Error](err); ok { // of a check before something is applied
		return known
	}
	text := oneLine(err.Error())
	switch {
	case apierrors.IsRequestEntityTooLargeError(err), strings.Contains(text, "Too long: "), strings.Contains(text, "Request entity too large"):
		return fault.Gatef("deploy.release-too-large", "release %s does not fit into a Secret of 1 MiB: %w", c.Name, c.brief(err)).
			WithFix("exclude large files from the chart with .helmignore; see https://github.com/helm/helm/issues/6711")
	case strings.Contains(text, "field is immutable"):
		return fault.Gatef("deploy.immutable", "%w", c.brief(err)).WithFix("Kubernetes cannot change this field: delete the object by hand, or rename it")
	case strings.Contains(text, "cannot be imported into the current release"):
		return c.conflict(err)
	case strings.Contains(text, "exceeded quota"):
		return fault.Gatef("deploy.quota", "%w", c.brief(err)).WithFix("raise the ResourceQuota of the namespace, or lower the requests of the chart")
	case strings.Contains(text, "admission webhook"), strings.Contains(text, "violates PodSecurity"), strings.Contains(text, "denied the request"), strings.Contains(text, "ValidatingAdmissionPolicy"):
		return fault.Gatef("deploy.admission", "%w", c.brief(err))
	}
	return c.explain("applying", err)
}

// explain adds to an error what was being done to which release, and how to fix it.
func (c *Client) explain(doing string, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	e := fault.Failedf("deploy.failed", "%s: release %s in namespace %s: %w", doing, c.Name, c.Namespace, c.brief(err))
	switch {
	case apierrors.IsForbidden(err), strings.Contains(err.Error(), "is forbidden: User"):
		e.Code = "deploy.forbidden"
		return e.WithFix("grant this to the Role of the deployer; docs/deploy.md lists the required permissions")
	case apierrors.IsUnauthorized(err):
		e.Code = "deploy.unauthorized"
		return e.WithFix("renew the credentials in the kubeconfig")
	case unreachable(err):
		e.Code = "deploy.unreachable"
		return e.WithFix("check the server in the kubeconfig and the network")
	}
	return e
}

// brief returns an error on one line, without the parts that do not matter and without
// secrets.
func (c *Client) brief(err error) error { return brief.Error(err, c.Mask) }

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
