package labhost

import (
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/pgha/terraform-provider-pgha/lab/internal/network"
	"github.com/pgha/terraform-provider-pgha/lab/internal/plan"
)

var update = flag.Bool("update", false, "write the golden files anew")

// example returns the state of a lab with two hosts and a bastion. The third
// host's disk is not made yet.
func example(t *testing.T) (s *state, keys []string) {
	t.Helper()
	layout, err := plan.Layout{}.Add([]Datacenter{{Name: "dc1", Hosts: []string{"pg1"}}, {Name: "dc2", Hosts: []string{"pg2"}}}, []string{"dc2"})
	if err != nil {
		t.Fatal(err)
	}
	s = &state{Name: "demo", Net: plan.Net{A: 10, B: 77}, Release: "trixie", Image: Bare, Datacenters: layout.Datacenters}
	for _, p := range layout.Hosts {
		_, key, err := newKey(p.Name)
		if err != nil {
			t.Fatal(err)
		}
		s.Hosts = append(s.Hosts, hostState{Place: p, HostKey: key})
		keys = append(keys, key)
	}
	return s, keys
}

// What a client accepts, with strict host keys: each host's own key, at either
// of its addresses and by its name, and nothing else.
func TestKnownHosts(t *testing.T) {
	s, keys := example(t)
	s.Hosts[2].HostKey = ""
	file := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(file, []byte(s.knownHosts()), 0o600); err != nil {
		t.Fatal(err)
	}
	check, err := knownhosts.New(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at   string
		key  int
		want bool
	}{
		{"10.77.1.11:22", 0, true},
		{"[fd77:10:77:1::11]:22", 0, true},
		{"pg1:22", 0, true},
		{"10.77.2.11:22", 1, true},
		{"10.77.2.11:22", 0, false},
		{"10.77.2.10:22", 2, false},
		{"10.77.1.12:22", 0, false},
	} {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(keys[c.key]))
		if err != nil {
			t.Fatal(err)
		}
		if err := check(c.at, &net.TCPAddr{}, key); (err == nil) != c.want {
			t.Errorf("key %d at %s: %v", c.key, c.at, err)
		}
	}
}

func TestFilesOfAHost(t *testing.T) {
	s, _ := example(t)
	var b strings.Builder
	for _, f := range hostFiles(s, s.host("pg2")) {
		b.WriteString("==> /" + f.path + "\n" + f.text)
	}
	b.WriteString("==> ssh_config\n" + s.sshConfig(place{"/cache", "demo"}))
	golden := filepath.Join("testdata", "pg2.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestRulesOfAState(t *testing.T) {
	s, _ := example(t)
	s.Cuts = map[string]cut{"pg1": {}, "dc2": {FromRunner: true}}
	want := network.Rules{
		Net: s.Net, Datacenters: 2, Bastions: []int{2},
		CutHosts:       []network.HostCut{{Datacenter: 1, Number: 11}},
		CutDatacenters: []network.DatacenterCut{{Number: 2, FromRunner: true}},
	}
	if diff := cmp.Diff(want, s.rules()); diff != "" {
		t.Error(diff)
	}
	if !s.reachable(s.host("pg1")) || s.reachable(s.host("pg2")) {
		t.Error("which host this machine reaches does not follow from the cuts")
	}
	for _, c := range []string{"pg2", "dc2-bastion"} {
		s.Cuts = map[string]cut{c: {}}
		if s.reachable(s.host("pg2")) || !s.reachable(s.host("dc2-bastion")) {
			t.Errorf("with %s cut off: this machine reaches a host behind a bastion by way of the bastion only", c)
		}
	}
}

func TestTargets(t *testing.T) {
	s, _ := example(t)
	hosts, err := s.targets([]string{"dc2", "pg1"})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, h := range hosts {
		names = append(names, h.Name)
	}
	if got := strings.Join(names, " "); got != "pg2 dc2-bastion pg1" {
		t.Error(got)
	}
	if _, err := s.targets([]string{"pg9"}); err == nil || !strings.Contains(err.Error(), "pg1, pg2, dc2-bastion in dc1, dc2") {
		t.Errorf("an unknown host: %v", err)
	}
}

func TestStateSurvives(t *testing.T) {
	s, _ := example(t)
	s.Cuts = map[string]cut{"pg1": {FromRunner: true}}
	p := place{t.TempDir(), "demo"}
	if err := p.save(s); err != nil {
		t.Fatal(err)
	}
	got, err := p.load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
}

// An id is given to another process in time; that one must not keep a dead
// test's lab alive.
func TestOwner(t *testing.T) {
	if !self().alive() {
		t.Error("this process is taken for dead")
	}
	if (owner{PID: os.Getpid(), Start: "1"}).alive() {
		t.Error("another process is taken for the owner")
	}
	if (owner{PID: 1 << 30, Start: "1"}).alive() {
		t.Error("no process is taken for the owner")
	}
}
