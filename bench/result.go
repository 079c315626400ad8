package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

// Result is an entry of latest.json. Value is the one number to quote: the
// median, or where it says so the most.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	N     int     `json:"n"`
	P50   float64 `json:"p50"`
	P95   float64 `json:"p95"`
	Max   float64 `json:"max"`
	// RatioTo is the name of the result that this one is compared with, and
	// Ratio how many times it this one is. Both are null if there is none.
	RatioTo *string  `json:"ratio_to"`
	Ratio   *float64 `json:"ratio"`

	// Limits that the value and the ratio have to keep; 0 is none.
	limit, ratioLimit float64
}

// samples are the measurements of one thing, in the order in which they were
// made.
type samples []float64

// quantile is between two samples where it falls between them.
func (s samples) quantile(q float64) float64 {
	sorted := slices.Sorted(slices.Values(s))
	at := q * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (sorted[high]-sorted[low])*(at-float64(low))
}

// result has the median for its value.
func (s samples) result(name, unit string) Result {
	r := Result{
		Name: name, Unit: unit, N: len(s),
		P50: round(s.quantile(0.5)), P95: round(s.quantile(0.95)), Max: round(slices.Max(s)),
	}
	r.Value = r.P50
	return r
}

// most has the greatest sample for its value: what must never be exceeded.
func (s samples) most(name, unit string) Result {
	r := s.result(name, unit)
	r.Value = r.Max
	return r
}

// to says what the result is compared with.
func (r Result) to(name string, limit float64) Result {
	r.RatioTo, r.ratioLimit = &name, limit
	return r
}

// atMost sets the value's limit.
func (r Result) atMost(limit float64) Result {
	r.limit = limit
	return r
}

// round keeps a thousandth, which is more than any of it is good for.
func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// relate fills in the ratios. One whose other side was not measured in this run
// has none.
func relate(results []Result) []Result {
	values := map[string]float64{}
	for _, r := range results {
		values[r.Name] = r.Value
	}
	for i, r := range results {
		if r.RatioTo == nil {
			continue
		}
		if other, ok := values[*r.RatioTo]; ok && other != 0 {
			ratio := round(r.Value / other)
			results[i].Ratio = &ratio
		}
	}
	return results
}

// verdict compares the result with its limits.
func (r Result) verdict() string {
	var words []string
	judge := func(have, limit float64, unit string) {
		word := "ok"
		if have > limit {
			word = "OVER"
		}
		words = append(words, fmt.Sprintf("%s (at most %g %s)", word, limit, unit))
	}
	if r.limit > 0 {
		judge(r.Value, r.limit, r.Unit)
	}
	if r.ratioLimit > 0 && r.Ratio != nil {
		judge(*r.Ratio, r.ratioLimit, "times")
	}
	return strings.Join(words, ", ")
}

// table is the results for people.
func table(results []Result) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tVALUE\tUNIT\tN\tP50\tP95\tMAX\tRATIO\tTO\tLIMIT")
	for _, r := range results {
		ratio, to := "-", "-"
		if r.RatioTo != nil {
			to = *r.RatioTo
		}
		if r.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *r.Ratio)
		}
		fmt.Fprintf(w, "%s\t%.2f\t%s\t%d\t%.2f\t%.2f\t%.2f\t%s\t%s\t%s\n",
			r.Name, r.Value, r.Unit, r.N, r.P50, r.P95, r.Max, ratio, to, r.verdict())
	}
	_ = w.Flush()
	return b.String()
}

func writeJSON(path string, results []Result) error {
	b, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}
