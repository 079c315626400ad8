package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestQuantile(t *testing.T) {
	tests := []struct {
		name    string
		samples samples
		q, want float64
	}{
		{"one", samples{7}, 0.95, 7},
		{"the middle of three, not in order", samples{3, 1, 2}, 0.5, 2},
		{"between the middle ones of four", samples{1, 2, 3, 4}, 0.5, 2.5},
		{"the greatest", samples{1, 2, 3, 4}, 1, 4},
		{"near the greatest", samples{0, 10, 20, 30, 40}, 0.95, 38},
	}
	for _, tt := range tests {
		if got := tt.samples.quantile(tt.q); round(got) != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
}

// TestJSON pins the form of latest.json, on which others rely.
func TestJSON(t *testing.T) {
	results := relate([]Result{
		samples{2, 1, 3}.result("a", "s").to("b", 1.1),
		samples{1, 4}.most("b", "MB").atMost(3),
		samples{1}.result("c", "s").to("not measured", 1),
	})
	path := filepath.Join(t.TempDir(), "latest.json")
	if err := writeJSON(path, results); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{
		{"name": "a", "value": 2.0, "unit": "s", "n": 3.0, "p50": 2.0, "p95": 2.9, "max": 3.0, "ratio_to": "b", "ratio": 0.5},
		{"name": "b", "value": 4.0, "unit": "MB", "n": 2.0, "p50": 2.5, "p95": 3.85, "max": 4.0, "ratio_to": nil, "ratio": nil},
		{"name": "c", "value": 1.0, "unit": "s", "n": 1.0, "p50": 1.0, "p95": 1.0, "max": 1.0, "ratio_to": "not measured", "ratio": nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	text := table(results)
	for _, want := range []string{"ok (at most 1.1 times)", "OVER (at most 3 MB)"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table does not say %q:\n%s", want, text)
		}
	}
}
