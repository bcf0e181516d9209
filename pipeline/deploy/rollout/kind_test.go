package rollout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/slipway-ci/slipway/internal/testkit"
)

// TestEveryKindIsInTheTable checks that every declared kind of failure has a complete row
// in Kinds.
func TestEveryKindIsInTheTable(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "kind.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var declared []Kind
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if ident, ok := spec.Type.(*ast.Ident); !ok || ident.Name != "Kind" {
			return true
		}
		text, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		declared = append(declared, Kind(text))
		return true
	})
	if len(declared) < 10 {
		t.Fatalf("kind.go declares only the kinds %v", declared)
	}
	var table []Kind
	for _, k := range Kinds() {
		table = append(table, k.Kind)
		if k.Means == "" || k.When == "" {
			t.Errorf("the row of %s is incomplete", k.Kind)
		}
	}
	for _, k := range declared {
		if n := len(slices.DeleteFunc(slices.Clone(table), func(o Kind) bool { return o != k })); n != 1 {
			t.Errorf("%s has %d rows in Kinds, want 1", k, n)
		}
	}
	if len(table) != len(declared) {
		t.Errorf("Kinds has %d rows for %d kinds", len(table), len(declared))
	}
}

// TestKindsAreDocumented checks that the table in docs/deploy.md matches Kinds.
func TestKindsAreDocumented(t *testing.T) {
	testkit.GoldenSection(t, "../../../docs/deploy.md", "failures", KindsTable())
}
