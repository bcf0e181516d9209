//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// api sends requests to the API server as the administrator. client-go would
// add several hundred packages for the few requests that are needed here.
type api struct {
	client *http.Client
	server string
}

// apiError is an error response of the API server.
type apiError struct {
	code    int
	message string
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d)", e.message, e.code) }

// newAPI returns an api for the given server URL. It reads the administrator's
// certificate from the directory pki.
func newAPI(pki, server string) (*api, error) {
	own, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("reading the cluster's CA certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &api{server: server, client: &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: pool}},
	}}, nil
}

// do sends a request and decodes the JSON response into out, unless out is nil.
// A response with a status of 300 or above is an *apiError.
func (a *api) do(ctx context.Context, method, path string, body, out any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encoding a request to the API server: %w", err)
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.server+path, reader)
	if err != nil {
		return fmt.Errorf("sending a request to the API server: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return fmt.Errorf("sending a request to the API server: %w", err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("reading the API server's response: %w", err)
	}
	if response.StatusCode >= 300 {
		var status struct{ Message string }
		if json.Unmarshal(data, &status) != nil || status.Message == "" {
			status.Message = string(data)
		}
		return &apiError{response.StatusCode, status.Message}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("reading the API server's response: %w", err)
	}
	return nil
}

// create creates an object. It is not an error if the object already exists.
func (a *api) create(ctx context.Context, path string, object any) error {
	err := a.do(ctx, http.MethodPost, path, object, nil)
	if refusal := (*apiError)(nil); errors.As(err, &refusal) && refusal.code == http.StatusConflict {
		return nil
	}
	return err
}

// eventually calls try until it succeeds or ctx is done. At the deadline of ctx
// it returns the error of the last complete attempt.
func eventually(ctx context.Context, what string, try func(context.Context) error) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var last error
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		// An attempt that the deadline interrupted has a less useful error than
		// the attempt before it.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if cause := context.Cause(ctx); !errors.Is(cause, context.DeadlineExceeded) {
				return cause
			}
			return fmt.Errorf("timed out waiting for %s: %w", what, last)
		case <-tick.C:
		}
	}
}

// object is a Kubernetes object as decoded JSON.
type object = map[string]any

// allowDNS grants CoreDNS read access to the resources that its kubernetes
// plugin watches.
func allowDNS(ctx context.Context, a *api) error {
	const group = "/apis/rbac.authorization.k8s.io/v1/"
	meta := object{"name": "system:coredns"}
	read := []string{"list", "watch"}
	err := a.create(ctx, group+"clusterroles", object{
		"metadata": meta,
		"rules": []object{
			{"apiGroups": []string{""}, "resources": []string{"endpoints", "services", "pods", "namespaces"}, "verbs": read},
			{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": read},
		},
	})
	if err != nil {
		return fmt.Errorf("granting CoreDNS access to Services: %w", err)
	}
	err = a.create(ctx, group+"clusterrolebindings", object{
		"metadata": meta,
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
		"subjects": []object{{"kind": "User", "name": "system:coredns", "apiGroup": "rbac.authorization.k8s.io"}},
	})
	if err != nil {
		return fmt.Errorf("granting CoreDNS access to Services: %w", err)
	}
	return nil
}

// nodeReady returns nil if the node is Ready. Otherwise the error is the message
// of the node's Ready condition.
func nodeReady(ctx context.Context, a *api, name string) error {
	var node struct {
		Status struct {
			Conditions []struct{ Type, Status, Message string }
		}
	}
	if err := a.do(ctx, http.MethodGet, "/api/v1/nodes/"+name, nil, &node); err != nil {
		return err
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == "Ready" {
			if condition.Status == "True" {
				return nil
			}
			return errors.New(condition.Message)
		}
	}
	return errors.New("the kubelet has not reported the status of the node yet")
}
