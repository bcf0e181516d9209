package command

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/slipway-ci/slipway/pipeline/fault"
	"github.com/slipway-ci/slipway/pipeline/sign"
)

// Environment variables with the password of a private key. The second is the one that
// cosign uses.
const (
	passwordVariable       = "SLIPWAY_KEY_PASSWORD"
	cosignPasswordVariable = "COSIGN_PASSWORD"
)

// keyPassword returns the password of the private key from the environment, which can be
// empty. set reports whether one of the variables exists.
func keyPassword() (password sign.Secret, set bool) {
	for _, name := range []string{passwordVariable, cosignPasswordVariable} {
		if v, ok := os.LookupEnv(name); ok {
			return sign.Hide([]byte(v)), true
		}
	}
	return sign.Secret{}, false
}

func (a *app) keysCommand() *cobra.Command {
	keys := &cobra.Command{
		Use: "keys", Short: "Generate keys for signing", Args: cobra.NoArgs,
		Example: "  slipway keys generate",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var private, public string
	var force, stdin bool
	generate := &cobra.Command{
		Use: "generate", Short: "Generate a private key and its public key, in cosign's format", Args: cobra.NoArgs,
		Example: `  slipway keys generate               asks for a password; cosign.key and cosign.pub
  ` + passwordVariable + `=... slipway keys generate --private release.key --public release.pub
  pass show slipway | slipway keys generate --password-stdin`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.requireReportOutput(); err != nil {
				return err
			}
			if a.program.Signer == nil {
				return fault.Inputf("sign.no-signer", "this slipway was built without support for generating keys").WithFix("use the slipway program")
			}
			password, err := a.newPassword(stdin)
			if err != nil {
				return err
			}
			k, err := a.program.Signer.GenerateKeys(cmd.Context(), sign.KeysOptions{Private: private, Public: public, Password: password, Force: force})
			if err != nil {
				return err
			}
			if a.json {
				a.printJSON(k)
				return nil
			}
			fmt.Fprintf(a.out, "wrote %s (keep it secret) and %s\nfingerprint %s\n", k.Private, k.Public, k.Fingerprint)
			fmt.Fprintf(a.out, "next: set sign.key: %s and verify.keys: [%s] in slipway.yaml\n", k.Private, k.Public)
			return nil
		},
	}
	f := generate.Flags()
	f.StringVar(&private, "private", "cosign.key", "`FILE` of the private key")
	f.StringVar(&public, "public", "cosign.pub", "`FILE` of the public key")
	f.BoolVar(&force, "force", false, "replace existing files")
	f.BoolVar(&stdin, "password-stdin", false, "read the password from standard input (or "+passwordVariable+")")
	keys.AddCommand(generate)
	return keys
}

// newPassword returns the password for a new key: from standard input if stdin is true,
// otherwise from the environment, otherwise from a prompt on the terminal, where it must
// be typed twice. An empty password is accepted only from an environment variable, so
// that nobody generates an unprotected key by accident.
func (a *app) newPassword(stdin bool) (sign.Secret, error) {
	if stdin {
		text, err := readPassword(a.stdin)
		return sign.Hide([]byte(text)), err
	}
	if password, set := keyPassword(); set {
		return password, nil
	}
	in, ok := a.stdin.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return sign.Secret{}, fault.Inputf("usage", "there is no password for the key").
			WithFix("set %s, which may be empty, or use --password-stdin", passwordVariable)
	}
	ask := func(what string) ([]byte, error) {
		fmt.Fprint(a.stderr, what)
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.stderr)
		return text, err
	}
	first, err := ask("password for the key: ")
	if err != nil {
		return sign.Secret{}, fmt.Errorf("reading the password: %w", err)
	}
	again, err := ask("once more: ")
	if err != nil {
		return sign.Secret{}, fmt.Errorf("reading the password: %w", err)
	}
	if !bytes.Equal(first, again) {
		return sign.Secret{}, fault.Inputf("usage", "the passwords differ")
	}
	if len(first) == 0 {
		return sign.Secret{}, fault.Inputf("usage", "the password is empty").WithFix("to generate a key without a password, set %s to the empty string", passwordVariable)
	}
	return sign.Hide(first), nil
}
