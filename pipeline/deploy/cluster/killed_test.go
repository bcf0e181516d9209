package cluster_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
)

// victimVariable contains the options of a deployment that runs in a separate process, so
// that a test can kill it.
const victimVariable = "SLIPWAY_TEST_VICTIM"

// soakVariable is the number of times that a deployment is killed or cut off. It is set
// by make soak.
const soakVariable = "SLIPWAY_TEST_SOAK"

// victim runs the deployment in victimVariable and returns the exit code of the process.
func victim() int {
	var order struct {
		Options deploy.Options
		Image   string
	}
	if err := json.Unmarshal([]byte(os.Getenv(victimVariable)), &order); err != nil {
		fmt.Println(err)
		return 2
	}
	image, err := name.NewDigest(order.Image)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	if _, err := (cluster.Tool{}).Deploy(context.Background(), order.Options, testkit.Verified(image)); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// attempts returns the number in soakVariable, or 4 if it is not set.
func attempts() int {
	if n, err := strconv.Atoi(os.Getenv(soakVariable)); err == nil && n > 0 {
		return n
	}
	return 4
}

// TestKilledDeploymentIsRecovered kills deployments with SIGKILL at random moments. The
// next deployment must succeed without help and remove everything that the killed one
// applied.
func TestKilledDeploymentIsRecovered(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	n := attempts()
	// The moments are chosen within the time that a complete deployment takes.
	start := time.Now()
	p.mustDeploy(t, deploy.Upgraded, map[string]any{"env": map[string]any{"RUN": "complete"}})
	duration := time.Since(start) + 300*time.Millisecond // for the start of the process
	recovered, early := 0, 0
	for i := range n {
		set := map[string]any{"env": map[string]any{"RUN": fmt.Sprint("killed-", i)}, "extra": map[string]any{fmt.Sprint("killed-", i): map[string]any{"a": "b"}}, "hook": "exit0"}
		text, err := json.Marshal(map[string]any{"Options": p.with(set), "Image": p.image.Name()})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), victimVariable+"="+string(text))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		at := time.Duration(rand.Int64N(int64(duration)))
		timer := time.AfterFunc(at, func() { _ = cmd.Process.Kill() })
		if cmd.Wait() == nil {
			early++ // it ended before it was killed
		}
		timer.Stop()
		want := fmt.Sprint("after-", i)
		r, err := p.deploy(t, map[string]any{"env": map[string]any{"RUN": want}})
		if err != nil {
			t.Errorf("killed after %s: %v", at, err)
			continue
		}
		maps, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), fmt.Sprint("killed-", i), metav1.GetOptions{})
		if err == nil {
			t.Errorf("killed after %s: ConfigMap %s remains (%s, %s)", at, maps.Name, r.Before, r.Action)
			continue
		}
		if got := env(p.deployment(t))["RUN"]; got != want {
			t.Errorf("killed after %s: RUN is %q, want %q", at, got, want)
			continue
		}
		recovered++
	}
	t.Logf("%d of %d recovered, %d of them had ended before they were killed; a complete deployment takes %s", recovered, n, early, duration.Round(time.Millisecond))
}

// cutOff is a transport that simulates a network failure: after a number of requests,
// every request fails for two seconds.
type cutOff struct {
	base  http.RoundTripper
	left  *atomic.Int64 // requests before the failure
	until *atomic.Int64 // the end of the failure, in nanoseconds since 1970
}

func (c cutOff) RoundTrip(r *http.Request) (*http.Response, error) {
	now := time.Now().UnixNano()
	if c.left.Add(-1) == 0 {
		c.until.Store(now + int64(2*time.Second))
	}
	if now < c.until.Load() {
		return nil, fmt.Errorf("read tcp: connection reset by peer")
	}
	return c.base.RoundTrip(r)
}

// WrappedRoundTripper lets client-go find the wrapped transport.
func (c cutOff) WrappedRoundTripper() http.RoundTripper { return c.base }

// TestDeploymentSurvivesCutConnection interrupts the network to the API server at random
// requests. The deployment or the next one must succeed.
func TestDeploymentSurvivesCutConnection(t *testing.T) {
	p := newTestRelease(t)
	p.mustDeploy(t, deploy.Installed, nil)
	n := attempts()
	recovered, sameRun := 0, 0
	for i := range n {
		var left, until atomic.Int64
		left.Store(1 + rand.Int64N(60))
		at := left.Load()
		tool := cluster.Tool{Transport: func(base http.RoundTripper) http.RoundTripper { return cutOff{base, &left, &until} }}
		o := p.with(map[string]any{"env": map[string]any{"RUN": fmt.Sprint("cut-", i)}, "extra": map[string]any{fmt.Sprint("cut-", i): map[string]any{"a": "b"}}})
		if _, err := tool.Deploy(t.Context(), o, testkit.Verified(p.image)); err == nil {
			sameRun++
		}
		want := fmt.Sprint("after-", i)
		if r, err := p.deploy(t, map[string]any{"env": map[string]any{"RUN": want}}); err != nil {
			t.Errorf("interrupted at request %d: %+v %v", at, r, err)
			continue
		}
		if _, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), fmt.Sprint("cut-", i), metav1.GetOptions{}); err == nil {
			t.Errorf("interrupted at request %d: the ConfigMap remains", at)
			continue
		}
		recovered++
	}
	t.Logf("%d of %d recovered, %d of them in the same run", recovered, n, sameRun)
}

// recode changes a release in the storage of Helm, which is gzipped JSON in base64.
func recode(t *testing.T, data []byte, change func(map[string]any)) []byte {
	t.Helper()
	zipped, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var release map[string]any
	if err := json.Unmarshal(text, &release); err != nil {
		t.Fatal(err)
	}
	change(release)
	if text, err = json.Marshal(release); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return []byte(base64.StdEncoding.EncodeToString(b.Bytes()))
}
