package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/slipway-ci/slipway/pipeline/deploy/brief"
)

// Snapshot is the state of a rollout at one moment.
type Snapshot struct {
	Time      time.Time     `json:"time"`
	Elapsed   time.Duration `json:"elapsed_ns"` // since the beginning of Track
	Done      bool          `json:"done"`       // whether all objects are ready
	Workloads []Workload    `json:"workloads"`  // in the order of Options.Objects, without objects that have no status
	// Problems are the current problems, with the most specific cause first. Many
	// problems resolve themselves.
	Problems []Problem `json:"problems,omitempty"`
	Events   []Event   `json:"events,omitempty"` // the last ten warnings, newest last
	// Away is a text that reports since when and why the API server does not answer. If it
	// is not empty, the other fields may be outdated.
	Away     string   `json:"away,omitempty"`
	Warnings []string `json:"warnings,omitempty"` // what could not be watched, and the warnings of the workloads
}

// short returns kind/name of an object, or its full name if the workloads are in several
// namespaces.
func (s Snapshot) short(object string) string {
	first := ""
	for _, w := range s.Workloads {
		ns := namespaceOf(w.Object)
		if first != "" && ns != first {
			return object
		}
		first = ns
	}
	kind, name := kindName(object)
	return kind + "/" + name
}

// line returns the state of a workload as one line, without values that change with time.
func (s Snapshot) line(w Workload) string {
	parts := []string{}
	if c := w.counts(); c != "" && w.Message != "not found yet" && w.Message != "deleted" {
		parts = append(parts, c)
	}
	switch {
	case w.Done && w.Old > 0:
		parts = append(parts, w.Message)
	case w.Done && w.pods && !strings.HasPrefix(w.Object, "job/") && !strings.HasPrefix(w.Object, "pod/"):
		parts = append(parts, "ready")
	case w.Message == "":
	case w.Done, len(parts) == 0, w.Message == "deleted", w.Message == "paused",
		w.Updated >= w.Desired && w.Available >= w.Desired:
		// The counts alone do not explain what the workload waits for.
		parts = append(parts, oneLine(w.Message))
	}
	if len(parts) == 0 {
		parts = append(parts, "waiting")
	}
	return s.short(w.Object) + ": " + strings.Join(parts, ", ")
}

// problemsOf returns the problems of an object.
func (s Snapshot) problemsOf(object string) []Problem {
	var out []Problem
	for _, p := range s.Problems {
		if p.Object == object {
			out = append(out, p)
		}
	}
	return out
}

// describe returns a problem as one line.
func (s Snapshot) describe(p Problem) string {
	text := brief.Text(p.Message)
	if p.Container != "" {
		text = "container " + p.Container + " " + text
	}
	if p.Reason != "" {
		text = p.Reason + ": " + text
	}
	if p.Pod != "" {
		text = "pod " + p.Pod + ": " + text
	}
	return text
}

// Lines returns the complete state: a line for each workload, followed by indented lines
// for its pods of the new revision and its problems.
func (s Snapshot) Lines() []string {
	var out []string
	if s.Away != "" {
		out = append(out, s.Away)
	}
	for _, w := range s.Workloads {
		out = append(out, s.line(w))
		for _, p := range w.Pods {
			if strings.HasPrefix(w.Object, "pod/") {
				continue
			}
			what := []string{strings.ToLower(p.Phase)}
			if p.Ready {
				what = []string{"ready"}
			}
			if p.Reason != "" {
				what = append(what, p.Reason)
			}
			switch {
			case p.Restarts == 1:
				what = append(what, "1 restart")
			case p.Restarts > 1:
				what = append(what, fmt.Sprintf("%d restarts", p.Restarts))
			}
			if !p.Created.IsZero() && s.Time.After(p.Created) {
				what = append(what, s.Time.Sub(p.Created).Round(time.Second).String()+" old")
			}
			out = append(out, "  pod "+p.Name+": "+strings.Join(what, ", "))
		}
		for _, p := range s.problemsOf(w.Object) {
			out = append(out, "  "+s.describe(p))
		}
	}
	for _, w := range s.Warnings {
		out = append(out, "warning: "+w)
	}
	return out
}

// Since returns what has changed since an earlier snapshot, for logs. Every line can be
// understood without the others. Since the zero Snapshot, everything has changed.
func (s Snapshot) Since(before Snapshot) []string {
	var out []string
	if s.Away != before.Away {
		if s.Away != "" {
			out = append(out, s.Away)
		} else {
			out = append(out, "the API server answers again")
		}
	}
	old := map[string]Workload{}
	for _, w := range before.Workloads {
		old[w.Object] = w
	}
	for _, w := range s.Workloads {
		line := s.line(w)
		var fresh []string
		for _, p := range s.problemsOf(w.Object) {
			text := s.describe(p)
			if !slices.ContainsFunc(before.problemsOf(w.Object), func(b Problem) bool { return s.describe(b) == text }) {
				fresh = append(fresh, text)
			}
		}
		o, had := old[w.Object]
		switch {
		case len(fresh) > 0:
			for _, text := range fresh {
				out = append(out, line+", "+text)
			}
		case !had || before.line(o) != line:
			out = append(out, line)
		}
	}
	for _, w := range s.Warnings {
		if !slices.Contains(before.Warnings, w) {
			out = append(out, "warning: "+w)
		}
	}
	return out
}
