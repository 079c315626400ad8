package postgres

import (
	"strings"
	"testing"
)

func TestSlotName(t *testing.T) {
	for member, want := range map[string]string{
		"pg1":                   "pg1",
		"node-a":                "node_a",
		"Node.A":                "node_a",
		"a b":                   "au0032b",
		"ü":                     "u0252",
		strings.Repeat("x", 80): strings.Repeat("x", 63),
	} {
		if got := SlotName(member); got != want {
			t.Errorf("SlotName(%q) = %q, want %q", member, got, want)
		}
	}
}

func TestMajor(t *testing.T) {
	for version, want := range map[string]int{"17.11": 17, "17.11-0+deb13u1": 17, "18": 18, "15.18-0+deb12u1": 15} {
		if got, err := Major(version); err != nil || got != want {
			t.Errorf("Major(%q) = %d, %v", version, got, err)
		}
	}
	for _, bad := range []string{"", "x", "9.6", "latest"} {
		if got, err := Major(bad); err == nil {
			t.Errorf("Major(%q) = %d without an error", bad, got)
		}
	}
}
