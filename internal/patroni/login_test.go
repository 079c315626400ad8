package patroni

import "testing"

// Who says that a node logs in to etcd has to know it: etcd shuts out whoever does not.
func TestLogsIn(t *testing.T) {
	for name, c := range map[string]struct {
		auth, adopted, had bool
		given              string // the password of a cluster that somebody else made
		want               bool
	}{
		"authentication is on":            {auth: true, want: true},
		"it is off":                       {},
		"it is off, and was on":           {had: true, want: true},
		"somebody else's file":            {auth: true, adopted: true},
		"somebody else's file, it was on": {adopted: true, had: true},
		"somebody else's, with a user":    {auth: true, adopted: true, given: "secret", want: true},
		"the same, and it is off":         {adopted: true, given: "secret", want: true},
	} {
		n := exampleNode()
		n.Cluster.Etcd.Auth = c.auth
		if c.adopted {
			n.Cluster.UID = adoptedPrefix + "7"
		}
		n = n.withLogin(Known{EtcdLogin: c.given})
		p := nodePlanner{n: n, k: &Known{Secrets: &Secrets{LogsIn: c.had}}}
		if got := p.logsIn(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
