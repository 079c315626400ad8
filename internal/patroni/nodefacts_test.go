package patroni

import "testing"

// Where a node that has a name is reached decides where its REST API listens.
func TestFamilies(t *testing.T) {
	for name, c := range map[string]struct {
		addresses []string
		v4, v6    bool
	}{
		"none":               {},
		"v4":                 {[]string{"10.0.0.1"}, true, false},
		"v6":                 {[]string{"fd00::1"}, false, true},
		"both":               {[]string{"fd00::1", "10.0.0.1"}, true, true},
		"Debian's own line":  {[]string{"127.0.1.1"}, false, false},
		"loopback and v6":    {[]string{"127.0.1.1", "::1", "2001:db8::1"}, false, true},
		"v4 in v6":           {[]string{"::ffff:10.0.0.1"}, true, false},
		"what is no address": {[]string{"", "pg1"}, false, false},
	} {
		if v4, v6 := families(c.addresses); v4 != c.v4 || v6 != c.v6 {
			t.Errorf("%s: %v %v", name, v4, v6)
		}
	}
}
