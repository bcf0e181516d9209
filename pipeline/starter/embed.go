package starter

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

// Embeds reports whether a package of the module embeds a file whose name has the given
// ending, so that a build needs it. It is false if the go command cannot tell.
func Embeds(ctx context.Context, o Options, ending string) bool {
	if o.Go == nil {
		return false
	}
	cmd := toolchain.Command(ctx, o.Go.Program, "list", "-e", "-json=EmbedFiles,TestEmbedFiles,XTestEmbedFiles", "--", "./...")
	cmd.Dir = o.Dir
	cmd.Env = o.Go.Env(append([]string{"GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=1"}, o.Env...)...)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := toolchain.Run(cmd); err != nil {
		return false
	}
	for dec := json.NewDecoder(&out); ; {
		var p struct{ EmbedFiles, TestEmbedFiles, XTestEmbedFiles []string }
		if dec.Decode(&p) != nil {
			return false
		}
		if slices.ContainsFunc(slices.Concat(p.EmbedFiles, p.TestEmbedFiles, p.XTestEmbedFiles), func(f string) bool { return strings.HasSuffix(f, ending) }) {
			return true
		}
	}
}
