package rollout

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Snapshot is how far a rollout is at one moment.
type Snapshot struct {
	Time      time.Time     `json:"time"`
	Elapsed   time.Duration `json:"elapsed_ns"`
	Done      bool          `json:"done"`
	Workloads []Workload    `json:"workloads"` // in the order of Options.Objects; objects without a status left out
	// Problems stand at the moment, those that explain most first. Many pass.
	Problems []Problem `json:"problems,omitempty"`
	Events   []Event   `json:"events,omitempty"` // the last ten warnings, newest last
	// Away says since when and why the API server does not answer; what the
	// rest tells is from before. Empty while it does.
	Away     string   `json:"away,omitempty"`
	Warnings []string `json:"warnings,omitempty"` // what could not be watched, and the workloads' own
}

// short drops the namespace where there is only one.
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

// line is a workload's own line, without anything that changes by itself.
func (s Snapshot) line(w Workload) string {
	parts := []string{}
	if c := w.counts(); c != "" && w.Message != "not found yet" && w.Message != "deleted" {
		parts = append(parts, c)
	}
	switch {
	case w.Done && w.pods && !strings.HasPrefix(w.Object, "job/") && !strings.HasPrefix(w.Object, "pod/"):
		parts = append(parts, "ready")
	case w.Message == "":
	case w.Done, len(parts) == 0, w.Message == "deleted", w.Message == "paused",
		w.Updated >= w.Desired && w.Available >= w.Desired:
		// The counts alone do not say what it waits for.
		parts = append(parts, oneLine(w.Message))
	}
	if len(parts) == 0 {
		parts = append(parts, "waiting")
	}
	return s.short(w.Object) + ": " + strings.Join(parts, ", ")
}

// of returns the problems of one object.
func (s Snapshot) of(object string) []Problem {
	var out []Problem
	for _, p := range s.Problems {
		if p.Object == object {
			out = append(out, p)
		}
	}
	return out
}

// about is a problem in one phrase.
func (s Snapshot) about(p Problem) string {
	text := oneLine(p.Message)
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

// Lines shows everything: a line for each workload, and below it, indented,
// its pods of the new revision and its problems.
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
		for _, p := range s.of(w.Object) {
			out = append(out, "  "+s.about(p))
		}
	}
	for _, w := range s.Warnings {
		out = append(out, "warning: "+w)
	}
	return out
}

// Since returns what is new in s since an earlier snapshot, one line a
// message, each understandable by itself: the plain form for logs. Since the
// zero Snapshot everything is new.
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
		for _, p := range s.of(w.Object) {
			text := s.about(p)
			if !slices.ContainsFunc(before.of(w.Object), func(b Problem) bool { return s.about(b) == text }) {
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
