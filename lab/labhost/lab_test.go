package labhost_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
	"golang.org/x/sync/errgroup"

	"github.com/pgha/terraform-provider-pgha/lab/labhost"
	"github.com/pgha/terraform-provider-pgha/lab/labtest"
)

// TestLab is one lab and everything that can be done to it, in an order that
// costs the least time.
func TestLab(t *testing.T) {
	l := labtest.New(t, labhost.Options{
		DiskSize: "256M",
		Datacenters: []labhost.Datacenter{
			{Name: "dc1", Hosts: []string{"a1", "a2"}},
			{Name: "dc2", Hosts: []string{"b1"}},
		},
		Bastions: []string{"dc2"},
	})
	ctx := t.Context()
	// What follows is used by all of the subtests, and fails the one at hand.
	cur := t
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			cur = t
			f(t)
		})
		cur = t
	}
	do := func(err error) {
		cur.Helper()
		if err != nil {
			cur.Fatal(err)
		}
	}
	on := func(host, command string) string {
		cur.Helper()
		out, err := l.SSH(ctx, host, command)
		do(err)
		return out
	}
	// connects reports whether a host gets an answer from an address's SSH
	// server. A cut is silence, so the answer "no" takes all of the time given.
	connects := func(from, to, seconds string) bool {
		cur.Helper()
		return on(from, "timeout "+seconds+" bash -c 'exec 3<>/dev/tcp/"+to+"/22 && read -r -u 3' 2>/dev/null && echo yes || echo no") == "yes"
	}
	expect := func(want bool, from, to string) {
		cur.Helper()
		seconds := "0.7"
		if want {
			seconds = "20" // this machine may be busy with other tests
		}
		for _, addr := range []string{l.Host(to).Addr, l.Host(to).Addr6} {
			if got := connects(from, addr, seconds); got != want {
				cur.Errorf("%s reaches %s at %s: %v, want %v", from, to, addr, got, want)
			}
		}
	}
	// answers reports whether a host answers this machine.
	const moment = 700 * time.Millisecond
	answers := func(host string, within time.Duration) bool {
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		c, err := l.Dial(ctx, host)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	up := func(o labhost.Options) *labhost.Lab {
		cur.Helper()
		o.Name, o.Progress = l.Name, cur.Output()
		l, err := labhost.Up(ctx, o)
		do(err)
		return l
	}

	run("hosts are as users' hosts are", func(t *testing.T) {
		ids := map[string]bool{}
		for _, h := range l.Hosts() {
			if got := on(h.Name, "hostname; systemctl is-system-running; . /etc/os-release; echo $VERSION_CODENAME"); got != h.Name+"\nrunning\ntrixie" {
				t.Errorf("%s: %q", h.Name, got)
			}
			ids[on(h.Name, "cat /etc/machine-id; cat /etc/ssh/ssh_host_*_key.pub")] = true
			// sudo complains when it cannot look up the host's own name.
			if got := on(h.Name, "sudo -u admin sudo -n id -u 2>&1; getent hosts "+h.Name+" | wc -l"); got != "0\n1" {
				t.Errorf("%s: %q", h.Name, got)
			}
		}
		if len(ids) != len(l.Hosts()) {
			t.Error("two hosts share an identity")
		}
		if got := on("a1", "wc -c < /etc/resolv.conf; ls -d /etc/localtime /usr/sbin/policy-rc.d 2>/dev/null; dpkg -l | grep -c -E 'etcd|patroni|postgresql'"+" || true"); got != "0\n0" {
			t.Errorf("a bare host is not bare: %q", got)
		}
	})

	run("both users log in, with strict host keys, at both addresses", func(t *testing.T) {
		key, err := os.ReadFile(l.KeyFile)
		do(err)
		signer, err := ssh.ParsePrivateKey(key)
		do(err)
		known, err := knownhosts.New(l.KnownHostsFile)
		do(err)
		for _, user := range []string{"root", "admin"} {
			for _, addr := range []string{l.Host("a1").Addr, l.Host("a1").Addr6} {
				c, err := ssh.Dial("tcp", net.JoinHostPort(addr, "22"), &ssh.ClientConfig{
					User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: known,
					HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
				})
				if err != nil {
					t.Errorf("%s at %s: %v", user, addr, err)
					continue
				}
				c.Close()
			}
		}
	})

	run("apt installs each version from the pool, with no way out", func(t *testing.T) {
		all, err := l.Pool()
		do(err)
		on("a1", "apt-get update")
		// What has to be of one version is asked for together, as users have
		// to: apt takes the newest of what is only depended on.
		for _, group := range [][]string{
			{"postgresql-17"}, {"postgresql-17", "postgresql-client-17", "libpq5"}, {"patroni"}, {"etcd-server"}, {"etcd-client"}, {"vip-manager2"},
			{"pgbackrest"}, {"bind9", "bind9-libs", "bind9-utils", "bind9-host"}, {"haproxy"}, {"chrony"}, {"python3-etcd"}, {"openssl"},
			{"curl", "libcurl4t64"}, {"ca-certificates"}, {"iputils-arping"},
		} {
			if len(all[group[0]]) == 0 {
				t.Errorf("the pool has no %s", group[0])
			}
			for _, v := range all[group[0]] {
				on("a1", "apt-get install -s --no-install-recommends "+strings.Join(group, "="+v+" ")+"="+v)
			}
		}
		on("a1", "DEBIAN_FRONTEND=noninteractive apt-get install -y -q iputils-ping=$(apt-cache show iputils-ping | sed -n 's/Version: //p' | tail -n 1)")
		on("a1", "ping -c 1 -W 2 "+l.Host("b1").Addr)
	})

	run("the network ends at this machine", func(t *testing.T) {
		server, err := net.Listen("tcp", ":0")
		do(err)
		defer server.Close()
		_, port, _ := net.SplitHostPort(server.Addr().String())
		try := func(addr string) bool {
			_, err := l.SSH(ctx, "a1", "timeout 5 bash -c '</dev/tcp/"+addr+"/"+port+"'")
			return err == nil
		}
		if !try(l.RunnerAddr) || !try(l.RunnerAddr6) {
			t.Error("a host cannot reach this machine")
		}
		addrs, err := net.InterfaceAddrs()
		do(err)
		for _, a := range addrs {
			ip, _, _ := net.ParseCIDR(a.String())
			if ip.IsGlobalUnicast() && ip.String() != l.RunnerAddr && ip.String() != l.RunnerAddr6 && try(ip.String()) {
				t.Errorf("a host reaches this machine at %s, outside of the lab", ip)
			}
		}
	})

	run("a bastion is the only way in", func(t *testing.T) {
		b1 := l.Host("b1")
		if b1.Via != "dc2-bastion" || !l.Host("dc2-bastion").Bastion {
			t.Errorf("%+v", b1)
		}
		if c, err := net.DialTimeout("tcp", net.JoinHostPort(b1.Addr, "22"), 500*time.Millisecond); err == nil {
			c.Close()
			t.Error("this machine reaches b1 without the bastion")
		}
		expect(true, "a1", "b1")
		if got := on("b1", "echo $SSH_CONNECTION"); !strings.HasPrefix(got, l.Host("dc2-bastion").Addr) {
			t.Errorf("b1 sees the connection come from %q", got)
		}
		// OpenSSH gets there by the lab's configuration.
		out, err := exec.CommandContext(ctx, "ssh", "-F", l.SSHConfigFile, "-o", "BatchMode=yes", "b1", "hostname").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "b1" {
			t.Errorf("ssh -F: %v: %s", err, out)
		}
	})

	run("a host is cut off, but not from this machine", func(t *testing.T) {
		do(l.Partition(ctx, "a1"))
		for _, p := range [][2]string{{"a1", "a2"}, {"a2", "a1"}, {"a1", "b1"}, {"b1", "a1"}} {
			expect(false, p[0], p[1])
		}
		expect(true, "a2", "b1")
		do(l.Heal(ctx, "a1"))
		expect(true, "a1", "a2")
		expect(true, "b1", "a1")
	})

	run("a datacenter is cut off as a whole", func(t *testing.T) {
		do(l.Partition(ctx, "dc1"))
		expect(true, "a1", "a2")
		expect(false, "a1", "b1")
		expect(false, "b1", "a2")
		do(l.Heal(ctx))
		expect(true, "b1", "a2")
	})

	run("a host is cut off from this machine too", func(t *testing.T) {
		do(l.PartitionFromRunner(ctx, "a1", "dc2"))
		if answers("a1", moment) || answers("b1", moment) {
			t.Error("a host that is cut off answers")
		}
		if !answers("a2", time.Minute) {
			t.Error("a host that is not cut off is silent")
		}
		do(l.Heal(ctx))
		on("a1", "true")
		on("b1", "true")
	})

	run("distance", func(t *testing.T) {
		// Connecting takes one round trip. The best of five: this machine may
		// be busy, but it cannot make a way shorter than it is.
		roundTrip := func(from, to string) time.Duration {
			t.Helper()
			us := on(from, "for i in 1 2 3 4 5; do s=${EPOCHREALTIME/./}; exec 3<>/dev/tcp/"+to+"/22; e=${EPOCHREALTIME/./}; echo $((e - s)); done | sort -n | head -n 1")
			n, err := strconv.Atoi(us)
			do(err)
			return time.Duration(n) * time.Microsecond
		}
		within := func(from, to string, least, most time.Duration) {
			t.Helper()
			for _, addr := range []string{l.Host(to).Addr, l.Host(to).Addr6} {
				if got := roundTrip(from, addr); got < least || got > most {
					t.Errorf("a round trip from %s to %s (%s) takes %v, want %v to %v", from, to, addr, got, least, most)
				}
			}
		}
		const ms = time.Millisecond
		do(l.Latency(ctx, "dc2", 40*ms, 0))
		within("a1", "b1", 80*ms, 120*ms)
		within("b1", "a2", 80*ms, 120*ms)
		within("a1", "a2", 0, 40*ms)
		do(l.Latency(ctx, "dc1", 30*ms, 5*ms)) // while the process runs
		within("a1", "b1", 120*ms, 200*ms)
		// A cut holds for what takes the long way, too.
		do(l.Partition(ctx, "dc2"))
		expect(false, "a1", "b1")
		do(l.Heal(ctx))
		do(l.Latency(ctx, "dc1", 0, 0))
		do(l.Latency(ctx, "dc2", 0, 0))
		within("a1", "b1", 0, 40*ms)
		if err := l.Latency(ctx, "dc3", ms, 0); err == nil {
			t.Error("a datacenter that does not exist was moved")
		}
	})

	run("a large transfer crosses a distance whole", func(t *testing.T) {
		do(l.Latency(ctx, "dc2", 5*time.Millisecond, 2*time.Millisecond))
		on("b1", "mkdir -m 700 -p /root/in && python3 -c 'import sys; sys.stdout.write(\"x\" * 20000000)' > /root/in/f")
		key, err := os.ReadFile(l.KeyFile)
		do(err)
		on("a1", "umask 77; cat > /root/key <<'END'\n"+string(key)+"END")
		got := on("a1", "ssh -i /root/key -o StrictHostKeyChecking=no -o BatchMode=yes root@"+l.Host("b1").Addr+" cat /root/in/f | sha256sum")
		if want := on("b1", "sha256sum < /root/in/f; rm -r /root/in"); got != want {
			t.Errorf("%s arrived, %s was sent", got, want)
		}
		do(l.Latency(ctx, "dc2", 0, 0))
	})

	run("a frozen host is silent, and goes on", func(t *testing.T) {
		do(l.Freeze(ctx, "a2"))
		if answers("a2", moment) {
			t.Error("a frozen host answers")
		}
		if got := states(t, l)["a2"]; got != "frozen" {
			t.Errorf("its state is %q", got)
		}
		do(l.Thaw(ctx, "a2"))
		on("a2", "true")
	})

	run("a power cut keeps what was written", func(t *testing.T) {
		on("a1", "dd if=/dev/urandom of=/var/lib/data bs=1k count=64 conv=fsync 2>&1")
		sum, boot, id := on("a1", "sha256sum /var/lib/data"), on("a1", bootID), on("a1", "cat /etc/machine-id")
		do(l.Kill(ctx, "a1"))
		if answers("a1", moment) || states(t, l)["a1"] != "off" {
			t.Error("a host without power answers")
		}
		do(l.Start(ctx, "a1"))
		if on("a1", "sha256sum /var/lib/data") != sum || on("a1", "cat /etc/machine-id") != id {
			t.Error("the host lost its disk")
		}
		if on("a1", bootID) == boot {
			t.Error("the host did not boot")
		}
	})

	run("a host reboots by itself", func(t *testing.T) {
		boot := on("a2", bootID)
		_, _ = l.SSH(ctx, "a2", "systemctl reboot") // the connection breaks
		for {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			now, err := l.SSH(ctx, "a2", bootID)
			cancel()
			if err == nil && now != boot {
				break
			}
			if t.Context().Err() != nil {
				t.Fatal("the host did not come back")
			}
		}
	})

	run("a disk runs full", func(t *testing.T) {
		if _, err := l.SSH(ctx, "a2", "dd if=/dev/zero of=/var/fill bs=1M count=300"); err == nil || !strings.Contains(err.Error(), "No space left") {
			t.Errorf("300 MB on a disk of 256: %v", err)
		}
		on("a2", "rm /var/fill")
	})

	run("a rebuilt host is another one at the same address", func(t *testing.T) {
		id, key := on("a1", "cat /etc/machine-id"), on("a1", "cat /etc/ssh/ssh_host_ed25519_key.pub")
		addr := l.Host("a1").Addr
		do(l.Rebuild(ctx, "a1"))
		if on("a1", "cat /etc/machine-id") == id || on("a1", "cat /etc/ssh/ssh_host_ed25519_key.pub") == key {
			t.Error("it kept its identity")
		}
		if got := on("a1", "ls /var/lib/data 2>&1 || ip -br -4 addr show host0"); !strings.Contains(got, addr) || !strings.Contains(got, "No such file") {
			t.Error(got)
		}
	})

	run("up again adds what is missing and touches nothing else", func(t *testing.T) {
		boots := on("a1", bootID) + on("b1", bootID)
		do(l.Kill(ctx, "a2"))
		l = up(labhost.Options{Datacenters: []labhost.Datacenter{
			{Name: "dc3", Hosts: []string{"c1"}},
			{Name: "dc1", Hosts: []string{"a3", "a1"}},
		}})
		if on("a1", bootID)+on("b1", bootID) != boots {
			t.Error("a running host was booted again")
		}
		if l.Host("a3").Addr != strings.TrimSuffix(l.Host("a1").Addr, "11")+"13" {
			t.Errorf("a3 is at %s", l.Host("a3").Addr)
		}
		expect(true, "c1", "a3")
		expect(true, "a2", "c1")
		if _, err := labhost.Up(ctx, labhost.Options{Name: l.Name, Release: "bookworm"}); err == nil {
			t.Error("a running lab changed its release")
		}
	})

	run("another lab beside it", func(t *testing.T) {
		other := labtest.New(t, labhost.Options{Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"a1", "a2"}}}})
		if other.Host("a1").Addr == l.Host("a1").Addr {
			t.Fatal("two labs share an address")
		}
		if connects("a1", other.Host("a1").Addr, "0.7") || connects("a1", other.Host("a1").Addr6, "0.7") {
			t.Error("a host reaches another lab's")
		}
		do(other.Partition(ctx, "a1"))
		expect(true, "a1", "a2")
		do(other.Kill(ctx, "dc1"))
		expect(true, "a1", "a2")
		leavesNothing(t, other, func() error { return other.Down(ctx) })
		expect(true, "a1", "a2")
	})

	run("after a reboot of this machine", func(t *testing.T) {
		do(l.Lose(ctx))
		if got := states(t, l)["a1"]; got != "lost" {
			t.Errorf("the host's state is %q", got)
		}
		if err := l.Start(ctx, "a1"); err == nil || !strings.Contains(err.Error(), "lab rebuild a1") {
			t.Errorf("a host without a disk: %v", err)
		}
		l = up(labhost.Options{})
		expect(true, "a1", "a2")
		do(l.Lose(ctx))
	})

	leavesNothing(t, l, func() error { return l.Down(ctx) })
	if err := l.Down(ctx); err != nil {
		t.Errorf("removing what is not there: %v", err)
	}
}

const bootID = "cat /proc/sys/kernel/random/boot_id"

// states returns what every host of a lab does.
func states(t *testing.T, l *labhost.Lab) map[string]string {
	t.Helper()
	all, err := l.Status()
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, s := range all {
		m[s.Name] = s.State
	}
	return m
}

// A lab of each kind of image, to see that it is what its users rely on.
func TestImages(t *testing.T) {
	for _, c := range []struct {
		release    string
		postgresql string
		versions   map[string]string // what the warm image has, by its beginning
	}{
		{"trixie", "17", map[string]string{
			"postgresql-17": "17.", "patroni": "4.0.", "etcd-server": "3.5.16-", "etcd-client": "3.5.16-", "vip-manager2": "3.0.",
			"python3-etcd": "0.", "bind9": "1:9.20.", "pgbackrest": "2.", "chrony": "4.", "haproxy": "3.0.", "openssl": "3.5.",
		}},
		{"bookworm", "15", map[string]string{
			"postgresql-15": "15.", "patroni": "3.0.", "etcd-server": "3.4.", "etcd-client": "3.4.",
			"python3-etcd": "0.", "bind9": "1:9.18.", "pgbackrest": "2.", "chrony": "4.", "haproxy": "2.6.", "openssl": "3.0.",
		}},
	} {
		t.Run(c.release, func(t *testing.T) {
			t.Parallel()
			l := labtest.New(t, labhost.Options{
				Release: c.release, Image: labhost.Warm,
				Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"pg1"}}},
			})
			ctx := t.Context()
			on := func(command string) string {
				t.Helper()
				out, err := l.SSH(ctx, "pg1", command)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			if got := on("systemctl is-system-running; . /etc/os-release; echo $VERSION_CODENAME"); got != "running\n"+c.release {
				t.Error(got)
			}
			for p, want := range c.versions {
				if got := on("dpkg-query -W -f '${Version} ${Status}' " + p); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, " install ok installed") {
					t.Errorf("%s is %q, want %s...", p, got, want)
				}
			}
			if got := on("pg_lsclusters -h; ls -A /var/lib/etcd /etc/postgresql-common/createcluster.d; ls /usr/sbin/policy-rc.d 2>/dev/null; " +
				"systemctl is-enabled etcd patroni postgresql haproxy chrony named | sort -u; " +
				"pgrep -l 'postgres|etcd|patroni|haproxy|named|chronyd|vip-manager' || true"); got != "/etc/postgresql-common/createcluster.d:\n\n/var/lib/etcd:\ndisabled" {
				t.Errorf("the packages are not as just unpacked:\n%s", got)
			}
			// Without an update first: the lists are there.
			on("apt-get install -y -q patroni=$(dpkg-query -W -f '${Version}' patroni)")

			// Every version in the pool can be gone to, and back from. That apt
			// finds all packages is not enough: they have to configure, too.
			pg := "postgresql-" + c.postgresql
			for _, group := range [][]string{
				{pg, "postgresql-client-" + c.postgresql}, {"patroni"}, {"etcd-server", "etcd-client"}, {"vip-manager2"},
			} {
				versions, err := l.Versions(group[0])
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%s: %v", group[0], versions)
				if len(versions) == 0 {
					continue
				}
				for _, v := range append(versions[1:], versions[0]) {
					on("DEBIAN_FRONTEND=noninteractive apt-get install -y -q --allow-downgrades --no-install-recommends " +
						strings.Join(group, "="+v+" ") + "=" + v)
				}
			}
		})
	}
}

// Tests of several packages run at once, and on a new machine all of them
// want an image that is not there yet. A folder of its own stands for that
// machine; the mirror's packages are downloaded again.
func TestColdStartAtOnce(t *testing.T) {
	labtest.Need(t)
	if os.Getenv("PGHA_LAB_COLD") == "" {
		t.Skip("SKIPPED: builds everything from scratch, which takes a minute; set PGHA_LAB_COLD=1")
	}
	cache := t.TempDir()
	var g errgroup.Group
	var out lockedBuffer
	for _, name := range []string{"cold-one", "cold-two"} {
		o := labhost.Options{
			Name: name, Cache: cache, Image: labhost.Warm, Progress: &out, Ephemeral: true,
			Datacenters: []labhost.Datacenter{{Name: "dc1", Hosts: []string{"pg1", "pg2"}}},
		}
		t.Cleanup(func() {
			if err := labhost.Down(context.Background(), o); err != nil {
				t.Error(err)
			}
		})
		g.Go(func() error {
			_, err := labhost.Up(t.Context(), o)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Log(out.String())
	if n := strings.Count(out.String(), "built the warm image"); n != 1 {
		t.Errorf("the warm image was built %d times", n)
	}
}

// lockedBuffer is a buffer that two labs write to.
type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}
