package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"
	"k8s.io/metrics/pkg/apis/custom_metrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
)

const (
	metricName  = "http_requests_per_second"
	counterName = "http_requests_total"
)

// sample is the value of the counter of a pod at a time.
type sample struct {
	at    time.Time
	value float64
}

// rates holds the samples of all pods. It is safe for concurrent use.
type rates struct {
	client kubernetes.Interface
	http   *http.Client
	window time.Duration

	mu   sync.Mutex
	pods map[types.NamespacedName][]sample // oldest first
}

func newRates(client kubernetes.Interface, window time.Duration) *rates {
	return &rates{client: client, http: &http.Client{Timeout: 2 * time.Second}, window: window, pods: map[types.NamespacedName][]sample{}}
}

// follow reads the counters of all pods until ctx ends.
func (r *rates) follow(ctx context.Context, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := r.read(ctx); err != nil && ctx.Err() == nil {
			klog.ErrorS(err, "reading the counters")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// read reads the counters of all pods once, and forgets pods that are gone.
func (r *rates) read(ctx context.Context) error {
	pods, err := r.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
	if err != nil {
		return fmt.Errorf("listing the pods: %w", err)
	}
	var wait sync.WaitGroup
	found := map[types.NamespacedName]bool{}
	for _, pod := range pods.Items {
		if pod.Annotations["prometheus.io/scrape"] != "true" || pod.Status.PodIP == "" {
			continue
		}
		found[types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}] = true
		wait.Go(func() { r.readPod(ctx, pod) })
	}
	wait.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.pods {
		if !found[name] {
			delete(r.pods, name)
		}
	}
	return nil
}

// readPod reads the counter of a pod. A pod that does not answer keeps the samples that it
// has, so that its rate ends with the window.
func (r *rates) readPod(ctx context.Context, pod corev1.Pod) {
	path := pod.Annotations["prometheus.io/path"]
	if path == "" {
		path = "/metrics"
	}
	value, err := r.counter(ctx, "http://"+net.JoinHostPort(pod.Status.PodIP, pod.Annotations["prometheus.io/port"])+path)
	if err != nil {
		klog.V(2).ErrorS(err, "reading the counter", "pod", klog.KObj(&pod))
		return
	}
	name := types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	kept := r.pods[name]
	if n := len(kept); n > 0 && value < kept[n-1].value {
		kept = nil // the container was restarted
	}
	for len(kept) > 1 && now.Sub(kept[0].at) > r.window {
		kept = kept[1:]
	}
	r.pods[name] = append(kept, sample{now, value})
}

// counter returns the sum of all series of the counter.
func (r *rates) counter(ctx context.Context, url string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := r.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("the pod answered %s", resp.Status)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, m := range families[counterName].GetMetric() {
		sum += m.GetCounter().GetValue()
	}
	return sum, nil
}

// rate returns the rate of a pod. The bool is false as long as there are not two samples.
func (r *rates) rate(name types.NamespacedName) (custom_metrics.MetricValue, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.pods[name]
	if len(all) < 2 {
		return custom_metrics.MetricValue{}, false
	}
	first, last := all[0], all[len(all)-1]
	took := last.at.Sub(first.at)
	seconds := int64(took.Seconds())
	return custom_metrics.MetricValue{
		DescribedObject: custom_metrics.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: name.Namespace, Name: name.Name},
		Metric:          custom_metrics.MetricIdentifier{Name: metricName},
		Timestamp:       metav1.NewTime(last.at), WindowSeconds: &seconds,
		Value: *resource.NewMilliQuantity(int64((last.value-first.value)/took.Seconds()*1000), resource.DecimalSI),
	}, true
}

// GetMetricByName implements [provider.CustomMetricsProvider].
func (r *rates) GetMetricByName(_ context.Context, name types.NamespacedName, info provider.CustomMetricInfo, _ labels.Selector) (*custom_metrics.MetricValue, error) {
	value, ok := r.rate(name)
	if !ok || info.Metric != metricName || info.GroupResource.Resource != "pods" {
		return nil, provider.NewMetricNotFoundForError(info.GroupResource, info.Metric, name.Name)
	}
	return &value, nil
}

// GetMetricBySelector implements [provider.CustomMetricsProvider].
func (r *rates) GetMetricBySelector(ctx context.Context, namespace string, selector labels.Selector, info provider.CustomMetricInfo, _ labels.Selector) (*custom_metrics.MetricValueList, error) {
	if info.Metric != metricName || info.GroupResource.Resource != "pods" {
		return nil, provider.NewMetricNotFoundError(info.GroupResource, info.Metric)
	}
	pods, err := r.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("listing the pods: %w", err)
	}
	list := &custom_metrics.MetricValueList{}
	for _, pod := range pods.Items {
		if value, ok := r.rate(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}); ok {
			list.Items = append(list.Items, value)
		}
	}
	return list, nil
}

// ListAllMetrics implements [provider.CustomMetricsProvider].
func (r *rates) ListAllMetrics() []provider.CustomMetricInfo {
	return []provider.CustomMetricInfo{{GroupResource: schema.GroupResource{Resource: "pods"}, Namespaced: true, Metric: metricName}}
}
