//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// upFD is the file descriptor on which the host process reports its progress
// to the "devcluster up" that started it.
const upFD = 3

const longHelp = `devcluster runs a real single-node Kubernetes cluster on this Linux machine. It
must run as root, because the node runs in its own Linux namespaces. The node
consists of the API server, controller manager, scheduler, kubelet, kube-proxy,
etcd and CoreDNS, which devcluster builds once from their published Go modules,
and of the distribution's containerd and runc. The node pulls images from
registries on 127.0.0.1. After the first build it needs no internet access.

devcluster is for tests and demonstrations, not for production. If you already
have a kubeconfig for another cluster, for example kind, k3d or EKS, you do not
need devcluster.`

// commandLine holds the flags that all commands share.
type commandLine struct {
	name     string
	stateDir string
}

// root returns the command with all its subcommands.
func (l *commandLine) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "devcluster",
		Short:         "Run a real single-node Kubernetes cluster on this machine",
		Long:          longHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; run devcluster --help for a list of commands", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&l.name, "name", defaultName, "name of the cluster and of its node")
	flags.StringVar(&l.stateDir, "state-dir", "", "directory that holds the state of all clusters (default: devcluster/state in slipway's cache directory)")
	root.AddCommand(l.upCommand(), l.downCommand(), l.statusCommand(), l.kubeconfigCommand(), l.loadCommand(), l.runCommand(), l.initCommand())
	return root
}

// cluster returns the cluster that the flags select.
func (l *commandLine) cluster() (*Cluster, error) {
	dir, err := stateDir(l.stateDir)
	if err != nil {
		return nil, err
	}
	return newCluster(dir, l.name)
}

func (l *commandLine) upCommand() *cobra.Command {
	var o options
	var output string
	command := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster if it is not running",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.runUp(cmd.Context(), cmd, o, output)
		},
	}
	flags := command.Flags()
	flags.StringVar(&o.source, "source", "", "directory of devcluster's Go module (default: the nearest devcluster/go.mod in the working directory or above it)")
	flags.StringVar(&o.listen, "listen", "127.0.0.1", "IP address of this machine on which the API server listens; with any address other than 127.0.0.1 other machines can connect, and they need a client certificate or token of the cluster")
	flags.StringArrayVar(&o.registries, "registry", []string{"127.0.0.1:5077"}, "registry on this machine that the node pulls from, by the same name; can be repeated")
	flags.StringSliceVar(&o.services, "services", nil, "backing services to start in the namespace backing: "+strings.Join(serviceNames(), ", "))
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "maximum time to wait until the cluster is ready, not including the time to build its programs")
	flags.StringVarP(&output, "output", "o", "text", "output format: text (the path of the kubeconfig) or json")
	return command
}

func (l *commandLine) runUp(ctx context.Context, cmd *cobra.Command, o options, output string) error {
	c, err := l.cluster()
	if err != nil {
		return err
	}
	if err := checkOutput(output); err != nil {
		return err
	}
	cache, err := cacheDir()
	if err != nil {
		return err
	}
	o.bin = filepath.Join(cache, "bin")
	p := progress{cmd.ErrOrStderr(), time.Now()}
	if err := up(ctx, c, o, p); err != nil {
		return err
	}
	s := c.Status()
	if s.Node != nil {
		s.Node.Ready = s.State == stateRunning
	}
	if output == "json" {
		return printJSON(cmd.OutOrStdout(), s)
	}
	p.say("cluster %s is running: Kubernetes %s at %s", c.Name, s.Versions.Kubernetes, s.Server)
	p.say("to use it, run: export KUBECONFIG=%s; kubectl get nodes", s.Kubeconfig)
	fmt.Fprintln(cmd.OutOrStdout(), s.Kubeconfig)
	return nil
}

func (l *commandLine) downCommand() *cobra.Command {
	var all bool
	command := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster and delete everything except the built programs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.runDown(cmd.Context(), cmd, all)
		},
	}
	command.Flags().BoolVar(&all, "all", false, "stop and delete every cluster in the state directory")
	return command
}

func (l *commandLine) runDown(ctx context.Context, cmd *cobra.Command, all bool) error {
	clusters, err := l.selected(all)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return usageError{errors.New("the processes of the cluster belong to root: run devcluster down as root")}
	}
	p := progress{cmd.ErrOrStderr(), time.Now()}
	var failed error
	for _, c := range clusters {
		existed, err := down(ctx, c)
		switch {
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("stopping cluster %s: %w", c.Name, err))
		case existed:
			p.say("cluster %s is stopped and deleted", c.Name)
		default:
			p.say("cluster %s does not exist", c.Name)
		}
	}
	return failed
}

// selected returns the named cluster, or all clusters of the state directory.
func (l *commandLine) selected(all bool) ([]*Cluster, error) {
	if !all {
		c, err := l.cluster()
		return []*Cluster{c}, err
	}
	dir, err := stateDir(l.stateDir)
	if err != nil {
		return nil, err
	}
	return everyCluster(dir)
}

func (l *commandLine) statusCommand() *cobra.Command {
	var output string
	command := &cobra.Command{
		Use:   "status",
		Short: "Show whether the cluster is running, and its addresses and versions",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return l.runStatus(cmd.Context(), cmd, output)
		},
	}
	command.Flags().StringVarP(&output, "output", "o", "text", "output format: text or json")
	return command
}

func (l *commandLine) runStatus(ctx context.Context, cmd *cobra.Command, output string) error {
	c, err := l.cluster()
	if err != nil {
		return err
	}
	if err := checkOutput(output); err != nil {
		return err
	}
	s := c.Status()
	if s.State == stateRunning {
		a, err := newAPI(c.Path("pki"), s.Server)
		if err != nil {
			return err
		}
		if err := nodeReady(ctx, a, c.Name); err != nil {
			s.Reason = "the node is not Ready: " + err.Error()
		} else {
			s.Node.Ready = true
		}
	}
	if output == "json" {
		return printJSON(cmd.OutOrStdout(), s)
	}
	printStatus(cmd.OutOrStdout(), s)
	return nil
}

func (l *commandLine) kubeconfigCommand() *cobra.Command {
	var path bool
	command := &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := l.cluster()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(c.Kubeconfig())
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cluster %s does not exist; start it with devcluster up", c.Name)
			}
			if err != nil {
				return fmt.Errorf("reading the kubeconfig: %w", err)
			}
			if path {
				data = []byte(c.Kubeconfig() + "\n")
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	command.Flags().BoolVar(&path, "path", false, "print the path of the kubeconfig instead of its contents")
	return command
}

func (l *commandLine) loadCommand() *cobra.Command {
	var as string
	command := &cobra.Command{
		Use:   "load IMAGE",
		Short: "Load an image into the node from an OCI layout, a docker or OCI archive, or a registry on 127.0.0.1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{fmt.Errorf("load takes one image, got %d arguments", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := l.cluster()
			if err != nil {
				return err
			}
			if s := c.Status(); s.State != stateRunning {
				return fmt.Errorf("cluster %s is %s; start it with devcluster up", c.Name, s.State)
			}
			r, err := c.Record()
			if err != nil {
				return err
			}
			name, err := load(cmd.Context(), c, r, args[0], as)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), name)
			return nil
		},
	}
	command.Flags().StringVar(&as, "as", "", "name of the image in the node (default: the name recorded in the image)")
	return command
}

// runCommand returns the hidden command of the host process.
func (l *commandLine) runCommand() *cobra.Command {
	return &cobra.Command{
		Use: "run", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := l.cluster()
			if err != nil {
				return err
			}
			unix.CloseOnExec(upFD)
			return host(cmd.Context(), c, os.NewFile(upFD, "up"))
		},
	}
}

// initCommand returns the hidden command of the node's first process.
func (l *commandLine) initCommand() *cobra.Command {
	return &cobra.Command{
		Use: "init", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if os.Getpid() != 1 {
				return usageError{errors.New("devcluster init must be the first process of a node; devcluster up starts it")}
			}
			c, err := l.cluster()
			if err != nil {
				return err
			}
			return nodeInit(context.WithoutCancel(cmd.Context()), c)
		},
	}
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments, got %q", cmd.Name(), args[0])}
	}
	return nil
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usageError{fmt.Errorf("invalid value %q for --output: it must be text or json", output)}
	}
	return nil
}
