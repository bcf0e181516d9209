package command

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/sealed"
	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/ship"
)

func (a *app) sealCommand() *cobra.Command {
	r := &request{}
	var file, controller string
	cmd := &cobra.Command{
		Use: "seal [SECRET[/KEY]...]", Short: "Encrypt the Secrets of an environment, so that they can be kept in git",
		Long: `Encrypt the Secrets of an environment, so that they can be kept in git. Their values come
from the environment variables that deploy.environments.ENVIRONMENT.secrets names. Only the
controller of Sealed Secrets in the cluster can decrypt them; slipway deploy applies them and
waits until it has. The certificate for this comes from the controller, or from a file.`,
		Example: `  slipway seal --env prod                        seals all Secrets of the environment
  slipway seal --env prod orders/database-password
  slipway seal --env prod --cert sealing.pem     needs no access to the cluster`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			var err error
			if r.Root, r.Config, err = a.load(); err != nil {
				return err
			}
			if err := a.complete(r); err != nil {
				return err
			}
			o, err := ship.DeployOptions(r.Root, r.Config, r.Environment, r.Deployment, nil)
			if err != nil {
				return err
			}
			text, err := a.certificate(cmd.Context(), o, file, controller)
			if err != nil {
				return err
			}
			certificate, err := sealed.ParseCertificate(text, time.Now())
			if err != nil {
				return err
			}
			done, err := ship.Seal(r.Root, o, certificate, args, os.LookupEnv)
			if err != nil {
				return err
			}
			if a.json {
				a.printJSON(done)
				return nil
			}
			for _, s := range done {
				fmt.Fprintf(a.out, "wrote %s (%s)\n", s.File, strings.Join(s.Keys, ", "))
				if len(s.Removed) > 0 {
					fmt.Fprintf(a.out, "removed %s, which slipway.yaml does not list\n", strings.Join(s.Removed, ", "))
				}
			}
			fmt.Fprintln(a.out, "next: commit the files; slipway deploy applies them")
			return nil
		},
	}
	f := cmd.Flags()
	clusterFlags(r, f)
	f.StringVar(&file, "cert", "", "certificate of the controller, as a `FILE` in PEM (default: ask the controller)")
	f.StringVar(&controller, "controller", "kube-system/sealed-secrets-controller", "Service of the controller, as `NAMESPACE/NAME`")
	return cmd
}

// certificate returns the certificate for sealing from a file or from the controller.
func (a *app) certificate(ctx context.Context, o deploy.Options, file, controller string) ([]byte, error) {
	if file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.Inputf("usage", "--cert: %w", err)
		}
		return text, nil
	}
	if a.program.Deployer == nil {
		return nil, fault.Inputf("deploy.no-deployer", "this slipway was built without support for clusters").WithFix("use the slipway program, or --cert FILE")
	}
	namespace, name, ok := strings.Cut(controller, "/")
	if !ok || namespace == "" || name == "" {
		return nil, fault.Inputf("usage", "--controller %q is not NAMESPACE/NAME", controller)
	}
	return a.program.Deployer.Certificate(ctx, o, deploy.SealingController{Namespace: namespace, Name: name})
}
