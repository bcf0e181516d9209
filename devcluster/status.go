//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// The states of a cluster.
const (
	stateStopped  = "stopped"
	stateStarting = "starting"
	stateRunning  = "running"
	stateBroken   = "broken"
)

// Status is what "devcluster status -o json" and "devcluster up -o json"
// print.
type Status struct {
	Name string `json:"name"`
	// State is running, starting, stopped or broken.
	State string `json:"state"`
	// Reason says why the cluster is broken or its node not ready.
	Reason string `json:"reason,omitempty"`
	// Server is the URL of the API server on the host.
	Server string `json:"server,omitempty"`
	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Context is the name of the kubeconfig's context.
	Context string `json:"context,omitempty"`
	// Registry lists the host's registries that the node pulls from, as
	// HOST:PORT.
	Registry []string `json:"registry,omitempty"`
	// Services lists the backing services that accept connections.
	Services []string  `json:"services,omitempty"`
	Node     *NodeInfo `json:"node,omitempty"`
	Network  *Network  `json:"network,omitempty"`
	// DNS is the IP address of the cluster's DNS server.
	DNS      string    `json:"dns,omitempty"`
	Versions *Versions `json:"versions,omitempty"`
	// Started is when the cluster was started.
	Started time.Time `json:"started,omitzero"`
	// PID is the process ID of the host process. On SIGTERM it stops the
	// cluster.
	PID int `json:"pid,omitempty"`
	// Logs is the directory of the servers' logs.
	Logs string `json:"logs,omitempty"`
}

// NodeInfo describes the cluster's only node.
type NodeInfo struct {
	Name string `json:"name"`
	// Address is the node's IP address.
	Address string `json:"address"`
	// Ready reports whether the node's Ready condition is True.
	Ready bool `json:"ready"`
}

// Status returns the cluster's state as far as its state directory and its
// processes show it. It does not ask the API server, so Node.Ready is false.
func (c *Cluster) Status() Status {
	s := Status{Name: c.Name, State: stateStopped}
	r, err := c.Record()
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err != nil {
		s.State, s.Reason = stateBroken, err.Error()
		return s
	}
	s.Registry, s.Services, s.Versions = r.Registries, r.Services, &r.Versions
	s.Context, s.Started, s.Logs = c.Context(), r.Started, c.Path("log")
	if r.Network.Node.IsValid() {
		s.Network, s.DNS, s.Server = &r.Network, r.Network.DNS().String(), r.Server()
		s.Node = &NodeInfo{Name: c.Name, Address: r.Network.Node.String()}
	}
	if _, err := os.Stat(c.Kubeconfig()); err == nil {
		s.Kubeconfig = c.Kubeconfig()
	}
	switch {
	case c.Failure() != "":
		s.State, s.Reason = stateBroken, c.Failure()
	case !r.Host.Alive():
		s.State, s.Reason = stateBroken, "the host process ended without reporting an error; it may have been killed"
	case r.Init.PID != 0 && !r.Init.Alive():
		s.State, s.Reason = stateBroken, "the node's first process has ended"
	case !r.Ready:
		s.State = stateStarting
	default:
		s.State, s.PID = stateRunning, r.Host.PID
	}
	return s
}

func printJSON(to io.Writer, value any) error {
	encoder := json.NewEncoder(to)
	encoder.SetIndent("", "  ")
	return encoder.Encode(value)
}

func printStatus(to io.Writer, s Status) {
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(to, "%-11s %s\n", key, value)
		}
	}
	line("cluster", s.Name)
	state := s.State
	if s.Reason != "" {
		state += ": " + s.Reason
	}
	line("state", state)
	if s.State == stateStopped {
		return
	}
	if s.Node != nil {
		ready := "not ready"
		if s.Node.Ready {
			ready = "Ready"
		}
		line("node", fmt.Sprintf("%s, %s, at %s", s.Node.Name, ready, s.Node.Address))
	}
	if s.State == stateRunning {
		line("uptime", time.Since(s.Started).Round(time.Second).String())
	}
	line("server", s.Server)
	line("kubeconfig", s.Kubeconfig)
	line("context", s.Context)
	if s.Network != nil {
		line("networks", fmt.Sprintf("pods %s, services %s, DNS %s", s.Network.Pods, s.Network.Services, s.DNS))
	}
	line("registry", strings.Join(s.Registry, ", "))
	line("services", strings.Join(s.Services, ", "))
	if v := s.Versions; v != nil {
		line("versions", fmt.Sprintf("Kubernetes %s, etcd %s, CoreDNS %s, containerd %s", v.Kubernetes, v.Etcd, v.CoreDNS, v.Containerd))
	}
	line("logs", s.Logs)
}
