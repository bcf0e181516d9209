package main

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// chart is an image with panels next to each other.
type chart struct {
	name   string
	panels []panel
}

// panel is a bar chart with one group for each label and, in every group, one bar
// for each series.
type panel struct {
	title, unit string
	labels      []string
	series      []series
	format      string // format of the value above a bar
}

type series struct {
	name   string
	color  color.Color
	values []float64
}

const (
	panelWidth  = 17 * vg.Centimeter
	panelHeight = 10 * vg.Centimeter
)

// plots returns the charts of the results.
func plots(r results) []chart {
	times := chart{name: "times"}
	sizes := chart{name: "sizes"}
	for i := range r.Apps {
		a := &r.Apps[i]
		p := panel{title: a.Name, unit: "seconds", labels: []string{title(changed), title(unchanged)}, format: "%.2f"}
		q := panel{title: a.Name, unit: "MB", labels: []string{"image, compressed"}, format: "%.1f"}
		for n := range a.Contestants {
			c := &a.Contestants[n]
			p.series = append(p.series, series{c.Name, hue(c.Name), []float64{c.wall(changed).Median, c.wall(unchanged).Median}})
			if c.Image != nil {
				q.series = append(q.series, series{c.Name, hue(c.Name), []float64{megabytes(c.Image.Compressed)}})
			}
		}
		times.panels, sizes.panels = append(times.panels, p), append(sizes.panels, q)
	}
	all := []chart{times, sizes}
	if r.Variants == nil {
		return all
	}
	size := panel{title: "image, compressed", unit: "MB", format: "%.1f"}
	wait := panel{title: "from exec to healthy", unit: "milliseconds", format: "%.0f"}
	bar := series{color: hue(ourGzip)}
	late := bar
	for _, k := range slices.DeleteFunc(slices.Clone(r.Variants.Kinds), func(v variant) bool { return v.Skipped != "" }) {
		size.labels, wait.labels = append(size.labels, k.Name), append(wait.labels, k.Name)
		bar.values = append(bar.values, megabytes(k.Image.Compressed))
		late.values = append(late.values, 1e3*spreadOf(k.Starts, func(s startTimes) float64 { return s.Healthy }).Median)
	}
	size.series, wait.series = []series{bar}, []series{late}
	return append(all, chart{name: "variants", panels: []panel{size, wait}})
}

// hue returns the color of a contestant. The colors are from the palette of Okabe
// and Ito and also differ in lightness.
func hue(name string) color.Color {
	switch name {
	case goBuild:
		return color.RGBA{0x99, 0x99, 0x99, 0xff}
	case koDefault:
		return color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	case koNoSBOM:
		return color.RGBA{0xe6, 0x9f, 0x00, 0xff}
	case koCache:
		return color.RGBA{0xf0, 0xe4, 0x42, 0xff}
	case ourZstd:
		return color.RGBA{0x00, 0x72, 0xb2, 0xff}
	default:
		return color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	}
}

func (c chart) size() (w, h vg.Length) { return panelWidth * vg.Length(len(c.panels)), panelHeight }

// svg returns the chart as SVG. It adds fallback fonts for machines without the
// font Liberation Sans.
func (c chart) svg() ([]byte, error) {
	canvas := vgsvg.New(c.size())
	data, err := c.draw(canvas, canvas)
	return bytes.ReplaceAll(data, []byte("font-family:Liberation Sans;"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif;")), err
}

// png returns the chart as PNG.
func (c chart) png() ([]byte, error) {
	canvas := vgimg.PngCanvas{Canvas: vgimg.New(c.size())}
	return c.draw(canvas, canvas)
}

func (c chart) draw(canvas vg.CanvasSizer, out io.WriterTo) ([]byte, error) {
	row := make([]*plot.Plot, 0, len(c.panels))
	for _, p := range c.panels {
		drawn, err := p.plot()
		if err != nil {
			return nil, err
		}
		row = append(row, drawn)
	}
	const gap = 12
	dc := draw.New(canvas)
	tiles := draw.Tiles{Rows: 1, Cols: len(row), PadX: 2 * gap, PadTop: gap, PadBottom: gap, PadLeft: gap, PadRight: gap}
	for i, part := range plot.Align([][]*plot.Plot{row}, tiles, dc)[0] {
		row[i].Draw(part)
	}
	var b bytes.Buffer
	_, err := out.WriteTo(&b)
	return b.Bytes(), err
}

func (p panel) plot() (*plot.Plot, error) {
	const (
		titleSize, textSize = 15, 11
		headroom            = 1.08 // space above the highest bar, for its value
		legendRoom          = 0.07 // height of one line of the legend, as a fraction of the panel's height
	)
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	out := plot.New()
	for _, style := range []*text.Style{&out.Title.TextStyle, &out.Y.Label.TextStyle, &out.X.Tick.Label, &out.Y.Tick.Label, &out.Legend.TextStyle} {
		style.Font = font.From(sans, textSize)
	}
	out.Title.Text, out.Y.Label.Text = p.title, p.unit
	out.Title.TextStyle.Font.Size, out.Title.Padding = titleSize, 8
	grid := plotter.NewGrid()
	grid.Vertical.Color = nil
	grid.Horizontal.Color = color.Gray{0xdd}
	out.Add(grid)
	width := vg.Length(0.68) * panelWidth / vg.Length(len(p.labels)*len(p.series))
	highest := 0.0
	for i, s := range p.series {
		chart, err := plotter.NewBarChart(plotter.Values(s.values), width*0.92)
		if err != nil {
			return nil, err
		}
		chart.Color, chart.LineStyle.Width = s.color, 0
		chart.Offset = width * (vg.Length(i) - vg.Length(len(p.series)-1)/2)
		out.Add(chart)
		if s.name != "" {
			out.Legend.Add(s.name, chart)
		}
		labels := plotter.XYLabels{}
		for x, v := range s.values {
			labels.XYs = append(labels.XYs, plotter.XY{X: float64(x), Y: v})
			labels.Labels = append(labels.Labels, fmt.Sprintf(p.format, v))
			highest = max(highest, v)
		}
		figures, err := plotter.NewLabels(labels)
		if err != nil {
			return nil, err
		}
		for n := range figures.TextStyle {
			figures.TextStyle[n].Font = font.From(sans, textSize)
			figures.TextStyle[n].XAlign = text.XCenter
		}
		figures.Offset = vg.Point{X: chart.Offset, Y: 2}
		out.Add(figures)
	}
	out.NominalX(p.labels...)
	out.X.Padding = 0
	out.Legend.Top, out.Legend.Padding = true, 2
	lines := 0.0
	if len(p.labels) < 2 { // otherwise the last group is low, and the legend fits above it
		lines = float64(len(p.series))
	}
	if out.Y.Min, out.Y.Max = 0, highest*headroom; len(p.series) > 1 {
		out.Y.Max = highest * headroom / (1 - legendRoom*lines)
	}
	out.X.Min, out.X.Max = -0.5, float64(len(p.labels))-0.5
	return out, nil
}
