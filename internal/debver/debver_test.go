package debver

import (
	"os/exec"
	"regexp"
	"testing"
)

func TestCompare(t *testing.T) {
	// In rising order; the first block is the example of Debian Policy.
	rising := [][]string{
		{"~~", "~~a", "~", "", "a"},
		{"1.0~beta1~svn1245", "1.0~beta1", "1.0", "1.0-1", "1.0-1+b1", "1.0+dfsg-1", "1.0.1-1", "1.1"},
		{"9", "10", "1:1"},
		{"17.11-0+deb13u1", "17.12-0+deb13u1", "18~beta1-1", "18.0-1"},
		{"4.0.7-3~deb13u1", "4.0.7-3", "4.1.5-2"},
		{"3.4.23-4+b4", "3.5.16-4", "3.5.16-4+b2", "3.5.30-1"},
	}
	for _, list := range rising {
		for i := range list {
			for j := range list {
				want := sign(i - j)
				if got := Compare(list[i], list[j]); got != want {
					t.Errorf("Compare(%q, %q) = %d, want %d", list[i], list[j], got, want)
				}
			}
		}
	}
	for _, same := range [][2]string{{"0:1.0", "1.0"}, {"1.0-0", "1.0"}, {"1.01", "1.1"}, {"1.0-", "1.0"}} {
		if got := Compare(same[0], same[1]); got != 0 {
			t.Errorf("Compare(%q, %q) = %d, want 0", same[0], same[1], got)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		pin, version string
		want         bool
	}{
		{"17.11", "17.11-0+deb13u1", true},
		{"17.11", "17.11-1.pgdg13+1", true},
		{"17.1", "17.11-0+deb13u1", false},
		{"17", "17.11-0+deb13u1", false},
		{"17.11-0+deb13u1", "17.11-0+deb13u1", true},
		{"17.11-0+deb13u1", "17.11-0+deb13u2", false},
		{"4.0.7", "4.0.7-3~deb13u1", true},
		{"3.5.16", "3.5.16-4+b2", true},
		{"18", "18~beta1-1", false},
		{"9.18.41", "1:9.18.41-1~deb12u1", true},
		{"1.0", "1.0+dfsg-2", true},
	} {
		if got := Matches(c.pin, c.version); got != c.want {
			t.Errorf("Matches(%q, %q) = %v", c.pin, c.version, got)
		}
	}
}

func TestNewest(t *testing.T) {
	have := []string{"17.11-0+deb13u1", "17.12-0+deb13u1", "17.11-0+deb13u2"}
	if got, ok := Newest("17.11", have); !ok || got != "17.11-0+deb13u2" {
		t.Errorf("got %q, %v", got, ok)
	}
	if got, ok := Newest("17.13", have); ok {
		t.Errorf("got %q for a version that is not there", got)
	}
}

// FuzzCompare holds Compare against dpkg itself, and against the laws of an
// order where there is no dpkg.
func FuzzCompare(f *testing.F) {
	f.Add("1.0~rc1-1", "1.0-1")
	f.Add("1:2.0", "3.0")
	f.Add("17.11-0+deb13u1", "17.11-0+deb13u1+b1")
	valid := regexp.MustCompile(`^([0-9]{1,5}:)?[0-9][A-Za-z0-9.+~]{0,20}(-[A-Za-z0-9.+~]{1,10})?$`)
	dpkg, _ := exec.LookPath("dpkg")
	f.Fuzz(func(t *testing.T, a, b string) {
		if !valid.MatchString(a) || !valid.MatchString(b) {
			return
		}
		got := Compare(a, b)
		if back := Compare(b, a); back != -got {
			t.Errorf("Compare(%q, %q) = %d, but the other way round %d", a, b, got, back)
		}
		if dpkg == "" {
			return
		}
		for op, want := range map[string]bool{"lt": got < 0, "eq": got == 0, "gt": got > 0} {
			if is := exec.Command(dpkg, "--compare-versions", a, op, b).Run() == nil; is != want {
				t.Errorf("dpkg: %q %s %q is %v, Compare says %d", a, op, b, is, got)
			}
		}
	})
}
