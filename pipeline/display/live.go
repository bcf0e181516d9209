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

// Live returns a display that shows all stages while they run and restores the
// terminal when it is closed. Warnings and the output of failed stages remain on the
// screen.
func Live(w io.Writer, stages []string) Display {
	m := &model{names: stages, stages: map[string]*line{}, width: 100}
	for _, s := range stages {
		m.stages[s] = &line{}
	}
	l := &live{stages: stages, output: map[string][]string{}, done: make(chan struct{})}
	// The view must not handle signals and the keyboard, because SIGINT must end the
	// run and not just the view.
	l.program = tea.NewProgram(m, tea.WithOutput(w), tea.WithInput(nil), tea.WithoutSignalHandler())
	go func() {
		defer close(l.done)
		_, _ = l.program.Run() // if the view fails, the run continues
	}()
	return l
}

type live struct {
	program *tea.Program
	stages  []string
	done    chan struct{}
	once    sync.Once

	mu     sync.Mutex
	output map[string][]string // by stage, until the stage ends
}

// keptLines is how many lines of output are stored for a stage until it ends.
const keptLines = 200

func (l *live) Emit(e progress.Event) {
	text := l.permanent(e)
	l.program.Send(e)
	if text != "" {
		// If the model returned a command to print it, that would run later, and not at
		// all at the end of a run.
		l.program.Send(tea.Println(text)())
	}
}

// permanent returns the text of an event that remains on the screen, or "".
func (l *live) permanent(e progress.Event) string {
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

// closing is the message that ends the view.
type closing struct{}

// tick is the message that redraws the view.
type tick struct{}

// line is the state of a stage.
type line struct {
	started time.Time
	took    time.Duration
	text    string
	outcome progress.Outcome
	output  string   // last line of its output
	detail  []string // lines below the stage
}

// longestDetail is how many lines are shown below a stage, so that the view fits on
// the screen.
const longestDetail = 16

// model is the state of the view.
type model struct {
	names  []string
	stages map[string]*line
	width  int
	closed bool
}

func (*model) Init() tea.Cmd { return next() }

// next returns the command that sends the next tick.
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
		m.update(msg)
	}
	return m, nil
}

// update updates the state of the stage of an event.
func (m *model) update(e progress.Event) {
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
	case progress.Warned: // printed above the view
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

// Mark returns the symbol of an outcome, in colour if the terminal supports it.
func Mark(o progress.Outcome) string {
	symbol, colour := "?", "7"
	switch o {
	case progress.Passed:
		symbol, colour = "✓", "2"
	case progress.Unchanged:
		symbol, colour = "=", "2"
	case progress.Failed:
		symbol, colour = "✗", "1"
	case progress.Skipped:
		symbol, colour = "-", "8"
	case progress.Cancelled:
		symbol, colour = "○", "3"
	}
	return lipgloss.NewStyle().Foreground(lipgloss.Color(colour)).Render(symbol)
}

// pad appends spaces to s up to a width of n.
func pad(s string, n int) string {
	if w := ansi.StringWidth(s); w < n {
		return s + strings.Repeat(" ", n-w)
	}
	return s
}
