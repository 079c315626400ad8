package etcd

import (
	"fmt"
	"strings"
	"testing"
)

func peer(name string) string { return "https://" + name + ":2380" }

// cluster is n members m1 to mN, of which the bits of dead are.
func cluster(n, dead int) Live {
	var l Live
	led := false
	for i := range n {
		name := fmt.Sprintf("m%d", i+1)
		m := LiveMember{MemberInfo: MemberInfo{ID: uint64(i + 1), Name: name, PeerURLs: []string{peer(name)}}}
		if dead&(1<<i) != 0 {
			m.Problem = "does not answer"
		} else if !led {
			m.Leader, led = true, true
		}
		l = append(l, m)
	}
	return l
}

// From every size of one to seven, with every set of dead members, to every set
// of those that are kept together with any number of new ones: no plan takes a
// cluster that has a quorum below it, none that could lose a member to where it
// cannot, unless its size does not allow for it, and none that is made changes
// more than one member at a time or forgets one.
func TestChangesKeepQuorum(t *testing.T) {
	plans, refused := 0, 0
	for n := 1; n <= 7; n++ {
		for dead := range 1 << n {
			live := cluster(n, dead)
			for kept := range 1 << n {
				for fresh := 0; fresh <= 7; fresh++ {
					wanted := map[string]string{}
					for i, m := range live {
						if kept&(1<<i) != 0 {
							wanted[m.Name] = m.PeerURLs[0]
						}
					}
					for i := range fresh {
						name := fmt.Sprintf("new%d", i+1)
						wanted[name] = peer(name)
					}
					if len(wanted) == 0 || len(wanted) > 7 {
						continue
					}
					list, err := changes(live, wanted, nil)
					if err != nil {
						refused++
						continue
					}
					plans++
					follow(t, live, wanted, list)
				}
			}
		}
	}
	t.Logf("%d plans made, %d refused", plans, refused)
	if plans == 0 || refused == 0 {
		t.Error("nothing was tried")
	}
}

// follow carries out a list of changes.
func follow(t *testing.T, live Live, wanted map[string]string, list []change) {
	t.Helper()
	healthy := map[string]bool{}
	for _, m := range live {
		healthy[m.PeerURLs[0]] = m.Problem == ""
	}
	state := func() (n, h int) {
		for _, ok := range healthy {
			if n++; ok {
				h++
			}
		}
		return n, h
	}
	n, h := state()
	if h < Quorum(n) && len(list) > 0 {
		t.Fatalf("%d of %d healthy, no quorum, and yet there is a plan: %v", h, n, list)
	}
	before := h - Quorum(n)
	for _, c := range list {
		if c.kind == addMember {
			healthy[c.url] = true
		} else {
			if _, there := healthy[c.url]; !there {
				t.Fatalf("%s is removed and not there", c.name)
			}
			if _, kept := wanted[c.name]; kept {
				t.Fatalf("%s is removed although it is wanted", c.name)
			}
			delete(healthy, c.url)
		}
		n, h := state()
		spare := h - Quorum(n)
		if spare < 0 {
			t.Fatalf("%v leads to %d of %d: the quorum is lost\nlive %+v", list, h, n, live)
		}
		if n >= 3 && spare < 1 && spare < before {
			t.Fatalf("%v leads to %d of %d: nothing to spare\nlive %+v", list, h, n, live)
		}
		before = spare
	}
	for name, u := range wanted {
		if _, there := healthy[u]; !there {
			t.Fatalf("%s is missing after %v", name, list)
		}
	}
	if len(healthy) != len(wanted) {
		t.Fatalf("%d members after %v, %d wanted", len(healthy), list, len(wanted))
	}
}

func (c change) String() string { return [...]string{"+", "-", "x"}[c.kind] + c.name }

// What is done in which order.
func TestChanges(t *testing.T) {
	for name, c := range map[string]struct {
		live   Live
		wanted string
		again  string
		expect string
		says   string
	}{
		"nothing":                     {live: cluster(3, 0), wanted: "m1 m2 m3"},
		"one to three":                {live: cluster(1, 0), wanted: "m1 m2 m3", expect: "+m2 +m3"},
		"three to five":               {live: cluster(3, 0), wanted: "m1 m2 m3 m4 m5", expect: "+m4 +m5"},
		"five to three":               {live: cluster(5, 0), wanted: "m3 m4 m5", expect: "-m2 -m1"},
		"three to one":                {live: cluster(3, 0), wanted: "m2", expect: "-m3 -m1"},
		"one moves":                   {live: cluster(1, 0), wanted: "n1", expect: "+n1 -m1"},
		"all three move":              {live: cluster(3, 0), wanted: "n1 n2 n3", expect: "+n1 -m2 +n2 -m3 +n3 -m1"},
		"one dead is replaced":        {live: cluster(3, 0b010), wanted: "m1 m3 n2", expect: "xm2 +n2"},
		"two dead of five replaced":   {live: cluster(5, 0b110), wanted: "m1 m4 m5 n2 n3", expect: "xm2 xm3 +n2 +n3"},
		"a learner goes on":           {live: append(cluster(3, 0), LiveMember{MemberInfo: MemberInfo{ID: 9, PeerURLs: []string{peer("m4")}, Learner: true}, Problem: "has never started"}), wanted: "m1 m2 m3 m4", expect: "+m4"},
		"a learner nobody wants":      {live: append(cluster(3, 0), LiveMember{MemberInfo: MemberInfo{ID: 9, PeerURLs: []string{peer("m4")}, Learner: true}, Problem: "has never started"}), wanted: "m1 m2 m3", expect: "x" + peer("m4")},
		"data lost":                   {live: cluster(3, 0b010), wanted: "m1 m2 m3", again: "m2", expect: "xm2 +m2"},
		"data lost, and still up":     {live: cluster(3, 0), wanted: "m1 m2 m3", again: "m2", expect: "xm2 +m2"},
		"no quorum":                   {live: cluster(3, 0b110), wanted: "m1 n2 n3", says: "from 3 voting members, of which 1 are healthy and 2 must agree"},
		"added while another is dead": {live: cluster(3, 0b010), wanted: "m1 m2 m3 m4", says: "to 4, of which 3 are healthy and 3 must agree"},
		"removed while one is dead":   {live: cluster(5, 0b010), wanted: "m1 m2 m3 m4", says: "removing m5 takes the cluster from 5 voting members, of which 4 are healthy and 3 must agree, to 4, of which 3 are healthy and 3 must agree"},
		"the single one is dead":      {live: cluster(1, 1), wanted: "n1", says: "of which 0 are healthy"},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, again := map[string]string{}, map[string]bool{}
			for _, n := range strings.Fields(c.wanted) {
				wanted[n] = peer(n)
			}
			for _, n := range strings.Fields(c.again) {
				again[peer(n)] = true
			}
			list, err := changes(c.live, wanted, again)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("the error is %v, want %q; the plan %v", err, c.says, list)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, one := range list {
				got = append(got, one.String())
			}
			if strings.Join(got, " ") != c.expect {
				t.Errorf("the plan is %v, want %s", got, c.expect)
			}
		})
	}
}
