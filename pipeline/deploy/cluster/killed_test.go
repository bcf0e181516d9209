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

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/slipway-ci/slipway/internal/testkit"
	"github.com/slipway-ci/slipway/pipeline/deploy"
	"github.com/slipway-ci/slipway/pipeline/deploy/cluster"
)

// victimVariable holds the options of a deployment that is run by a process of
// its own, to be killed.
const victimVariable = "SLIPWAY_TEST_VICTIM"

// soakVariable is how many points of a deployment are tried; make soak sets it.
const soakVariable = "SLIPWAY_TEST_SOAK"

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

func points(t *testing.T, short int) int {
	t.Helper()
	if n, err := strconv.Atoi(os.Getenv(soakVariable)); err == nil && n > 0 {
		return n
	}
	return short
}

// TestKilledAnywhereRecovers kills deployments at random moments with SIGKILL.
// The next one must succeed by itself, and leave nothing of the dead one.
func TestKilledAnywhereRecovers(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	n := points(t, 4)
	// How long a whole one takes says where to aim.
	start := time.Now()
	p.must(t, deploy.Upgraded, map[string]any{"env": map[string]any{"RUN": "whole"}})
	whole := time.Since(start) + 300*time.Millisecond // the process starts first
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
		at := time.Duration(rand.Int64N(int64(whole)))
		timer := time.AfterFunc(at, func() { _ = cmd.Process.Kill() })
		if cmd.Wait() == nil {
			early++ // it was done before
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
			t.Errorf("killed after %s: ConfigMap %s was left (%s, %s)", at, maps.Name, r.Before, r.Action)
			continue
		}
		if got := env(p.deployment(t))["RUN"]; got != want {
			t.Errorf("killed after %s: RUN is %q, want %q", at, got, want)
			continue
		}
		recovered++
	}
	t.Logf("%d of %d recovered, %d of them had ended before the kill; a whole deployment takes %s", recovered, n, early, whole.Round(time.Millisecond))
}

// cutting cuts the network to the API server: after so many requests every one
// fails for a while.
type cutting struct {
	base  http.RoundTripper
	left  *atomic.Int64
	until *atomic.Int64
}

func (c cutting) RoundTrip(r *http.Request) (*http.Response, error) {
	now := time.Now().UnixNano()
	if c.left.Add(-1) == 0 {
		c.until.Store(now + int64(2*time.Second))
	}
	if now < c.until.Load() {
		return nil, fmt.Errorf("read tcp: connection reset by peer")
	}
	return c.base.RoundTrip(r)
}

// WrappedRoundTripper lets client-go find the transport below.
func (c cutting) WrappedRoundTripper() http.RoundTripper { return c.base }

// TestCutAnywhereRecovers cuts the network to the API server at random requests.
func TestCutAnywhereRecovers(t *testing.T) {
	p := newPlace(t)
	p.must(t, deploy.Installed, nil)
	n := points(t, 4)
	recovered, alone := 0, 0
	for i := range n {
		var left, until atomic.Int64
		left.Store(1 + rand.Int64N(60))
		at := left.Load()
		tool := cluster.Tool{Transport: func(base http.RoundTripper) http.RoundTripper { return cutting{base, &left, &until} }}
		o := p.with(map[string]any{"env": map[string]any{"RUN": fmt.Sprint("cut-", i)}, "extra": map[string]any{fmt.Sprint("cut-", i): map[string]any{"a": "b"}}})
		if _, err := tool.Deploy(t.Context(), o, testkit.Verified(p.image)); err == nil {
			alone++
		}
		want := fmt.Sprint("after-", i)
		if r, err := p.deploy(t, map[string]any{"env": map[string]any{"RUN": want}}); err != nil {
			t.Errorf("cut at request %d: %+v %v", at, r, err)
			continue
		}
		if _, err := p.Client.CoreV1().ConfigMaps(p.o.Namespace).Get(t.Context(), fmt.Sprint("cut-", i), metav1.GetOptions{}); err == nil {
			t.Errorf("cut at request %d: a ConfigMap was left", at)
			continue
		}
		recovered++
	}
	t.Logf("%d of %d recovered, %d of them without another run", recovered, n, alone)
}

// recode changes a release in Helm's storage: base64 of gzip of JSON.
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
