package cluster_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/slipway-ci/slipway/pipeline/deploy"
)

// rate is the number of requests per second that are sent during rollouts.
const rate = 200

// TestNoRequestIsLost sends requests to the Service while good versions are rolled out and
// bad versions are rolled back.
func TestNoRequestIsLost(t *testing.T) {
	p := newTestRelease(t)
	good, bad := 3, 1
	if os.Getenv(soakVariable) != "" {
		good, bad = 20, 5
	}
	base := map[string]any{"replicas": 2}
	p.mustDeploy(t, deploy.Installed, base)
	service, err := p.Client.CoreV1().Services(p.o.Namespace).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + service.Spec.ClusterIP + "/"
	// The node routes requests to a new Service shortly after its pods are ready.
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for until := time.Now().Add(10 * time.Second); ; <-tick.C {
		err := get(t.Context(), &http.Client{Timeout: time.Second}, url)
		if err == nil {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the Service did not answer within 10 s: %v", err)
		}
	}
	load := startLoad(t.Context(), url)
	for i := range good {
		set := map[string]any{"replicas": 2, "env": map[string]any{"ROUND": strconv.Itoa(i)}}
		p.mustDeploy(t, deploy.Upgraded, set)
		if i%max(good/bad, 1) != 0 || i/max(good/bad, 1) >= bad {
			continue
		}
		set["mode"] = []string{"crash", "unready", "unstarted"}[i%3]
		if r, err := p.deploy(t, set); err == nil || r.Action != deploy.RolledBack {
			t.Errorf("%+v %v", r, err)
		}
	}
	sent, failed, lastErr := load.stop()
	t.Logf("%d requests over %d rollouts and %d rollbacks, %d failed", sent, good, bad, failed)
	if failed > 0 || sent < 1000 {
		t.Errorf("%d of %d requests failed, for example: %v", failed, sent, lastErr)
	}
}

// load sends requests at a constant rate, even if earlier requests are not answered yet.
// Every second request uses a new connection.
type load struct {
	cancel       context.CancelFunc
	done         sync.WaitGroup
	sent, failed atomic.Int64
	lastErr      atomic.Value
}

func startLoad(ctx context.Context, url string) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{cancel: cancel}
	kept := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 50}}
	fresh := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	l.done.Go(func() {
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		defer kept.CloseIdleConnections()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			client := kept
			if i%2 == 0 {
				client = fresh
			}
			l.done.Go(func() {
				l.sent.Add(1)
				if err := get(context.WithoutCancel(ctx), client, url); err != nil {
					l.failed.Add(1)
					l.lastErr.Store(time.Now().Format("15:04:05.000 ") + err.Error())
				}
			})
		}
	})
	return l
}

func get(ctx context.Context, client *http.Client, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}

func (l *load) stop() (sent, failed int64, lastErr any) {
	l.cancel()
	l.done.Wait()
	return l.sent.Load(), l.failed.Load(), l.lastErr.Load()
}
