//go:build linux

// Command devcluster runs a real one-node Kubernetes on this machine for
// tests and demonstrations. It is not for production.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// defaultName is the cluster's, and its kubeconfig's.
const defaultName = "devcluster"

// upFD is where the host process tells the up that started it how it goes.
const upFD = 3

// usageError is a mistake of the caller's, or a machine that cannot do it.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// interrupted is the cause of a context ended by a signal.
type interrupted struct{ os.Signal }

func (i interrupted) Error() string { return "stopped by " + i.Signal.String() }

func main() {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	go func() {
		cancel(interrupted{<-signals})
		// A second signal ends the program at once.
		signal.Stop(signals)
	}()
	os.Exit(execute(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// execute runs one command line and returns its exit code: 1 for a failure,
// 2 for what the caller must change, 130 after a signal.
func execute(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := rootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "devcluster:", err)
	switch {
	case errors.As(err, new(interrupted)):
		return 130
	case errors.As(err, new(usageError)):
		return 2
	}
	return 1
}

func rootCommand() *cobra.Command {
	var name, stateDir string
	root := &cobra.Command{
		Use:   "devcluster",
		Short: "A real one-node Kubernetes on this machine, for tests and demonstrations",
		Long: `devcluster runs a real one-node Kubernetes on this Linux machine, as root, in
namespaces of its own: API server, controller manager, scheduler, kubelet,
kube-proxy, etcd and CoreDNS, built once from their published Go modules, and
the distribution's containerd and runc. It pulls images from registries on
127.0.0.1 and needs no internet once it is built.

It is for tests and demonstrations, not for production. Whoever has a
kubeconfig already (kind, k3d, EKS and so on) does not need it.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q; devcluster --help lists them", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVar(&name, "name", defaultName, "name of the cluster and of its node")
	flags.StringVar(&stateDir, "state-dir", "", "folder of the clusters' state (default: devcluster/state in slipway's cache)")
	cluster := func() (*Cluster, error) {
		dir, err := stateFolder(stateDir)
		if err != nil {
			return nil, err
		}
		return newCluster(dir, name)
	}

	var o options
	var output string
	upCommand := &cobra.Command{
		Use:   "up",
		Short: "start the cluster, or say that it runs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster()
			if err != nil {
				return err
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			cache, err := cacheFolder()
			if err != nil {
				return err
			}
			o.bin = filepath.Join(cache, "bin")
			p := progress{cmd.ErrOrStderr(), time.Now()}
			if err := up(cmd.Context(), c, o, p); err != nil {
				return err
			}
			s := c.Status()
			if s.Node != nil {
				s.Node.Ready = s.State == "running"
			}
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), s)
			}
			p.say("cluster %s is up: Kubernetes %s at %s", c.Name, s.Versions.Kubernetes, s.Server)
			p.say("use it: export KUBECONFIG=%s; kubectl get nodes", s.Kubeconfig)
			fmt.Fprintln(cmd.OutOrStdout(), s.Kubeconfig)
			return nil
		},
	}
	flags = upCommand.Flags()
	flags.StringVar(&o.source, "source", "", "folder of devcluster's module (default: the nearest devcluster/go.mod at or above the working directory)")
	flags.StringVar(&o.listen, "listen", "127.0.0.1", "address of this machine the API server answers at; any but 127.0.0.1 opens it to others, who need a certificate of its")
	flags.StringArrayVar(&o.registries, "registry", []string{"127.0.0.1:5077"}, "registry on this machine the node pulls from, by the same name; repeatable")
	flags.StringSliceVar(&o.services, "services", nil, "backing services to start in namespace backing: "+strings.Join(serviceNames(), ", "))
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "give up after this long; building the programs does not count")
	flags.StringVarP(&output, "output", "o", "text", "text (the kubeconfig's path) or json")

	var all bool
	downCommand := &cobra.Command{
		Use:   "down",
		Short: "stop the cluster and remove everything of it but the built programs",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var clusters []*Cluster
			if all {
				dir, err := stateFolder(stateDir)
				if err != nil {
					return err
				}
				if clusters, err = everyCluster(dir); err != nil {
					return err
				}
			} else {
				c, err := cluster()
				if err != nil {
					return err
				}
				clusters = []*Cluster{c}
			}
			if os.Geteuid() != 0 {
				return usageError{errors.New("the cluster's processes are root's: run it as root")}
			}
			p := progress{cmd.ErrOrStderr(), time.Now()}
			var failed error
			for _, c := range clusters {
				was, err := down(cmd.Context(), c)
				switch {
				case err != nil:
					failed = errors.Join(failed, fmt.Errorf("taking down cluster %s: %w", c.Name, err))
				case was:
					p.say("cluster %s is down", c.Name)
				default:
					p.say("there is no cluster %s", c.Name)
				}
			}
			return failed
		},
	}
	downCommand.Flags().BoolVar(&all, "all", false, "every cluster of the state folder")

	statusCommand := &cobra.Command{
		Use:   "status",
		Short: "say whether the cluster runs, and where",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster()
			if err != nil {
				return err
			}
			if err := checkOutput(output); err != nil {
				return err
			}
			s := c.Status()
			if s.State == "running" {
				a, err := newAPI(c.Path("pki"), s.Server)
				if err != nil {
					return err
				}
				if err := nodeReady(cmd.Context(), a, c.Name); err != nil {
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
		},
	}
	statusCommand.Flags().StringVarP(&output, "output", "o", "text", "text or json")

	var path bool
	kubeconfigCommand := &cobra.Command{
		Use:   "kubeconfig",
		Short: "print the administrator's kubeconfig",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster()
			if err != nil {
				return err
			}
			data, err := os.ReadFile(c.Kubeconfig())
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no cluster %s; devcluster up starts it", c.Name)
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
	kubeconfigCommand.Flags().BoolVar(&path, "path", false, "print where it lies instead")

	var as string
	loadCommand := &cobra.Command{
		Use:   "load IMAGE",
		Short: "put an image into the node: an OCI layout, a docker or OCI archive, or a reference in a registry on 127.0.0.1",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("load takes one image")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := cluster()
			if err != nil {
				return err
			}
			if s := c.Status(); s.State != "running" {
				return fmt.Errorf("cluster %s is %s; devcluster up starts it", c.Name, s.State)
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
	loadCommand.Flags().StringVar(&as, "as", "", "name the image gets (default: the one it carries)")

	// The two processes of a running cluster are this program again.
	runCommand := &cobra.Command{
		Use: "run", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := cluster()
			if err != nil {
				return err
			}
			unix.CloseOnExec(upFD)
			return host(cmd.Context(), c, os.NewFile(upFD, "up"))
		},
	}
	initCommand := &cobra.Command{
		Use: "init", Hidden: true, Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			if os.Getpid() != 1 {
				return usageError{errors.New("init is the first process of a node; devcluster up starts it")}
			}
			c, err := cluster()
			if err != nil {
				return err
			}
			return nodeInit(c)
		},
	}
	root.AddCommand(upCommand, downCommand, statusCommand, kubeconfigCommand, loadCommand, runCommand, initCommand)
	return root
}

func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no arguments, but there is %q", cmd.Name(), args[0])}
	}
	return nil
}

func checkOutput(output string) error {
	if output != "text" && output != "json" {
		return usageError{fmt.Errorf("-o %q: it must be text or json", output)}
	}
	return nil
}

// cacheFolder is devcluster's part of slipway's cache.
func cacheFolder() (string, error) {
	if dir := os.Getenv("SLIPWAY_CACHE"); dir != "" {
		return filepath.Abs(filepath.Join(dir, "devcluster"))
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", usageError{fmt.Errorf("finding the cache folder: %w; set SLIPWAY_CACHE", err)}
	}
	return filepath.Join(dir, "slipway", "devcluster"), nil
}

func stateFolder(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	return filepath.Join(cache, "state"), nil
}

// everyCluster lists what the state folder holds.
func everyCluster(dir string) ([]*Cluster, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the state folder: %w", err)
	}
	var clusters []*Cluster
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		c, err := newCluster(dir, entry.Name())
		if err != nil {
			return nil, fmt.Errorf("reading the state folder %s: %w", dir, err)
		}
		clusters = append(clusters, c)
	}
	return clusters, nil
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
	if s.State == "stopped" {
		return
	}
	if s.Node != nil {
		ready := "not ready"
		if s.Node.Ready {
			ready = "Ready"
		}
		line("node", fmt.Sprintf("%s, %s, at %s", s.Node.Name, ready, s.Node.Address))
	}
	if s.State == "running" {
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
