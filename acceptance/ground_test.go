package acceptance

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// Hosts on which something is wrong. Each of them goes its own way: it is broken,
// an apply says what is wrong and what to do, it is mended, and the next apply
// goes on.
func TestBadGround(t *testing.T) {
	turn(t)
	cli.Binary(t)
	lab := labtest.New(t, labhost.Options{
		Image: labhost.Warm, Bastions: []string{"dc2"},
		Datacenters: []labhost.Datacenter{
			{Name: "dc1", Hosts: []string{"door", "shop", "disk", "debian", "loop", "reboot", "clock"}},
			{Name: "dc2", Hosts: []string{"behind"}}, {Name: "dc3", Hosts: []string{"slow"}},
		},
	})
	two := make(chan struct{}, 2) // at a time
	for _, part := range []struct {
		name string
		test func(*ground)
	}{ // what takes longest begins first
		{"slow", (*ground).slow}, {"disk", (*ground).disk}, {"behind", (*ground).behind}, {"reboot", (*ground).reboot},
		{"loop", (*ground).loop}, {"debian", (*ground).debian}, {"door", (*ground).door}, {"shop", (*ground).shop}, {"clock", (*ground).clock},
	} {
		t.Run(part.name, func(t *testing.T) {
			t.Parallel()
			two <- struct{}{}
			defer func() { <-two }()
			part.test(newGround(t, lab, part.name))
		})
	}
}

// ground is one host of a lab, with a root module of its own.
type ground struct {
	*site
	ctx  context.Context
	name string
	addr string
}

func newGround(t *testing.T, lab *labhost.Lab, name string) *ground {
	return &ground{
		site: &site{t: t, lab: lab, Dir: cli.New(t, nil, lab.Env()...)}, ctx: t.Context(), name: name, addr: lab.Host(name).Addr,
	}
}

// cluster makes the configuration one of a cluster of one node.
func (g *ground) cluster(c settings) {
	g.t.Helper()
	c.Postgres, c.Patroni, c.EtcdVersion = first(c.Postgres, g.oldest(g.server())), g.oldest("patroni"), first(c.EtcdVersion, g.oldest("etcd-server"))
	c.Purge = true
	g.Write("main.tf", render(map[string]string{g.name: g.addr}, c))
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// host makes the configuration one of the host only.
func (g *ground) host(provider, host string) {
	g.t.Helper()
	g.Write("main.tf", fmt.Sprintf(`terraform {
  required_providers {
    pgha = { source = "pgha/pgha" }
  }
}
provider "pgha" {
%s
}
resource "pgha_host" "h" {
  name      = %q
  address   = %q
  time_sync = "off"
  %s
}
`, provider, g.name, g.addr, host))
}

// do runs a command on the host.
func (g *ground) do(command string) string {
	g.t.Helper()
	return g.on(g.name, command)
}

// fails applies, and fails the test unless that fails and says all of these. Every
// error says where, what, what is left and what to do.
func (g *ground) fails(texts ...string) cli.Output {
	g.t.Helper()
	o := g.TryApply(g.ctx)
	if o.Code == 0 {
		g.t.Errorf("an apply went through that should say %q", texts)
		return o
	}
	has(g.t, o, append([]string{"Error: Unable to", "Host: ", "Step: ", "Cause: ", "Left as it is: ", "What to do: "}, texts...)...)
	return o
}

// converges applies, and fails the test unless that leaves nothing to do.
func (g *ground) converges() {
	g.t.Helper()
	g.Apply(g.ctx)
	g.NoChanges(g.ctx)
}

// The way in: keys, users, sudo, noisy shells, forwarding.
func (g *ground) door() {
	blank := func(block string) string { return "ssh {\n" + block + "\n}" }
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		g.t.Fatal(err)
	}
	key, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		g.t.Fatal(err)
	}
	wrong := filepath.Join(g.t.TempDir(), "wrong key")
	if err := os.WriteFile(wrong, pem.EncodeToMemory(key), 0o600); err != nil {
		g.t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		g.t.Fatal(err)
	}
	const password = `it's "a" pässword $(x) \`
	g.do(`for u in nobody2 admin2; do useradd -m -s /bin/bash $u; mkdir -p /home/$u/.ssh; cp /root/.ssh/authorized_keys /home/$u/.ssh/; chown -R $u: /home/$u; done
		printf '%s\n' ` + quote("admin2:"+password) + ` | chpasswd
		echo 'admin2 ALL=(ALL) ALL' >/etc/sudoers.d/admin2
		printf 'echo welcome; echo "to the $(hostname)" >&2; mesg n; stty -a; PS1="> "\n' | tee /home/admin2/.profile >/home/admin2/.bashrc
		echo 'Authorized use only. $(reboot) "now"' >/etc/issue.net; echo 'Banner /etc/issue.net' >/etc/ssh/sshd_config.d/banner.conf; systemctl reload ssh`)
	const late = "boot_timeout = \"5s\""

	g.host(blank(fmt.Sprintf("private_key_file = %q\n%s", wrong, late)), "")
	g.fails("Host: door ("+g.addr+")", "Step: connect", "authentication rejected", "as user root", "public key is in the account's authorized_keys", "Left as it is: everything on the host")
	g.host(blank("user = \"nosuchuser\"\n"+late), "")
	g.fails("authentication rejected", "as user nosuchuser", "Check the user")
	g.host("", `ssh = { host_key = `+fmt.Sprintf("%q", strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))))+` }`)
	g.fails("Step: connect", "host key not accepted")
	g.host(blank(`user = "nobody2"`), "")
	g.fails("Step: become root", "a password is needed to become root", "become_password")
	g.host(blank(fmt.Sprintf("user = \"nobody2\"\nbecome_password = %q", "wrong")), "")
	g.fails("Step: become root", "sudo does not accept the password")

	admin := blank(fmt.Sprintf("user = \"admin2\"\nbecome_password = %s", strings.ReplaceAll(fmt.Sprintf("%q", password), "$(", "$$(")))
	admin = strings.ReplaceAll(admin, "$$(", "$(") // only ${ means something to Terraform
	g.host(admin, "")
	g.do("echo 'Defaults requiretty' >/etc/sudoers.d/tty")
	g.fails("sudo wants a terminal (requiretty)", `Add "Defaults:USER !requiretty" to sudoers`)
	g.do("echo 'Defaults lecture=always' >/etc/sudoers.d/tty")
	g.do("echo 'AllowTcpForwarding no' >/etc/ssh/sshd_config.d/forward.conf; systemctl reload ssh")
	g.fails("an SSH server that does not forward connections", "AllowTcpForwarding yes")
	if got := g.do("ls -A /etc/pgha 2>/dev/null; echo done"); got != "done" {
		g.t.Errorf("refused hosts were changed: %s", got)
	}
	g.do("rm /etc/ssh/sshd_config.d/forward.conf; systemctl reload ssh")
	g.converges()
	g.Destroy(g.ctx)
}

// Packages: repositories that are broken, and somebody else's apt.
func (g *ground) shop() {
	repository := func(body string) { g.host("", "apt = { repositories = { theirs = { "+body+" } } }") }
	// A flat repository, whose index is not what its Release file says.
	g.do(`mkdir -p /srv/theirs && cd /srv/theirs && printf 'Package: late\nVersion: 1\nArchitecture: all\nFilename: ./late.deb\nSize: 1\n' >Packages
		printf 'Origin: x\nSuite: x\nCodename: x\nDate: %s\nSHA256:\n %s %s Packages\n' "$(date -Ru)" "$(sha256sum <Packages | cut -d' ' -f1)" "$(stat -c %s Packages)" >Release; sed -i s/late/lost/ Packages`)

	repository(`uris = ["http://127.0.0.1:9/debian"], suites = ["trixie"], components = ["main"]`)
	g.fails("Host: shop", "Step: renew the package lists", "a repository could not be read", "127.0.0.1:9", "the packages that were installed before")
	repository(`uris = ["file:/srv/theirs"], suites = ["./"]`)
	g.fails("Step: renew the package lists", "a repository's signature could not be checked", "signing key")
	repository(`uris = ["file:/srv/theirs"], suites = ["./"], trusted = true`)
	g.fails("Step: renew the package lists", "do not have the checksums")

	// As unattended-upgrades does, until the log has said that it is waited for.
	g.do(`sed -i s/lost/late/ /srv/theirs/Packages
		printf '#!/usr/bin/python3\nimport fcntl, os, time\nf = open("/var/lib/dpkg/lock-frontend", "w")\nfcntl.lockf(f, fcntl.LOCK_EX)\nopen("/run/locked", "w")\nwhile not os.path.exists("/run/release"): time.sleep(0.1)\n' >/usr/local/bin/unattended-upgrade
		chmod +x /usr/local/bin/unattended-upgrade && systemd-run -q --unit upgrade /usr/local/bin/unattended-upgrade && until [ -e /run/locked ]; do :; done`)
	log := filepath.Join(g.t.TempDir(), "log")
	g.Setenv("TF_LOG_PROVIDER=INFO", "TF_LOG_PATH="+log)
	var o cli.Output
	var applied sync.WaitGroup
	applied.Go(func() { o = g.TryApply(g.ctx) })
	g.eventually("the log to say who is waited for", 2*time.Minute, func(context.Context) (bool, string) {
		b, err := os.ReadFile(log)
		return err == nil && strings.Contains(string(b), "waiting for the package lock of shop, held by unattended-upgr (process "), string(b)
	})
	g.do("touch /run/release")
	if applied.Wait(); o.Code != 0 {
		g.t.Errorf("after it has ended:\n%s", o.Text)
	}
	g.Setenv("TF_LOG_PROVIDER=", "TF_LOG_PATH=")
	g.NoChanges(g.ctx)
	g.Destroy(g.ctx)
}

// Disks: too small, read-only, and full under a running cluster. What was there
// before stays whole.
func (g *ground) disk() {
	g.cluster(settings{})
	g.do("mount --bind /etc /etc && mount -o remount,ro,bind /etc")
	g.fails("Host: disk", "Step: note what will be changed on the host", "Cause: a filesystem of the host is read-only", "/etc/pgha", "findmnt")
	g.do("umount /etc")
	g.do("mkdir -p /var/lib/etcd && mount -t tmpfs -o size=100m tmpfs /var/lib/etcd")
	g.fails("Unable to create etcd cluster dcs", "Host: disk", "/var/lib/etcd has only 100 MiB free of the 256 MiB", "everything on the host")
	g.do("umount /var/lib/etcd")
	g.cluster(settings{EtcdVersion: "3.5.99"})
	g.fails("Unable to create etcd cluster dcs", "no repository of this host has etcd-server in version 3.5.99; there are: ", "everything on the host", "choose one of these versions")
	g.cluster(settings{Postgres: g.server()[len("postgresql-"):] + ".99"})
	g.do("mount --bind /var/lib/postgresql /var/lib/postgresql && mount -o remount,ro,bind /var/lib/postgresql")
	g.fails("Unable to create Patroni node disk", "is read-only", "where /var/lib/postgresql/17/main is to be", "everything on the host")
	g.do("umount /var/lib/postgresql")
	g.fails("Unable to create Patroni node disk", "no repository of this host has postgresql-17 in version 17.99; there are: ")
	g.cluster(settings{})
	g.converges()

	system := g.sql(g.name, "select system_identifier from pg_control_system()")
	for _, dir := range []string{"/etc/patroni", "/etc/pgha"} {
		g.do("rm -rf /root/copy && cp -a " + dir + " /root/copy && mount -t tmpfs -o mode=0755,size=1m tmpfs " + dir + " && cp -a /root/copy/. " + dir + "/ && { cat /dev/zero >" + dir + "/fill 2>/dev/null || true; }")
		before := g.do("find " + dir + " -type f ! -name fill -exec sha256sum {} + | sort")
		g.cluster(settings{Node: `tags = { custom = { full = "` + dir + `" } }`})
		g.NoDamage("pgha_patroni_node", g.fails("Unable to update Patroni node disk", "Host: disk", "Cause: a filesystem of the host is full", "make room on the host"))
		if after := g.do("find " + dir + " -type f ! -name fill -exec sha256sum {} + | sort"); after != before {
			g.t.Errorf("a full disk changed files in %s:\n%s\nbefore:\n%s", dir, after, before)
		}
		g.do("rm " + dir + "/fill")
		g.converges()
		if got := g.do("patronictl -c /etc/patroni/config.yml list -f json"); !strings.Contains(got, `"full": "`+dir+`"`) {
			g.t.Errorf("the tag is not there: %s", got)
		}
	}
	if got := g.sql(g.name, "select system_identifier from pg_control_system()"); got != system {
		g.t.Errorf("another database: %s, was %s", got, system)
	}
}

// NoDamage fails the test if an error wants something deleted.
func (g *ground) NoDamage(kind string, _ cli.Output) {
	g.t.Helper()
	plan := g.Plan(g.ctx)
	if plan.Contains("must be replaced") || plan.Contains("will be destroyed") || plan.Contains(kind+" is tainted") {
		g.t.Errorf("the next apply would delete something:\n%s", plan.Text)
	}
}

// What Debian's packages start by themselves is not touched, and not joined.
func (g *ground) debian() {
	g.cluster(settings{})
	g.do("systemctl start etcd && ETCDCTL_API=3 etcdctl put theirs precious")
	g.fails("Unable to create host debian", "Step: check the host", "port 2379 in use", "systemctl disable --now etcd", "Its data is not touched, nor is it ever joined", "everything on the host")
	if got := g.do("ETCDCTL_API=3 etcdctl get theirs --print-value-only; ETCDCTL_API=3 etcdctl member list | wc -l"); got != "precious\n1" {
		g.t.Errorf("the etcd of the package: %s", got)
	}
	g.do("systemctl disable -q --now etcd")

	g.do("pg_createcluster 17 main --start >/dev/null")
	g.fails("Unable to create host debian", "port 5432 in use", "Debian's own PostgreSQL cluster 17/main (running, port 5432, data in /var/lib/postgresql/17/main; no database or table of anybody's is in it)",
		"an apply never removes it", "pg_dropcluster --stop 17 main")
	g.sql(g.name, "create table precious as select 42 as answer")
	g.fails("somebody has made databases or tables in it", "Save what is needed of its data")
	g.do("pg_ctlcluster 17 main stop")
	o := g.fails("Unable to create Patroni node debian", "Step: check whose PostgreSQL this is", "(stopped, port 5432", "somebody has made databases or tables in it", "pg_dropcluster --stop 17 main")
	if o.Contains("does not say whose it is") {
		g.t.Errorf("it is told twice, and once that the data may be moved away:\n%s", o.Text)
	}
	g.do("pg_ctlcluster 17 main start")
	if got := g.sql(g.name, "select answer from precious"); got != "42" {
		g.t.Errorf("somebody's table has %q", got)
	}
	g.do("pg_dropcluster --stop 17 main")
	g.converges()
	if got := g.do("systemctl show -p MainPID --value patroni"); got == "0" || !strings.Contains(g.do("ss -Htlnp sport = :5432"), "postgres") {
		g.t.Error("PostgreSQL's port is not Patroni's")
	}
	if got := g.do("ls /var/lib/etcd/default/member"); got == "" {
		g.t.Error("the data of the package's etcd is gone")
	}
}

// Services that cannot start: given up soon, with what they said.
func (g *ground) loop() {
	log, file := filepath.Join(g.t.TempDir(), "log"), filepath.Join(g.t.TempDir(), "progress")
	g.Setenv("TF_LOG_PROVIDER=INFO", "TF_LOG_PATH="+log)
	g.cluster(settings{Provider: fmt.Sprintf("progress_file = %q", file), Cluster: `postgresql = { parameters = { shared_buffers = "7000GB" } }`})
	g.do("mkdir -p /etc/systemd/system/etcd.service.d && printf '[Service]\nLimitFSIZE=1M\n' >/etc/systemd/system/etcd.service.d/zz-limit.conf && systemctl daemon-reload")
	o := g.fails("Unable to create etcd cluster dcs", "Host: loop", "Step: start etcd.service", "ends again and again", "Log of the host:", "failed to preallocate an initial WAL file", "mend what the log names")
	if o.Took.Seconds() > 60 {
		g.t.Errorf("it took %s to give up", o.Took)
	}
	g.do("rm /etc/systemd/system/etcd.service.d/zz-limit.conf && systemctl daemon-reload")
	o = g.fails("Unable to create Patroni node loop", "Host: loop", "Step: initialise the database, or clone the leader's", "could not be initialised", "FATAL", "Patroni, stopped", "mend what the log names")
	if o.Took.Seconds() > 90 {
		g.t.Errorf("it took %s to give up", o.Took)
	}
	g.cluster(settings{Provider: fmt.Sprintf("progress_file = %q", file)})
	g.converges()

	b, err := os.ReadFile(log)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, text := range []string{"waiting for every member of the etcd cluster dcs to be healthy", "still waiting for every member", "waiting for the database to be initialised", "because="} {
		if !strings.Contains(string(b), text) {
			g.t.Errorf("the log does not say %q", text)
		}
	}
	states := map[string]int{}
	lines, err := os.ReadFile(file)
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(lines)) {
		var l struct{ Time, Resource, Step, Title, State, Error string }
		if err := json.Unmarshal([]byte(line), &l); err != nil || l.Time == "" || l.Resource == "" || l.Step == "" || l.Title == "" || l.State == "failed" && l.Error == "" {
			g.t.Errorf("line %q: %v", line, err)
		}
		states[l.State]++
	}
	if states["failed"] != 2 || states["finished"] < 25 || states["started"] != states["finished"]+states["failed"] {
		g.t.Errorf("the progress file has these states: %v", states)
	}
}
