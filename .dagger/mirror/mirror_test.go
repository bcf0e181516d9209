package mirror

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
		if got := Reference(tc.image, tc.mirror); got != tc.want {
			t.Errorf("%s at %q: got %s, want %s", tc.image, tc.mirror, got, tc.want)
		}
	}
}
