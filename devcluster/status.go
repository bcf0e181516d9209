//go:build linux

package main

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// Status is what `status -o json` and `up -o json` print.
type Status struct {
	Name       string    `json:"name"`
	State      string    `json:"state"`            // running, starting, stopped or broken
	Reason     string    `json:"reason,omitempty"` // why it is broken
	Server     string    `json:"server,omitempty"` // the API server, on the host
	Kubeconfig string    `json:"kubeconfig,omitempty"`
	Context    string    `json:"context,omitempty"`
	Registry   []string  `json:"registry,omitempty"` // host registries the node pulls from
	Services   []string  `json:"services,omitempty"`
	Node       *NodeInfo `json:"node,omitempty"`
	Network    *Network  `json:"network,omitempty"`
	DNS        string    `json:"dns,omitempty"`
	Versions   *Versions `json:"versions,omitempty"`
	Started    time.Time `json:"started,omitzero"`
	PID        int       `json:"pid,omitempty"` // the host process; it stops the cluster on SIGTERM
	Logs       string    `json:"logs,omitempty"`
}

// NodeInfo is the one node.
type NodeInfo struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Ready   bool   `json:"ready"`
}

// Status finds out how the cluster is, without asking the API server.
func (c *Cluster) Status() Status {
	s := Status{Name: c.Name, State: "stopped"}
	r, err := c.Record()
	if errors.Is(err, fs.ErrNotExist) {
		return s
	}
	if err != nil {
		s.State, s.Reason = "broken", err.Error()
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
		s.State, s.Reason = "broken", c.Failure()
	case !r.Host.Alive():
		s.State, s.Reason = "broken", "its host process has gone without a word (killed?)"
	case r.Init.PID != 0 && !r.Init.Alive():
		s.State, s.Reason = "broken", "the node's first process has gone"
	case !r.Ready:
		s.State = "starting"
	default:
		s.State, s.PID = "running", r.Host.PID
	}
	return s
}
