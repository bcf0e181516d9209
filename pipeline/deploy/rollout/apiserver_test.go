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

// apiServer answers list, watch, get and logs as a Kubernetes API server does,
// resource versions and all, and fails in its ways when told to.
type apiServer struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change
	version int
	objects map[string]*unstructured.Unstructured // by resource/namespace/name
	history []past
	oldest  int // versions before it are gone
	forbid  map[string]bool
	away    bool
	frozen  bool // watches send nothing, though they stay open
	cut     int  // watches begun before this count are cut
	watches int
	logs    map[string]string // by pod/container/previous
	asked   map[string]int
	hold    map[string]chan struct{} // requests for a resource wait for it to be closed
	open    map[net.Conn]bool
}

type past struct {
	version  int
	kind     string
	resource string
	object   *unstructured.Unstructured
}

func newAPIServer(t *testing.T, objects ...*unstructured.Unstructured) *apiServer {
	a := &apiServer{
		t: t, changed: make(chan struct{}), version: 100, objects: map[string]*unstructured.Unstructured{},
		forbid: map[string]bool{}, logs: map[string]string{}, asked: map[string]int{},
		hold: map[string]chan struct{}{}, open: map[net.Conn]bool{},
	}
	a.server = httptest.NewUnstartedServer(a)
	a.server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		a.do(func() {
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

func (a *apiServer) config() *rest.Config { return &rest.Config{Host: a.server.URL} }

func resourceOf(kind string) string { return strings.ToLower(kind) + "s" }

// do changes the server's state and wakes its watches.
func (a *apiServer) do(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *apiServer) put(objects ...*unstructured.Unstructured) {
	a.do(func() {
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
			a.history = append(a.history, past{a.version, kind, resourceOf(u.GetKind()), u})
		}
	})
}

func (a *apiServer) remove(u *unstructured.Unstructured) {
	a.do(func() {
		a.version++
		u = u.DeepCopy()
		u.SetResourceVersion(strconv.Itoa(a.version))
		delete(a.objects, resourceOf(u.GetKind())+"/"+u.GetNamespace()+"/"+u.GetName())
		a.history = append(a.history, past{a.version, "DELETED", resourceOf(u.GetKind()), u})
	})
}

// cutWatches ends all watches; with forget, what they would resume from is gone.
func (a *apiServer) cutWatches(forget bool) {
	a.do(func() {
		a.cut = a.watches
		if forget {
			a.version++
			a.oldest = a.version
		}
	})
}

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
	away, forbidden, hold := a.away, a.forbid[resource+sub], a.hold[resource]
	a.asked[resource+sub]++
	a.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-r.Context().Done():
			return
		}
	}
	switch {
	case away:
		panic(http.ErrAbortHandler) // the connection breaks without an answer
	case forbidden:
		status(w, http.StatusForbidden, "Forbidden", resource+sub+" is forbidden: User \"ci\" cannot do it")
	case sub == "/log":
		a.mu.Lock()
		text, ok := a.logs[fmt.Sprintf("%s/%s/%s", name, q.Get("container"), q.Get("previous"))]
		a.mu.Unlock()
		if !ok {
			status(w, http.StatusBadRequest, "BadRequest", "no such container")
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
		a.mu.Lock()
		list := map[string]any{"apiVersion": "v1", "kind": "List", "metadata": map[string]any{"resourceVersion": strconv.Itoa(a.version)}}
		items := []any{}
		for _, key := range slices.Sorted(maps.Keys(a.objects)) {
			if u := a.objects[key]; strings.HasPrefix(key, resource+"/"+ns+"/") && selected(r, u) {
				items = append(items, u.Object)
			}
		}
		list["items"] = items
		a.mu.Unlock()
		reply(w, list)
	}
}

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

func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, resource, ns string) {
	since, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	a.mu.Lock()
	a.watches++
	me, oldest := a.watches, a.oldest
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
		changed, cut, away, frozen := a.changed, me <= a.cut, a.away, a.frozen
		var send []past
		if !frozen {
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
		if away {
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

// eventually waits for a condition of the server's.
func (a *apiServer) eventually(what string, ok func() bool) {
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
	a.t.Fatalf("never: %s", what)
}

// nowhere is an address at which nobody listens.
func nowhere(t *testing.T) *rest.Config {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return &rest.Config{Host: "http://" + l.Addr().String()}
}
