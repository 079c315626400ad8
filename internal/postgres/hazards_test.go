package postgres

import (
	"slices"
	"strings"
	"testing"
)

// Between two minor versions are the notes of all that are passed, and of no other.
func TestHazards(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     []string // versions, in order
		says     string
	}{
		{"17.11", "17.11", nil, ""},
		{"17.9", "17.10", nil, ""},
		{"17.10", "17.11", []string{"17.11"}, "output_plugin_libraries"},
		{"17.0", "17.11", []string{"17.1", "17.5", "17.6", "17.11"}, "BRIN"},
		{"17.11", "17.12", []string{"17.12"}, "not known"},
		{"17.4", "17.99", []string{"17.5", "17.6", "17.11", "17.99"}, "not known"},
		{"15.3", "15.20", []string{"15.4", "15.5", "15.6", "15.7", "15.9", "15.13", "15.14", "15.19", "15.20"}, "fix-CVE-2024-4317.sql"},
		{"18.6", "18.7", []string{"18.7"}, "full one"},
		{"17.11", "17.10", []string{"17.11"}, "going back"},
		{"16.9", "17.1", nil, ""}, // no rolling restart leads there
		{"9.6.3", "9.6.4", nil, ""},
		{"19.1", "19.2", []string{"19.2"}, "not known"},
	} {
		var versions []string
		text := ""
		for _, h := range Hazards(c.from, c.to) {
			versions = append(versions, h.Version)
			text += h.String() + "\n"
		}
		if !slices.Equal(versions, c.want) || !strings.Contains(text, c.says) {
			t.Errorf("from %s to %s: %v, want %v with %q:\n%s", c.from, c.to, versions, c.want, c.says, text)
		}
	}
}

// The list is one of versions that there can be.
func TestHazardsAreListedUpToTheNewest(t *testing.T) {
	for major, list := range notes {
		for at, text := range list {
			if at > newest[major] || text == "" {
				t.Errorf("%d.%d: the newest is %d.%d, and the text is %q", major, at, major, newest[major], text)
			}
		}
	}
}
