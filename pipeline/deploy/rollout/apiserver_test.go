package rollout_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// fakeAPIServer is a fake of the Kubernetes API server. It implements list, watch, get, logs and
// resource versions. Tests use it for failures that a real API server cannot be made to show.
type fakeAPIServer struct {
	t      *testing.T
	server *httptest.Server

	mu          sync.Mutex
	changed     chan struct{}                         // closed and replaced at every change
	version     int                                   // the last resource version
	objects     map[string]*unstructured.Unstructured // by resource/namespace/name
	history     []historyEntry                        // all changes
	oldest      int                                   // the oldest resource version that a watch can start from
	forbid      map[string]bool                       // forbidden resources
	unreachable bool                                  // whether requests fail without an answer
	silent      bool                                  // whether watches stay open and send nothing
	watches     int                                   // the number of watches that have started
	cut         int                                   // the watches up to this number are ended
	logs        map[string]string                     // by pod/container/previous
	requests    map[string]int                        // the number of requests by resource
	hold        map[string]chan struct{}              // requests for a resource wait until its channel is closed
	open        map[net.Conn]bool                     // open connections
}

// historyEntry is a change of an object.
type historyEntry struct {
	version  int
	kind     string
	resource string
	object   *unstructured.Unstructured
}

func newFakeAPIServer(t *testing.T, objects ...*unstructured.Unstructured) *fakeAPIServer {
	a := &fakeAPIServer{
		t: t, changed: make(chan struct{}), version: 100, objects: map[string]*unstructured.Unstructured{},
		forbid: map[string]bool{}, logs: map[string]string{}, requests: map[string]int{},
		hold: map[string]chan struct{}{}, open: map[net.Conn]bool{},
	}
	a.server = httptest.NewUnstartedServer(a)
	a.server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		a.update(func() {
			if a.open[c] = true; state == http.StateClosed {
				delete(a.open, c)
			}
		})
	}
	a.server.Start()
	t.Cleanup(a.server.Close)
	a.put(objects...)
	return a
}

func (a *fakeAPIServer) config() *rest.Config { return &rest.Config{Host: a.server.URL} }

func resourceOf(kind string) string { return strings.ToLower(kind) + "s" }

// update changes the state of the server and wakes up its watches.
func (a *fakeAPIServer) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *fakeAPIServer) put(objects ...*unstructured.Unstructured) {
	a.update(func() {
		for _, u := range objects {
			u = u.DeepCopy()
			a.version++
			u.SetResourceVersion(strconv.Itoa(a.version))
			key := resourceOf(u.GetKind()) + "/" + u.GetNamespace() + "/" + u.GetName()
			kind := "MODIFIED"
			if a.objects[key] == nil {
				kind = "ADDED"
			}
			a.objects[key] = u
			a.history = append(a.history, historyEntry{a.version, kind, resourceOf(u.GetKind()), u})
		}
	})
}

func (a *fakeAPIServer) remove(u *unstructured.Unstructured) {
	a.update(func() {
		a.version++
		u = u.DeepCopy()
		u.SetResourceVersion(strconv.Itoa(a.version))
		delete(a.objects, resourceOf(u.GetKind())+"/"+u.GetNamespace()+"/"+u.GetName())
		a.history = append(a.history, historyEntry{a.version, "DELETED", resourceOf(u.GetKind()), u})
	})
}

// cutWatches ends all watches. With forget, the server also discards the resource versions
// that they could be resumed from.
func (a *fakeAPIServer) cutWatches(forget bool) {
	a.update(func() {
		a.cut = a.watches
		if forget {
			a.version++
			a.oldest = a.version
		}
	})
}

func (a *fakeAPIServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if i := slices.Index(parts, "v1"); i >= 0 {
		parts = parts[i+1:]
	}
	ns, name, sub := "", "", ""
	if parts[0] == "namespaces" {
		ns, parts = parts[1], parts[2:]
	}
	resource := parts[0]
	if len(parts) > 1 {
		name = parts[1]
	}
	if len(parts) > 2 {
		sub = "/" + parts[2]
	}
	q := r.URL.Query()
	a.mu.Lock()
	unreachable, forbidden, hold := a.unreachable, a.forbid[resource+sub], a.hold[resource]
	a.requests[resource+sub]++
	a.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case unreachable:
		panic(http.ErrAbortHandler) // it closes the connection without an answer
	case forbidden:
		status(w, http.StatusForbidden, "Forbidden", resource+sub+" is forbidden: User \"ci\" cannot do it")
	case sub == "/log":
		a.mu.Lock()
		text, ok := a.logs[fmt.Sprintf("%s/%s/%s", name, q.Get("container"), q.Get("previous"))]
		a.mu.Unlock()
		if !ok {
			status(w, http.StatusBadRequest, "BadRequest", "the container does not exist")
			return
		}
		fmt.Fprint(w, text)
	case name != "":
		a.mu.Lock()
		u := a.objects[resource+"/"+ns+"/"+name]
		a.mu.Unlock()
		if u == nil {
			status(w, http.StatusNotFound, "NotFound", name+" not found")
			return
		}
		reply(w, u)
	case q.Get("watch") != "":
		a.watch(w, r, resource, ns)
	default:
		a.list(w, r, resource, ns)
	}
}

func (a *fakeAPIServer) list(w http.ResponseWriter, r *http.Request, resource, ns string) {
	a.mu.Lock()
	version, items := strconv.Itoa(a.version), []any{}
	for _, key := range slices.Sorted(maps.Keys(a.objects)) {
		if u := a.objects[key]; strings.HasPrefix(key, resource+"/"+ns+"/") && selected(r, u) {
			items = append(items, u.Object)
		}
	}
	a.mu.Unlock()
	reply(w, map[string]any{
		"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": version}, "items": items,
	})
}

// selected reports whether an object matches the selectors of a request.
func selected(r *http.Request, u *unstructured.Unstructured) bool {
	q := r.URL.Query()
	if f := q.Get("fieldSelector"); f != "" && f != "metadata.name="+u.GetName() {
		return false
	}
	sel, err := labels.Parse(q.Get("labelSelector"))
	return err == nil && sel.Matches(labels.Set(u.GetLabels()))
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if u, ok := v.(*unstructured.Unstructured); ok {
		v = u.Object
	}
	_ = json.NewEncoder(w).Encode(v)
}

func statusObject(code int, reason, message string) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
}

func status(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(statusObject(code, reason, message))
}

func (a *fakeAPIServer) watch(w http.ResponseWriter, r *http.Request, resource, ns string) {
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	a.mu.Lock()
	a.watches++
	number, oldest := a.watches, a.oldest
	a.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	if since < oldest {
		_ = out.Encode(map[string]any{"type": "ERROR", "object": statusObject(http.StatusGone, "Expired", "too old resource version")})
		return
	}
	w.(http.Flusher).Flush()
	next := 0
	for {
		a.mu.Lock()
		changed, cut, unreachable, silent := a.changed, number <= a.cut, a.unreachable, a.silent
		var send []historyEntry
		if !silent {
			send = slices.Clone(a.history[next:])
			next = len(a.history)
		}
		a.mu.Unlock()
		for _, p := range send {
			if p.version > since && p.resource == resource && p.object.GetNamespace() == ns && selected(r, p.object) {
				_ = out.Encode(map[string]any{"type": p.kind, "object": p.object.Object})
			}
		}
		w.(http.Flusher).Flush()
		if unreachable {
			panic(http.ErrAbortHandler)
		}
		if cut {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// eventually waits until a condition of the server is true.
func (a *fakeAPIServer) eventually(what string, ok func() bool) {
	a.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		a.mu.Lock()
		yes := ok()
		changed := a.changed
		a.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-changed:
		case <-time.After(5 * time.Millisecond):
		}
	}
	a.t.Fatalf("timeout while waiting for: %s", what)
}

// unusedAddress returns the configuration of an API server that does not exist.
func unusedAddress(t *testing.T) *rest.Config {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &rest.Config{Host: "http://" + l.Addr().String()}
}
