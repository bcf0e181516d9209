package starter

import (
	"context"
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
	out, _, err := o.Go.ListPackages(ctx, o.Dir, o.Env, "-json=EmbedFiles,TestEmbedFiles,XTestEmbedFiles", "--", "./...")
	if err != nil {
		return false
	}
	type embedding struct{ EmbedFiles, TestEmbedFiles, XTestEmbedFiles []string }
	packages, _ := toolchain.Values[embedding](out) // what follows a malformed value is left out
	return slices.ContainsFunc(packages, func(p embedding) bool {
		return slices.ContainsFunc(slices.Concat(p.EmbedFiles, p.TestEmbedFiles, p.XTestEmbedFiles), func(f string) bool { return strings.HasSuffix(f, ending) })
	})
}
