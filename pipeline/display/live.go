package display

import (
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"

	"github.com/slipway-ci/slipway/pipeline/progress"
)

// Live shows the stages side by side while they run and leaves the terminal
// as it was; a failed stage's output stays.
func Live(w io.Writer, stages []string) Display {
	m := &model{names: stages, stages: map[string]*line{}, width: 100}
	for _, s := range stages {
		m.stages[s] = &line{}
	}
	l := &live{stages: stages, output: map[string][]string{}, done: make(chan struct{})}
	// Signals and the keyboard belong to the program: SIGINT must end the run,
	// not the view.
	l.program = tea.NewProgram(m, tea.WithOutput(w), tea.WithInput(nil), tea.WithoutSignalHandler())
	go func() {
		defer close(l.done)
		_, _ = l.program.Run() // without a view the run goes on
	}()
	return l
}

type live struct {
	program *tea.Program
	stages  []string
	done    chan struct{}
	once    sync.Once

	mu     sync.Mutex
	output map[string][]string // by stage, until it ends
}

// keptLines bounds the output held for a stage until it is known to fail.
const keptLines = 200

func (l *live) Emit(e progress.Event) {
	text := l.say(e)
	l.program.Send(e)
	if text != "" {
		// A command of the model would print it some time later, and at the
		// end of a run not at all.
		l.program.Send(tea.Println(text)())
	}
}

// say returns what is to stay on the screen.
func (l *live) say(e progress.Event) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := slices.Contains(l.stages, e.Stage)
	switch {
	case e.Kind == progress.Warned && known:
		return e.Stage + ": warning: " + Clean(e.Text)
	case e.Kind == progress.Warned:
		return "warning: " + Clean(e.Text)
	case e.Kind == progress.Output && known && e.File == "":
		lines := slices.Concat(l.output[e.Stage], []string{Clean(e.Text)})
		l.output[e.Stage] = lines[max(0, len(lines)-keptLines):]
	case e.Kind == progress.Finished:
		lines := l.output[e.Stage]
		delete(l.output, e.Stage)
		if e.Outcome == progress.Failed && len(lines) > 0 {
			return "── " + e.Stage + "\n" + strings.Join(lines, "\n")
		}
	}
	return ""
}

func (l *live) Close() {
	l.once.Do(func() {
		l.program.Send(closing{})
		<-l.done
	})
}

type closing struct{}

type tick struct{}

type line struct {
	started time.Time
	took    time.Duration
	text    string
	outcome progress.Outcome
	output  string // the last line of it
	detail  []string
}

// longestDetail keeps the view on a screen.
const longestDetail = 16

type model struct {
	names  []string
	stages map[string]*line
	width  int
	closed bool
}

func (*model) Init() tea.Cmd { return next() }

func next() tea.Cmd {
	return tea.Tick(100*time.Millisecond, func(time.Time) tea.Msg { return tick{} })
}

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width = msg.Width
	case tick:
		return m, next()
	case closing:
		m.closed = true
		return m, tea.Quit
	case progress.Event:
		m.take(msg)
	}
	return m, nil
}

func (m *model) take(e progress.Event) {
	s := m.stages[e.Stage]
	if s == nil {
		return
	}
	switch e.Kind {
	case progress.Started:
		s.started = e.Time
	case progress.Status:
		s.text = Clean(e.Text)
	case progress.Detailed:
		s.detail = e.Lines[:min(len(e.Lines), longestDetail)]
	case progress.Counted:
		s.text = Count(e)
	case progress.Output:
		if e.File == "" {
			s.output = Clean(e.Text)
		}
	case progress.Finished:
		s.outcome, s.took, s.text, s.detail = e.Outcome, e.Duration, Clean(e.Text), nil
	case progress.Warned: // stays above the view
	}
}

func (m *model) View() string {
	if m.closed {
		return "" // the summary follows on standard output
	}
	var b strings.Builder
	frames := []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"}
	frame := frames[int(time.Now().UnixMilli()/100)%len(frames)]
	for _, name := range m.names {
		s := m.stages[name]
		mark, took := " ", ""
		switch {
		case s.outcome != "":
			mark = Mark(s.outcome)
			if s.took > 0 {
				took = Seconds(s.took)
			}
		case !s.started.IsZero():
			mark, took = lipgloss.NewStyle().Foreground(lipgloss.Color("6")).Render(frame), Seconds(time.Since(s.started))
		}
		text := s.text
		if s.outcome == "" && text == "" {
			text = s.output
		}
		row := mark + " " + pad(name, 9) + " " + pad(took, 7) + " " + text
		b.WriteString(ansi.Truncate(row, max(m.width-1, 20), "…") + "\n")
		for _, d := range s.detail {
			b.WriteString(ansi.Truncate(strings.Repeat(" ", 20)+Clean(d), max(m.width-1, 20), "…") + "\n")
		}
	}
	return b.String()
}

// Mark is the sign of an outcome, in its colour where there are colours.
func Mark(o progress.Outcome) string {
	sign, colour := "?", "7"
	switch o {
	case progress.Passed:
		sign, colour = "✓", "2"
	case progress.Unchanged:
		sign, colour = "=", "2"
	case progress.Failed:
		sign, colour = "✗", "1"
	case progress.Skipped:
		sign, colour = "-", "8"
	case progress.Cancelled:
		sign, colour = "○", "3"
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(colour)).Render(sign)
}

func pad(s string, n int) string {
	if w := ansi.StringWidth(s); w < n {
		return s + strings.Repeat(" ", n-w)
	}
	return s
}
