//go:build linux

package dns_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// happens waits for what a channel tells by its end.
func happens(t *testing.T, what string, c chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patient):
		t.Fatalf("%s: not within %s", what, patient)
	}
}

func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped by -short: waits until the updater looks again")
	}
}

func TestUpdater(t *testing.T) {
	b := newBind(t)
	for name, test := range map[string]func(b *bind, t *testing.T){
		"FollowsPrimary": (*bind).followsPrimary, "LateLeader": (*bind).lateLeader, "StoppedAfterReading": (*bind).stoppedAfterReading, "UpdateOnItsWay": (*bind).updateOnItsWay,
		"AnswerLost": (*bind).answerLost, "SameTimeline": (*bind).sameTimeline, "Generations": (*bind).generations, "Foreign": (*bind).foreign, "Refused": (*bind).refused,
		"ServerDown": (*bind).serverDown, "Replicas": (*bind).replicas, "OldPatroni": (*bind).oldPatroni, "All": (*bind).all, "CNAME": (*bind).cname, "Mends": (*bind).mends, "LooksAgain": (*bind).looksAgain,
		"Removes": (*bind).removes, "Looks": (*bind).looks, "LongAnswers": (*bind).longAnswers, "Unsigned": (*bind).unsigned, "Patroni": (*bind).patroni, "Promotion": (*bind).promotion, "OldWord": (*bind).oldWord, "Systemd": (*bind).systemd,
		"Reloads": (*bind).reloads, "Ends": (*bind).ends, "Verifies": (*bind).verifies, "BadConfig": (*bind).badConfig, "Race": (*bind).race,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(b, t)
		})
	}
}

func (b *bind) followsPrimary(t *testing.T) {
	for _, key := range []string{"k256", "k512"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			name := recordName(t)
			var pretenders [2]*pretender
			var updaters [2]*updater
			for i := range pretenders {
				pretenders[i] = newPatroni(t, fmt.Sprintf("pg%d", i+1))
				updaters[i] = b.updater(t, name, pretenders[i]).configure(object{
					"key":     object{"name": key, "algorithm": tsigKeys[key][0], "secret": tsigKeys[key][1]},
					"targets": object{"pg1": []string{"10.77.1.11", "fd00::11"}, "pg2": []string{"10.77.1.12", "fd00::12"}},
				}).start()
				updaters[i].until("not primary")
			}
			for i := range 5 {
				from, to := pretenders[(i+1)%2], pretenders[i%2]
				from.follows()
				begin := time.Now()
				to.leads(i + 1)
				want := []string{fmt.Sprintf("10.77.1.%d", 11+i%2), fmt.Sprintf("fd00::%d", 11+i%2)}
				at := b.leadsTo(t, name, want...)
				second := time.Since(at)
				to.mu.Lock()
				t.Logf("%s after the change of roles, %s after Patroni's first 200; the secondary server %s later",
					at.Sub(begin).Round(time.Millisecond), at.Sub(to.positive).Round(time.Millisecond), second.Round(time.Millisecond))
				to.mu.Unlock()
				b.marked(t, name, fmt.Sprintf("pgha uid=demo/db epoch=1.%d.1 node=%s", i+1, to.name))
				u := updaters[i%2]
				u.until("written")
				if r := u.report(); !r.Primary || !strings.Contains(r.Because, "leads to "+strings.Join(want, ", ")) || !strings.Contains(r.Mark, "epoch=") || len(r.Digest) != 64 {
					t.Errorf("its status is %+v", r)
				}
			}
			updaters[1].until("not primary")
			if r := updaters[1].report(); r.Primary || r.Because != "this node is not primary: Patroni answers 503" {
				t.Errorf("its status is %+v", r)
			}
		})
	}
}

// lateLeader has two be primary at once.
func (b *bind) lateLeader(t *testing.T) {
	name := recordName(t)
	p, q := newPatroni(t, "pg1").leads(5), newPatroni(t, "pg2")
	old, other := b.updater(t, name, p).start(), b.updater(t, name, q).start()
	b.leadsTo(t, name, "10.77.1.11")
	q.leads(6)
	b.leadsTo(t, name, "10.77.1.12")
	for range 2 {
		// It comes back, and believes what it believed.
		p.follows()
		old.until("not primary")
		p.leads(5)
		old.until("newer")
	}
	old.says("newer: somebody newer has it: pg2 in 1.6, and this node is in 1.5")
	p.rounds(4)
	b.leadsTo(t, name, "10.77.1.12")
	b.marked(t, name, "pgha uid=demo/db epoch=1.6.1 node=pg2")
	if n := strings.Count(old.said(), "somebody newer"); n != 2 {
		t.Errorf("it has said %d times that somebody newer has it", n)
	}
	q.follows()
	p.leads(7)
	b.leadsTo(t, name, "10.77.1.11")
	other.until("not primary")
}

// stoppedAfterReading stops an updater when it has read, until another has written.
func (b *bind) stoppedAfterReading(t *testing.T) {
	name := recordName(t)
	p, q := newPatroni(t, "pg1").leads(5), newPatroni(t, "pg2").leads(6)
	old, other := b.updater(t, name, p), b.updater(t, name, q)
	b.updater(t, name, newPatroni(t, "pg3").leads(4)).expect("once", "written")
	stopped := make(chan struct{})
	stop := sync.OnceFunc(func() {
		old.signal(syscall.SIGSTOP)
		close(stopped)
	})
	through := b.proxy(t, &proxy{question: func(question, answer []byte) [][]byte {
		if last, _ := questionKind(question); last == 28 {
			stop()
		}
		return [][]byte{answer}
	}})
	old.configure(object{"servers": []string{through}}).start()
	happens(t, "the last question", stopped)
	other.expect("once", "written")
	old.signal(syscall.SIGCONT)
	old.until("newer")
	b.leadsTo(t, name, "10.77.1.12")
	b.marked(t, name, "pgha uid=demo/db epoch=1.6.1 node=pg2")
}

// oldWord stops an updater when it has read, for so long that what Patroni said does not
// count any more.
func (b *bind) oldWord(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5)
	u := b.updater(t, name, p)
	stopped := make(chan struct{})
	stop := sync.OnceFunc(func() {
		u.signal(syscall.SIGSTOP)
		p.with(func(p *pretender) { p.delay = 5 * time.Second })
		close(stopped)
	})
	var updates atomic.Int32
	through := b.proxy(t, &proxy{
		question: func(question, answer []byte) [][]byte {
			if last, _ := questionKind(question); last == 28 {
				stop()
			}
			return [][]byte{answer}
		},
		update: func() bool { updates.Add(1); return true },
	})
	u.configure(object{"servers": []string{through}}).start()
	happens(t, "the last question", stopped)
	// It is time itself that has to go by, while nothing runs: what Patroni said gets too old.
	time.Sleep(2100 * time.Millisecond)
	u.signal(syscall.SIGCONT)
	u.says("this node is not primary: Patroni does not answer (timed out)")
	if n := updates.Load(); n != 0 {
		t.Errorf("it has sent %d updates", n)
	}
	p.with(func(p *pretender) { p.delay = 0 })
	b.leadsTo(t, name, "10.77.1.11")
}

// updateOnItsWay has an update come to the server after another has written.
func (b *bind) updateOnItsWay(t *testing.T) {
	for what, there := range map[string]bool{"first": false, "later": true} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			name := recordName(t)
			if there {
				b.updater(t, name, newPatroni(t, "pg3").leads(4)).expect("once", "written")
			}
			old := b.updater(t, name, newPatroni(t, "pg1").leads(5))
			other := b.updater(t, name, newPatroni(t, "pg2").leads(6))
			sent, done := make(chan struct{}), make(chan struct{})
			tell := sync.OnceFunc(func() { close(sent) })
			through := b.proxy(t, &proxy{update: func() bool {
				tell()
				<-done
				return true
			}})
			old.configure(object{"servers": []string{through}})
			c := make(chan came, 1)
			go func() {
				defer close(c)
				c <- old.does("once")
			}()
			happens(t, "an update", sent)
			other.expect("once", "written")
			close(done)
			if got := <-c; got.Outcome != "newer" && got.Outcome != "unreachable" {
				t.Errorf("%+v came of it", got)
			}
			b.leadsTo(t, name, "10.77.1.12")
			b.marked(t, name, "pgha uid=demo/db epoch=1.6.1 node=pg2")
		})
	}
}

// answerLost has nobody say whether an update was made.
func (b *bind) answerLost(t *testing.T) {
	name := recordName(t)
	var updates atomic.Int32
	through := b.proxy(t, &proxy{update: func() bool { return updates.Add(1) > 1 }})
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5)).configure(object{"servers": []string{through}}).start()
	u.until("unreachable")
	u.until("unchanged")
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.1 node=pg1")
	if n := updates.Load(); n != 1 {
		t.Errorf("it has sent %d updates", n)
	}
}

// sameTimeline is about two that were promoted without knowing of each other.
func (b *bind) sameTimeline(t *testing.T) {
	name := recordName(t)
	b.updater(t, name, newPatroni(t, "pg1").leads(5)).expect("once", "written")
	q := newPatroni(t, "pg2").leads(5).with(func(p *pretender) { p.leader = "pg1" })
	u := b.updater(t, name, q)
	if c := u.expect("once", "newer"); !strings.Contains(c.Detail, "pg1 has it in the same timeline") {
		t.Errorf("it says %q", c.Detail)
	}
	q.with(func(p *pretender) { p.leader, p.lost = "pg2", true })
	u.expect("once", "newer")
	q.with(func(p *pretender) { p.lost = false })
	u.expect("once", "written")
	b.leadsTo(t, name, "10.77.1.12")
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.2 node=pg2")
}

// generations come before timelines.
func (b *bind) generations(t *testing.T) {
	name := recordName(t)
	p, q := newPatroni(t, "pg1").leads(9), newPatroni(t, "pg2").leads(1)
	old := b.updater(t, name, p)
	old.expect("once", "written")
	other := b.updater(t, name, q)
	other.expect("once", "newer")
	other.configure(object{"generation": 2}).expect("once", "written")
	p.leads(10)
	if c := old.expect("once", "newer"); c.Mark != "pgha uid=demo/db epoch=2.1.1 node=pg2" || !slices.Equal(c.Values, []string{"10.77.1.12"}) {
		t.Errorf("%+v", c)
	}
	old.expect("remove", "newer")
	b.leadsTo(t, name, "10.77.1.12")
}

// foreign is what somebody else has made.
func (b *bind) foreign(t *testing.T) {
	for what, c := range map[string]struct{ lines, kind, says string }{
		"A":                {`u.add("%s", 60, "A", "10.9.9.9")`, "address", "which have no mark"},
		"AAAA":             {`u.add("%s", 60, "AAAA", "fd00::9")`, "address", "which have no mark"},
		"TXT":              {`u.add("%s", 60, "TXT", "v=spf1 -all")`, "address", "which have no mark"},
		"CNAME":            {`u.add("%s", 60, "CNAME", "pg1")`, "address", "which have no mark"},
		"another uid":      {`u.add("%[1]s", 60, "A", "10.9.9.9"); u.add("%[1]s", 60, "TXT", '"pgha uid=other/db epoch=1.1.1 node=pg1"')`, "address", "belongs to other/db"},
		"more than a mark": {`u.add("%[1]s", 60, "TXT", '"pgha uid=demo/db epoch=1.1.1 node=pg1"', "more")`, "address", "has 2 TXT records"},
		"CNAME of CNAME":   {`u.add("%s", 60, "CNAME", "pg1")`, "CNAME", "which have no mark"},
		"A of CNAME":       {`u.add("%s", 60, "A", "10.9.9.9")`, "CNAME", "which have no mark"},
		"MX of CNAME":      {`u.add("%s", 60, "MX", "10 pg1")`, "CNAME", "which have no mark"},
		"mark of CNAME":    {`u.add("_pgha.%s", 60, "TXT", '"pgha uid=other/db epoch=1.1.1 node=pg1"')`, "CNAME", "belongs to other/db"},
		// Somebody has replaced ours.
		"A of ours": {`u.add("_pgha.%[1]s", 60, "TXT", '"pgha uid=demo/db epoch=1.1.1 node=pg1"'); u.add("%[1]s", 60, "A", "10.9.9.9")`, "CNAME", "which have no mark"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			name := recordName(t)
			b.others(strings.ReplaceAll(fmt.Sprintf(c.lines, strings.TrimSuffix(name, ".pg.example.")), "%!(EXTRA string="+name+")", ""))
			u := b.updater(t, name, newPatroni(t, "pg1").leads(5))
			if c.kind == "CNAME" {
				u.configure(object{"type": "CNAME", "targets": object{"pg1": []string{"pg1.pg.example."}}})
			}
			there := func() []any {
				return []any{b.primary.addresses(name), b.primary.cname(name), b.primary.texts(name), b.primary.texts("_pgha." + name)}
			}
			before := there()
			for _, verb := range []string{"once", "remove"} {
				if got := u.does(verb); what == "A of ours" && verb == "remove" {
					// What is ours goes.
					if got.Outcome != "removed" {
						t.Errorf("%s: %+v", verb, got)
					}
					before[3] = []string(nil)
				} else if got.Outcome != "foreign" {
					t.Errorf("%s: %+v", verb, got)
				} else if verb == "once" && !strings.Contains(got.Detail, c.says) {
					t.Errorf("it says %q", got.Detail)
				}
			}
			if after := there(); !reflect.DeepEqual(after, before) {
				t.Errorf("before it was %q and now it is %q", before, after)
			}
		})
	}
}

// refused is what the server does not do.
func (b *bind) refused(t *testing.T) {
	key := func(name, algorithm, secret string) object {
		return object{"key": object{"name": name, "algorithm": algorithm, "secret": secret}}
	}
	for what, c := range map[string]struct {
		config      object
		skew        string
		rcode, tsig string
		says        string
	}{
		"wrong secret":       {config: key("k256", "hmac-sha256", tsigKeys["k512"][1]), rcode: "NOTAUTH", tsig: "BADSIG", says: "its secret of the key is another one"},
		"unknown key":        {config: key("nobody", "hmac-sha256", tsigSecret), rcode: "NOTAUTH", tsig: "BADKEY", says: "it has no key of this name and algorithm"},
		"wrong algorithm":    {config: key("k256", "hmac-sha512", tsigSecret), rcode: "NOTAUTH", tsig: "BADKEY", says: "it has no key of this name and algorithm"},
		"slow clock":         {skew: "-3600", rcode: "NOTAUTH", tsig: "BADTIME", says: "more than five minutes apart"},
		"fast clock":         {skew: "3600", rcode: "NOTAUTH", tsig: "BADTIME", says: "more than five minutes apart"},
		"another zone":       {config: object{"zone": "other.example.", "name": "db.other.example."}, rcode: "NOTAUTH", says: "it is not a primary server of the zone"},
		"not the key's name": {config: object{"name": "forbidden.pg.example."}, rcode: "REFUSED", says: "its policy does not let the key do this"},
		"outside the zone":   {config: object{"name": "db.other.example."}, rcode: "NOTZONE", says: "db.other.example. is not in the zone pg.example."},
		"secondary server":   {config: object{"servers": []string{b.second.endpoint()}}, rcode: "REFUSED", says: "its policy does not let the key do this"},
		"no target":          {config: object{"targets": object{"pg2": []string{"10.77.1.12"}}}, says: "record.json has no target for pg1"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			u := b.updater(t, recordName(t), newPatroni(t, "pg1").leads(5))
			u.configure(c.config)
			if c.skew != "" {
				// TSIG goes by the clock of the day, and all else by another one.
				u.wrap = []string{"-c", "import runpy, sys, time; t = time.time; time.time = lambda: t() + " + c.skew + "; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"}
			}
			got := u.expect("once", "refused")
			if got.Rcode != c.rcode || got.Tsig != c.tsig || !strings.Contains(got.Detail, c.says) {
				t.Errorf("%+v", got)
			}
			if list := b.primary.addresses(u.config["name"].(string)); list != nil {
				t.Errorf("it leads to %v", list)
			}
		})
	}
}

// serverDown has the primary server be away when the roles change.
func (*bind) serverDown(t *testing.T) {
	b := newBind(t)
	name := recordName(t)
	p, q := newPatroni(t, "pg1").leads(5), newPatroni(t, "pg2")
	b.updater(t, name, p).start()
	other := b.updater(t, name, q).start()
	b.leadsTo(t, name, "10.77.1.11")
	b.primary.stop()
	p.follows()
	q.leads(6)
	other.until("unreachable")
	if r := other.report(); !r.Primary || !strings.Contains(r.Because, b.primary.endpoint()+" does not answer: Connection refused") {
		t.Errorf("its status is %+v", r)
	}
	if list := b.second.addresses(name); !slices.Equal(list, []string{"10.77.1.11"}) {
		t.Errorf("the secondary server leads to %v", list)
	}
	b.primary.start()
	begin := time.Now()
	t.Logf("caught up with after %s", b.leadsTo(t, name, "10.77.1.12").Sub(begin).Round(time.Millisecond))
}

func (b *bind) replicas(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5)
	u := b.updater(t, name, p).configure(object{"follow": "replicas"}).start()
	b.leadsTo(t, name, "10.77.1.11")
	u.says("leads to 10.77.1.11, the primary itself, since no replica is well")
	p.replicas("pg2", "pg3", "pg9")
	b.leadsTo(t, name, "10.77.1.12", "10.77.1.13")
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.2 node=pg1")
	// etcd cannot be asked: it stays as it was.
	p.with(func(p *pretender) { p.lost = true })
	p.rounds(6)
	b.leadsTo(t, name, "10.77.1.12", "10.77.1.13")
	p.with(func(p *pretender) {
		p.lost = false
		p.members[0]["tags"] = object{"noloadbalance": true}
	})
	b.leadsTo(t, name, "10.77.1.13")
	p.with(func(p *pretender) {
		p.members[0]["tags"] = object{"clonefrom": true}
		p.members[0]["role"] = "sync_standby"
		p.members[1]["state"] = "in archive recovery"
	})
	b.leadsTo(t, name, "10.77.1.12")
	p.with(func(p *pretender) {
		// It ran when it was seen last.
		p.members[0]["state"], p.members[0]["role"] = "running", "replica"
	})
	b.leadsTo(t, name, "10.77.1.11")
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.5 node=pg1")
	if strings.Contains(u.said(), "pg9") {
		t.Error("it cares for a member that it has no target for")
	}
}

// oldPatroni is 3.0.2, which does not say what it is called, nor which replicas stream.
func (b *bind) oldPatroni(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5)
	p.replicas("pg2", "pg3")
	p.with(func(p *pretender) {
		p.version, p.role, p.brief = "3.0.2", "master", true
		p.members[0]["state"], p.members[1]["state"], p.members[1]["timeline"] = "running", "running", 4
	})
	u := b.updater(t, name, p).configure(object{"follow": "replicas"})
	u.expect("once", "written")
	b.leadsTo(t, name, "10.77.1.12")
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.1 node=pg1")
	p.with(func(p *pretender) { p.leader = "pg2"; p.timeline = 6 })
	u.configure(object{"member": "pg3", "follow": "leader"}).expect("once", "written")
	b.leadsTo(t, name, "10.77.1.13")
}

func (b *bind) all(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5)
	p.replicas("pg3")
	b.updater(t, name, p).configure(object{"follow": "all"}).start()
	b.leadsTo(t, name, "10.77.1.11", "10.77.1.13")
	p.replicas("pg2", "pg3")
	b.leadsTo(t, name, "10.77.1.11", "10.77.1.12", "10.77.1.13")
	p.replicas()
	b.leadsTo(t, name, "10.77.1.11")
}

func (b *bind) cname(t *testing.T) {
	name := recordName(t)
	p, q := newPatroni(t, "pg1").leads(5), newPatroni(t, "pg2")
	var updaters []*updater
	for _, p := range []*pretender{p, q} {
		u := b.updater(t, name, p).configure(object{"type": "CNAME", "targets": object{"pg1": []string{"pg1.pg.example."}, "pg2": []string{"pg2.pg.example."}}})
		updaters = append(updaters, u.start())
	}
	b.leadsTo(t, name, "10.77.1.11")
	p.follows()
	q.leads(6)
	b.leadsTo(t, name, "10.77.1.12")
	b.marked(t, "_pgha."+name, "pgha uid=demo/db epoch=1.6.1 node=pg2")
	for _, n := range []*named{b.primary, b.second} {
		if got := n.cname(name); got != "pg2.pg.example." {
			t.Errorf("it is a CNAME of %q", got)
		}
	}
	// The name is the owner of another name, and has no records.
	b.others(fmt.Sprintf("u.delete(%q, 'CNAME')", name))
	if c := updaters[1].expect("once", "written"); !slices.Equal(c.Values, []string{"pg2.pg.example."}) {
		t.Errorf("%+v", c)
	}
	b.leadsTo(t, name, "10.77.1.12")
	updaters[1].signal(syscall.SIGTERM)
	updaters[0].expect("remove", "removed")
	if got := b.primary.texts("_pgha." + name); got != nil || b.primary.cname(name) != "" {
		t.Errorf("there is still %q, %q", got, b.primary.cname(name))
	}
}

// mends changes what is there, and has the updater look once.
func (b *bind) mends(t *testing.T) {
	name := recordName(t)
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5))
	u.expect("once", "written")
	u.expect("once", "unchanged")
	for what, lines := range map[string]string{
		"TTL":               `u.replace("%s", 300, "A", "10.77.1.11")`,
		"address":           `u.replace("%s", 5, "A", "10.9.9.9")`,
		"address more":      `u.add("%s", 5, "A", "10.9.9.9")`,
		"address of IPv6":   `u.add("%s", 5, "AAAA", "fd00::9")`,
		"no address":        `u.delete("%s", "A")`,
		"TTL of the mark":   `u.add("%[1]s", 300, "A", "10.77.1.11"); u.replace("%[1]s", 300, "TXT", '"pgha uid=demo/db epoch=1.5.90 node=pg1"')`,
		"neither":           `u.delete("%s")`,
		"an older mark":     `u.replace("%s", 5, "TXT", '"pgha uid=demo/db epoch=1.4.7 node=pg1"')`,
		"mark in two texts": `u.replace("%s", 5, "TXT", '"pgha uid=demo/db epoch=1.4.7" " node=pg1"')`,
	} {
		b.others(fmt.Sprintf(lines, name))
		if c := u.does("once"); c.Outcome != "written" || !slices.Equal(c.Values, []string{"10.77.1.11"}) {
			t.Errorf("%s: %+v", what, c)
		}
		if !strings.HasPrefix(what, "TTL") {
			continue
		}
		if look := u.output("look"); !strings.Contains(look, `"values": ["10.77.1.11"], "ttl": 5,`) {
			t.Errorf("%s: %s", what, look)
		}
	}
	u.expect("once", "unchanged")
}

// looksAgain has the updater find out by itself what others have changed.
func (b *bind) looksAgain(t *testing.T) {
	slow(t)
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5)
	u := b.updater(t, name, p).start()
	b.leadsTo(t, name, "10.77.1.11")
	b.others(fmt.Sprintf("u.replace(%q, 300, 'A', '10.9.9.9')", name))
	begin := time.Now()
	if took := b.leadsTo(t, name, "10.77.1.11").Sub(begin); took > 17*time.Second {
		t.Errorf("mended after %s", took)
	}
	u.until("written")
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.2 node=pg1")
	if n := strings.Count(u.said(), "leads to"); n != 2 {
		t.Errorf("it has told of two writes %d times:\n%s", n, u.said())
	}
}

func (b *bind) removes(t *testing.T) {
	name := recordName(t)
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5))
	u.expect("remove", "absent")
	u.expect("once", "written")
	stranger := b.updater(t, name, newPatroni(t, "pg2").leads(6)).configure(object{"uid": "other/db"})
	stranger.expect("remove", "foreign")
	b.leadsTo(t, name, "10.77.1.11")
	// From any node, whatever its Patroni is.
	b.updater(t, name, newPatroni(t, "pg3")).expect("remove", "removed")
	b.leadsTo(t, name)
	if got := b.primary.texts(name); got != nil {
		t.Errorf("there is still %q", got)
	}
	u.expect("remove", "absent")
}

func (b *bind) looks(t *testing.T) {
	name := recordName(t)
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5))
	gone := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	u.configure(object{"servers": []string{b.primary.endpoint(), b.second.endpoint(), gone}, "targets": object{"pg1": []string{"fd00::11", "10.77.1.11"}}})
	type said struct {
		Server, Rcode, Mark, Error string
		Authoritative              bool
		Serial                     uint32
		Values                     []string
		TTL                        int
	}
	look := func() (list []said) {
		for _, line := range strings.Split(strings.TrimSpace(u.output("look")), "\n") {
			var s said
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				t.Fatalf("%v in %s", err, line)
			}
			list = append(list, s)
		}
		if len(list) != 3 || list[0].Server != b.primary.endpoint() || list[1].Server != b.second.endpoint() || list[2].Server != gone {
			t.Fatalf("it has looked at %+v", list)
		}
		return list
	}
	before := look()
	for i, s := range before {
		if i == 2 && (s.Error != gone+" does not answer: Connection refused" || s.Authoritative) {
			t.Errorf("of a server that is not there: %+v", s)
		} else if i < 2 && (s.Rcode != "NXDOMAIN" || !s.Authoritative || s.Serial == 0 || len(s.Values) > 0 || s.Mark != "" || s.Error != "") {
			t.Errorf("of a record that is not there: %+v", s)
		}
	}
	c := u.expect("once", "written")
	b.leadsTo(t, name, "10.77.1.11", "fd00::11")
	for _, s := range look()[:2] {
		if s.Rcode != "NOERROR" || !s.Authoritative || s.Serial <= before[0].Serial || !slices.Equal(s.Values, []string{"10.77.1.11", "fd00::11"}) || s.TTL != 5 || s.Mark != c.Mark || s.Error != "" {
			t.Errorf("%+v", s)
		}
	}
	u.configure(object{"key": object{"name": "k256", "algorithm": "hmac-sha256", "secret": tsigKeys["k512"][1]}})
	list := look()
	if list[0].Rcode != "NOTAUTH" || !strings.Contains(list[0].Error, "its secret of the key is another one") || list[1].Error != "" {
		t.Errorf("with a wrong key: %+v", list)
	}
	u.configure(object{"zone": "other.example.", "name": "db.other.example."})
	if list := look(); list[1].Rcode != "REFUSED" || list[1].Authoritative || list[1].Error == "" {
		t.Errorf("of another zone: %+v", list)
	}
}

// longAnswers do not fit into a packet, and strangers send packets.
func (b *bind) longAnswers(t *testing.T) {
	name := recordName(t)
	var truncated atomic.Int32
	through := b.proxy(t, &proxy{question: func(question, answer []byte) [][]byte {
		if answer[2]&2 != 0 {
			truncated.Add(1)
		}
		stray := slices.Clone(answer)
		stray[0]++
		return [][]byte{question, {1}, stray, answer}
	}})
	var list []string
	for i := range 90 {
		list = append(list, fmt.Sprintf("10.78.1.%d", i))
	}
	uid := strings.Repeat("a-long-uid/", 30)
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5)).configure(object{"targets": object{"pg1": list}, "servers": []string{through}, "uid": uid})
	u.expect("once", "written")
	if c := u.expect("once", "unchanged"); c.Mark != "pgha uid="+uid+" epoch=1.5.1 node=pg1" {
		t.Errorf("the mark is %s", c.Mark)
	}
	b.leadsTo(t, name, list...)
	if truncated.Load() == 0 {
		t.Error("nothing was too long")
	}
}

// unsigned answers may come from anybody.
func (b *bind) unsigned(t *testing.T) {
	name := recordName(t)
	through := b.proxy(t, &proxy{question: func(question, _ []byte) [][]byte {
		_, end := questionKind(question)
		answer := slices.Clone(question[:end])
		answer[2], answer[3] = 0x84, 0
		copy(answer[4:], []byte{0, 1, 0, 0, 0, 0, 0, 0})
		return [][]byte{answer}
	}})
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5)).configure(object{"servers": []string{through}})
	if c := u.expect("once", "refused"); !strings.Contains(c.Detail, "is not signed, and not believed") {
		t.Errorf("it says %q", c.Detail)
	}
}

// patroni does not say that this node is primary, or not in time.
func (b *bind) patroni(t *testing.T) {
	name := recordName(t)
	for what, c := range map[string]struct {
		f    func(p *pretender)
		says string
	}{
		"standby":      {func(p *pretender) { p.status = http.StatusServiceUnavailable }, "Patroni answers 503"},
		"not promoted": {func(p *pretender) { p.role = "replica" }, "PostgreSQL is not promoted yet"},
		"brief":        {func(p *pretender) { p.brief, p.role = true, "replica" }, "PostgreSQL is not promoted yet"},
		"late":         {func(p *pretender) { p.delay = 3 * time.Second }, "Patroni does not answer (timed out)"},
		"gone":         {func(p *pretender) { p.server.Close() }, "Patroni does not answer (Connection refused)"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			u := b.updater(t, name, newPatroni(t, "pg1").leads(5).with(c.f))
			if got := u.expect("once", "not primary"); !strings.HasSuffix(got.Detail, c.says) {
				t.Errorf("it says %q", got.Detail)
			}
		})
	}
}

// promotion has Patroni answer 200 before PostgreSQL is promoted, and not answer later.
func (b *bind) promotion(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5).with(func(p *pretender) { p.role = "replica" })
	u := b.updater(t, name, p).start()
	u.says("this node is not primary: Patroni answers 200, and PostgreSQL is not promoted yet")
	b.leadsTo(t, name)
	p.leads(6)
	b.leadsTo(t, name, "10.77.1.11")
	p.server.Close()
	u.says("this node is not primary: Patroni does not answer (Connection refused)")
	b.leadsTo(t, name, "10.77.1.11")
}

// systemd hears from the updater.
func (b *bind) systemd(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1")
	u := b.updater(t, name, p)
	path := filepath.Join(u.runtime, "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	u.start("NOTIFY_SOCKET=" + path)
	var heard []string
	hear := func(what string) {
		t.Helper()
		buffer := make([]byte, 4096)
		for {
			if i := slices.IndexFunc(heard, func(text string) bool { return strings.HasPrefix(text, what) }); i >= 0 {
				heard = slices.Delete(heard, i, i+1)
				return
			}
			_ = c.SetReadDeadline(time.Now().Add(patient))
			n, err := c.Read(buffer)
			if err != nil {
				t.Fatalf("%s was not heard, only %q", what, heard)
			}
			heard = append(heard, string(buffer[:n]))
		}
	}
	hear("WATCHDOG=1")
	hear("STATUS=this node is not primary: Patroni answers 503")
	hear("READY=1")
	p.leads(5)
	hear("STATUS=" + name + " leads to 10.77.1.11")
	hear("WATCHDOG=1")
	hear("WATCHDOG=1")
}

func (b *bind) reloads(t *testing.T) {
	name := recordName(t)
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5)).start()
	b.leadsTo(t, name, "10.77.1.11")
	before := u.report()
	if err := os.WriteFile(filepath.Join(u.dir, "record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	u.signal(syscall.SIGHUP)
	u.says("unusable, and it goes on with what it has")
	u.configure(object{"targets": object{"pg1": []string{"10.77.1.21"}}})
	u.signal(syscall.SIGHUP)
	b.leadsTo(t, name, "10.77.1.21")
	until(t, "another digest", func() bool { return u.report().Digest != before.Digest })
	b.marked(t, name, "pgha uid=demo/db epoch=1.5.2 node=pg1")
	select {
	case <-u.ended:
		t.Error("it has ended")
	default:
	}
}

// ends leaves the record as it is.
func (b *bind) ends(t *testing.T) {
	name := recordName(t)
	u := b.updater(t, name, newPatroni(t, "pg1").leads(5)).start()
	b.leadsTo(t, name, "10.77.1.11")
	begin := time.Now()
	u.signal(syscall.SIGTERM)
	<-u.ended
	if status, _ := u.cmd.ProcessState.Sys().(syscall.WaitStatus); time.Since(begin) > 3*time.Second || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended after %s: %s", time.Since(begin), u.cmd.ProcessState)
	}
	b.leadsTo(t, name, "10.77.1.11")
}

// verifies has Patroni speak TLS.
func (b *bind) verifies(t *testing.T) {
	name := recordName(t)
	p := newPatroni(t, "pg1").leads(5)
	server := httptest.NewUnstartedServer(p)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	u := b.updater(t, name, p)
	authority := filepath.Join(u.dir, "ca.crt")
	if err := os.WriteFile(authority, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	u.configure(object{"patroni": server.URL, "cafile": authority}).start()
	u.says("Patroni does not answer (")
	// It notices by itself that the authority has changed.
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(authority, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b.leadsTo(t, name, "10.77.1.11")
}

func (b *bind) badConfig(t *testing.T) {
	p := newPatroni(t, "pg1")
	for says, change := range map[string]object{
		"cannot follow 'all'":             {"type": "CNAME", "follow": "all", "targets": object{"pg1": []string{"pg1.pg.example."}}},
		"a node has no target":            {"targets": object{"pg1": []string{}}},
		"or too many":                     {"type": "CNAME", "targets": object{"pg1": []string{"pg1.pg.example.", "pg2.pg.example."}}},
		"has a space":                     {"uid": "demo db"},
		"'hmac-md5' is none of":           {"key": object{"name": "k256", "algorithm": "hmac-md5", "secret": tsigSecret}},
		"cannot be used: Error(":          {"key": object{"name": "k256", "algorithm": "hmac-sha256", "secret": "#" + tsigSecret}},
		"does not appear to be an IPv4":   {"servers": []string{"ns.pg.example:53"}},
		"IndexError":                      {"servers": []string{}},
		"'db' is no address of a Patroni": {"patroni": "db"},
	} {
		u := b.updater(t, "r1.pg.example.", p).configure(change)
		out, err := u.command("once").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), says) || strings.Contains(string(out), "Traceback") {
			t.Errorf("%s: %v %s", says, err, out)
		}
		u.discreet("an error", string(out))
	}
}

// race has several write at once: what is there at last is the newest's, and each has
// written at most once.
func (b *bind) race(t *testing.T) {
	name := recordName(t)
	var group sync.WaitGroup
	for i := range 3 {
		u := b.updater(t, name, newPatroni(t, fmt.Sprintf("pg%d", i+1)).leads(5+i))
		group.Go(func() {
			if c := u.does("once"); c.Outcome != "written" && c.Outcome != "newer" {
				t.Errorf("%+v came of it", c)
			}
		})
	}
	group.Wait()
	b.leadsTo(t, name, "10.77.1.13")
	b.marked(t, name, "pgha uid=demo/db epoch=1.7.1 node=pg3")
}
