package references

import "testing"

func TestReference(t *testing.T) {
	const digest = "@sha256:a688600ca24f8a4d3ca77f95b0dd40704a9fc787c826660eb7ba0b641b8b175d"
	for _, tc := range []struct{ image, mirror, want string }{
		{"golang:1.26", "", "golang:1.26"},
		{"golang:1.26" + digest, "mirror.example.com", "mirror.example.com/library/golang:1.26" + digest},
		{"golangci/golangci-lint:v2", "mirror.example.com/hub/", "mirror.example.com/hub/golangci/golangci-lint:v2"},
		{"docker.io/redis:7", "localhost:5000", "localhost:5000/library/redis:7"},
		{"docker.io/library/redis:7", "localhost:5000", "localhost:5000/library/redis:7"},
		{"gcr.io/distroless/static" + digest, "m.example.com", "m.example.com/distroless/static" + digest},
		{"localhost/x", "m", "m/x"},
		{"127.0.0.1:5000/a/b:c", "m", "m/a/b:c"},
	} {
		if got := (Set{Mirror: tc.mirror}).Reference(tc.image); got != tc.want {
			t.Errorf("%s at %q: got %s, want %s", tc.image, tc.mirror, got, tc.want)
		}
	}
}

func TestParse(t *testing.T) {
	s, err := Parse([]string{"go=localhost:5000/go:1", "mirror=m.example.com"})
	want := Pinned()
	want.Go, want.Mirror = "localhost:5000/go:1", "m.example.com"
	if err != nil || s != want {
		t.Errorf("got %+v, %v", s, err)
	}
	for _, entry := range []string{"golang=x", "go", "go=", "=x", ""} {
		if _, err := Parse([]string{entry}); err == nil {
			t.Errorf("%q was accepted", entry)
		}
	}
}
