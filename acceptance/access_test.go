package acceptance

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// The second datacenter is reachable through its bastion only, and everything is
// done as a user with sudo: a one-node cluster there, from the first contact to
// the removal.
func TestSudoAndBastion(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{
		Image:       labhost.Warm,
		Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"runner"}}, {Name: "dc2", Hosts: []string{"pg1"}}},
		Bastions:    []string{"dc2"},
	})
	bastion, pg1 := lab.Host("dc2-bastion"), lab.Host("pg1")
	if pg1.Via == "" {
		t.Fatal("the host is reachable without its bastion, so that this test shows nothing")
	}
	base := settings{
		Purge: true, Addresses: map[string]string{"pg1": pg1.Addr},
		Provider: fmt.Sprintf(`ssh {
    user     = "admin"
    bastions = [{ host = %q }]
  }`, bastion.Addr),
	}
	env := append(lab.Env(), "PGHA_SSH_USER=") // the block says who
	d := &site{t: t, lab: lab, Dir: cli.New(t, nil, env...)}
	ctx := t.Context()
	d.configure(base)
	d.Apply(ctx)
	d.NoChanges(ctx)
	out, err := lab.SSH(ctx, "pg1", "patronictl -c /etc/patroni/config.yml list")
	if err != nil || !strings.Contains(out, "Leader") {
		t.Errorf("%v\n%s", err, out)
	}
	d.Destroy(ctx)

	// Without the bastion: a clear error, soon.
	direct := &site{t: t, lab: lab, Dir: cli.New(t, nil, env...)}
	base.Provider = `ssh {
    user            = "admin"
    connect_timeout = "2s"
    boot_timeout    = "4s"
  }`
	direct.configure(base)
	o := direct.TryApply(ctx)
	if o.Code == 0 {
		t.Fatal("an apply without the bastion succeeded")
	}
	has(t, o, "Unable to create host pg1", "Host: pg1 ("+pg1.Addr+")", "unreachable")
	if list := direct.Resources(ctx); len(list) > 0 {
		t.Errorf("a failed create left something in the state: %v", list)
	}
}
