package listener_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/listener"
	"github.com/slipway-ci/slipway/pipeline/toolchain"
)

func TestFind(t *testing.T) {
	dir := testkit.Tree(t, map[string]string{
		"go.mod":              "module example.com/app\n\ngo 1.26\n",
		"cmd/direct/main.go":  "package main\n\nimport \"net/http\"\n\nfunc main() { _ = http.ListenAndServe(\":8080\", nil) }\n",
		"cmd/through/main.go": "package main\n\nimport \"example.com/app/server\"\n\nfunc main() { server.Serve() }\n",
		"cmd/worker/main.go":  "package main\n\nimport \"net/http\"\n\nfunc main() { _, _ = http.Get(\"http://example.com:80\") }\n",
		"cmd/tagged/main.go":  "package main\n\nfunc main() { serve() }\n",
		"cmd/tagged/on.go":    "//go:build on\n\npackage main\n\nimport \"net\"\n\nfunc serve() { _, _ = net.Listen(\"tcp\", \":1\") }\n",
		"cmd/tagged/off.go":   "//go:build !on\n\npackage main\n\nfunc serve() {}\n",
		"server/server.go":    "package server\n\nimport \"net/http\"\n\nfunc Serve() { _ = new(http.Server).ListenAndServe() }\n",
	})
	go1, err := toolchain.Find(t.Context(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	mains := []string{"./cmd/direct", "./cmd/through", "./cmd/worker", "./cmd/tagged"}
	o := listener.Options{Dir: dir, Module: "example.com/app", Mains: mains, Go: go1}
	want := map[string]string{"./cmd/direct": "cmd/direct/main.go:5", "./cmd/through": "server/server.go:5", "./cmd/worker": "", "./cmd/tagged": ""}
	if diff := cmp.Diff(want, listener.Find(t.Context(), o)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	o.Tags = []string{"on"}
	want["./cmd/tagged"] = "cmd/tagged/on.go:7"
	if diff := cmp.Diff(want, listener.Find(t.Context(), o)); diff != "" {
		t.Errorf("with a build tag (-want +got):\n%s", diff)
	}
	if got := listener.Find(t.Context(), listener.Options{Dir: dir, Module: "example.com/app", Mains: mains}); len(got) != 0 {
		t.Errorf("without a toolchain: %v", got)
	}
}
