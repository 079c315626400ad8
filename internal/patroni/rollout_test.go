package patroni

import (
	"testing"
	"time"
)

// A window is open from its beginning to before its end, on the days on which it
// begins, in its own time zone.
func TestWindow(t *testing.T) {
	for name, c := range map[string]struct {
		days           []string
		from, to, zone string
		now            string
		open           bool
	}{
		"inside":                             {nil, "01:00", "03:00", "UTC", "2026-11-29T02:59:00Z", true},
		"at its beginning":                   {nil, "01:00", "03:00", "UTC", "2026-11-29T01:00:00Z", true},
		"at its end":                         {nil, "01:00", "03:00", "UTC", "2026-11-29T03:00:00Z", false},
		"in another zone":                    {nil, "01:00", "03:00", "Europe/Berlin", "2026-11-29T01:30:00Z", true},
		"in summer":                          {nil, "01:00", "03:00", "Europe/Berlin", "2026-07-01T01:30:00Z", false},
		"another day":                        {[]string{"Sat"}, "01:00", "03:00", "UTC", "2026-11-29T02:00:00Z", false},
		"that day":                           {[]string{"saturday", "Sun"}, "01:00", "03:00", "UTC", "2026-11-29T02:00:00Z", true},
		"over midnight, before":              {[]string{"Sat"}, "22:00", "04:00", "UTC", "2026-11-28T23:00:00Z", true},
		"over midnight, after":               {[]string{"Sat"}, "22:00", "04:00", "UTC", "2026-11-29T03:59:00Z", true},
		"over midnight, the night before":    {[]string{"Sat"}, "22:00", "04:00", "UTC", "2026-11-28T03:00:00Z", false},
		"over midnight, the next evening":    {[]string{"Sat"}, "22:00", "04:00", "UTC", "2026-11-29T22:30:00Z", false},
		"over midnight, from Sunday to Mon.": {[]string{"Sun"}, "22:00", "04:00", "UTC", "2026-11-30T01:00:00Z", true},
	} {
		t.Run(name, func(t *testing.T) {
			w, err := ParseWindow(c.days, c.from, c.to, c.zone)
			if err != nil {
				t.Fatal(err)
			}
			now, err := time.Parse(time.RFC3339, c.now)
			if err != nil {
				t.Fatal(err)
			}
			if open := w.Open(now); open != c.open {
				t.Errorf("open: %t; %s", open, w)
			}
			r := DefaultRollout()
			r.Window = &w
			if err := r.check(now, "it"); (err == nil) != c.open {
				t.Errorf("a turn is refused with %v", err)
			}
		})
	}
	for _, c := range []struct {
		days           []string
		from, to, zone string
	}{{[]string{"Someday"}, "1:00", "02:00", "UTC"}, {nil, "25:00", "02:00", "UTC"}, {nil, "02:00", "02:00", "UTC"}, {nil, "01:00", "02:00", "Mars/Olympus"}, {nil, "01:00", "02:00", "Local"}} {
		if w, err := ParseWindow(c.days, c.from, c.to, c.zone); err == nil {
			t.Errorf("%v was taken for %s", c, w)
		}
	}
}
