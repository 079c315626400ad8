package patroni

import (
	"errors"
	"strings"
	"testing"
)

func TestCitusMinor(t *testing.T) {
	for version, want := range map[string]string{"13.2.2": "13.2", "13.2.2-1": "13.2", "13.2-1": "13.2", "14.0.1.citus-1": "14.0", "14": "", "": ""} {
		if got := CitusMinor(version); got != want {
			t.Errorf("%q is of %q, and not of %q", version, got, want)
		}
	}
}

func TestFormationStages(t *testing.T) {
	f := Formation{Groups: map[int]*GroupExtension{
		0: {Extension: Extension{"13.2-1", "13.2.2"}, Leader: "c1", Libraries: map[string]string{"c1": "13.2.2", "c2": "14.0.1"}},
		1: {Extension: Extension{"14.0-1", "14.0.1"}, Leader: "a1", Libraries: map[string]string{"a1": "14.0.1"}},
		2: {Extension: Extension{"13.2-1", "13.2.2"}, Leader: "b1", Libraries: map[string]string{"b1": "13.2.2"}, Silent: map[string]error{"b2": errors.New("gone")}},
	}}
	got := f.Stages("14.0-1")
	for _, want := range []string{
		"missing on b1 (13.2.2), c1 (13.2.2).", "Not asked, since they do not answer: b2",
		"\n   group 2, now led by b1: 13.2-1 -> 14.0-1\n   group 0, now led by c1: 13.2-1 -> 14.0-1\n", "\n3. CALL citus_finish_citus_upgrade()",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("it lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "group 1") {
		t.Errorf("it names a group that is done:\n%s", got)
	}
	if f.Lowest() != "13.2-1" || f.Highest() != "14.0-1" {
		t.Errorf("from %s to %s", f.Lowest(), f.Highest())
	}
	if why := f.Groups[2].behind("14.0-1"); why != "b2 could not be asked (gone); b1 has Citus 13.2.2" {
		t.Errorf("group 2 is behind since %q", why)
	}
	if why := f.Groups[1].behind("14.0-1"); why != "" {
		t.Errorf("group 1 is behind since %q", why)
	}
}
