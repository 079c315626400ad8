package remote_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/host/shellhost"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// seesGuard has apt-get note whether dpkg may start services.
const seesGuard = `if [ -x /usr/sbin/policy-rc.d ]; then /usr/sbin/policy-rc.d; echo "guard $?" >>/run/seen; else echo "no guard" >>/run/seen; fi`

// Packages come at exact versions, with nothing removed for them, no question
// asked, and no service started; afterwards services may be started again.
func TestInstall(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("apt-get", seesGuard)
		if err := apt(h).Install(t.Context(), remote.Pin{Name: "patroni", Version: "4.0.7-3~deb13u1"}, remote.Pin{Name: "openssl"}); err != nil {
			t.Fatal(err)
		}
		calls := h.Calls()
		got := calls[len(calls)-1]
		for _, part := range []string{
			"[-y]", "[DPkg::Lock::Timeout=5]", "[Dpkg::Options::=--force-confold]",
			"[install] [--no-install-recommends] [--no-remove] [--allow-downgrades] [--allow-change-held-packages] [--] [patroni=4.0.7-3~deb13u1] [openssl]",
		} {
			if !strings.Contains(got, part) {
				t.Errorf("apt-get is not told %s: %s", part, got)
			}
		}
		if got := read(t, h.Path("/run/seen")); got != "guard 101\n" {
			t.Errorf("apt-get saw %q", got)
		}
		if left := entries(t, h.Path("/usr/sbin")); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		if slices.ContainsFunc(calls, func(c string) bool { return strings.HasPrefix(c, "dpkg [--configure]") }) {
			t.Errorf("dpkg was set right although it was: %q", calls)
		}
	})
}

// A unit is ended before packages are exchanged, and started after that, also if they
// could not be; what apt says is told, and nothing stays behind.
func TestExchange(t *testing.T) {
	for how, end := range map[string]string{remote.Stop: "systemctl [stop] [--] [patroni.service]", remote.Kill: "systemctl [kill] [--kill-who=main] [--signal=KILL] [--] [patroni.service]"} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprint(how, ", installing fails: ", fails), func(t *testing.T) {
				each(t, func(t *testing.T, h *shellhost.Host) {
					h.Program("systemctl", `case $* in *KillMode*) echo process ;; *ActiveState*) echo failed ;; *Restart*) echo no ;; esac`)
					program := seesGuard
					if fails {
						program += "; echo 'E: Unable to correct problems, you have held broken packages.' >&2; exit 100"
					}
					h.Program("apt-get", program)
					err := apt(h).Exchange(t.Context(), "patroni.service", how, remote.Pin{Name: "patroni", Version: "4.1.5-2"})
					if (err != nil) != fails || fails && !strings.Contains(problem.Details(err), "held broken packages") {
						t.Errorf("the error is %v", err)
					}
					var order []string
					for _, c := range h.Calls() {
						switch {
						case c == end:
							order = append(order, "end")
						case strings.HasPrefix(c, "apt-get"):
							order = append(order, "install")
						case c == "systemctl [start] [--no-block] [--] [patroni.service]":
							order = append(order, "start")
						}
					}
					if want := []string{"end", "install", "start"}; !slices.Equal(order, want) {
						t.Errorf("the order is %v: %q", order, h.Calls())
					}
					if got := read(t, h.Path("/run/seen")); got != "guard 101\n" {
						t.Errorf("apt-get saw %q", got)
					}
					for _, pattern := range []string{"/usr/sbin/*", "/run/systemd/system/*", "/run/pgha-exchange*"} {
						if left, _ := filepath.Glob(h.Path(pattern)); len(left) > 0 {
							t.Errorf("left behind: %q", left)
						}
					}
				})
			})
		}
	}
}

// Where PostgreSQL would be killed with Patroni, or systemd would start it again in the
// middle, nothing is begun.
func TestExchangeRefused(t *testing.T) {
	for says, program := range map[string]string{
		"everything in it would be killed": `case $* in *KillMode*) echo control-group ;; *Restart*) echo no ;; esac`,
		"systemd would start the unit":     `case $* in *KillMode*) echo process ;; *Restart*) echo on-failure ;; esac`,
	} {
		t.Run(says, func(t *testing.T) {
			each(t, func(t *testing.T, h *shellhost.Host) {
				h.Program("systemctl", program)
				h.Program("apt-get", "exit 1")
				err := apt(h).Exchange(t.Context(), "patroni.service", remote.Kill, remote.Pin{Name: "patroni", Version: "4.1.5-2"})
				if err == nil || !strings.Contains(problem.Details(err), says) || slices.ContainsFunc(h.Calls(), func(c string) bool { return strings.Contains(c, "[kill]") || strings.Contains(c, "apt-get") }) {
					t.Errorf("%v: %q", err, h.Calls())
				}
				if left, _ := filepath.Glob(h.Path("/run/systemd/system/*")); len(left) > 0 {
					t.Errorf("left behind: %q", left)
				}
			})
		})
	}
}

// What keeps systemd from starting the unit again counts over what we write ourselves:
// of two files the one whose name comes last.
func TestExchangeCounts(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("systemctl", `case $* in *KillMode*) echo process ;; *Restart*) ls /run/systemd/system/patroni.service.d >/run/then; echo no ;; *ActiveState*) echo failed ;; esac`)
		if err := apt(h).Exchange(t.Context(), "patroni.service", remote.Kill); err != nil {
			t.Fatal(err)
		}
		if name := strings.TrimSpace(read(t, h.Path("/run/then"))); name <= "pgha.conf" || name <= "override.conf" {
			t.Errorf("%s does not count over pgha.conf and override.conf", name)
		}
	})
}

// dpkg is set right first if an earlier run was cut off.
func TestInstallAfterCutOff(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("dpkg", `if [ "$1" = --audit ]; then echo "patroni is half configured"; fi`)
		if err := apt(h).Install(t.Context(), remote.Pin{Name: "patroni"}); err != nil {
			t.Fatal(err)
		}
		var verbs []string
		for _, c := range h.Calls() {
			verbs = append(verbs, strings.Join(strings.Fields(c)[:2], " "))
		}
		if d := cmp.Diff([]string{"dpkg [--audit]", "dpkg [--configure]", "apt-get [-q]"}, verbs); d != "" {
			t.Errorf("calls (-want +got):\n%s", d)
		}
	})
}

// However an installation ends, the administrator's own guard is back where it
// was, and ours is not left: no service would start any more.
func TestGuard(t *testing.T) {
	const theirs = "#!/bin/sh\nexit 104\n"
	for name, c := range map[string]struct {
		before map[string]string
		apt    string
		fails  bool
	}{
		"well":                 {before: map[string]string{"policy-rc.d": theirs}},
		"apt fails":            {before: map[string]string{"policy-rc.d": theirs}, apt: "\nexit 100", fails: true},
		"ours was left behind": {before: map[string]string{"policy-rc.d": "#!/bin/sh\n# pgha: keeps dpkg from starting or restarting services while packages are installed\nexit 101\n", "policy-rc.d.pgha-saved": theirs}},
		"theirs was put away":  {before: map[string]string{"policy-rc.d.pgha-saved": theirs}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, h *shellhost.Host) {
				for f, text := range c.before {
					write(t, h.Path("/usr/sbin/"+f), text)
				}
				h.Program("apt-get", seesGuard+c.apt)
				if err := apt(h).Install(t.Context(), remote.Pin{Name: "x"}); (err != nil) != c.fails {
					t.Errorf("the error is %v", err)
				}
				if got := read(t, h.Path("/run/seen")); got != "guard 101\n" {
					t.Errorf("apt-get saw %q", got)
				}
				if d := cmp.Diff([]string{"policy-rc.d"}, entries(t, h.Path("/usr/sbin"))); d != "" || read(t, h.Path("/usr/sbin/policy-rc.d")) != theirs {
					t.Errorf("afterwards (-want +got):\n%s", d)
				}
			})
		})
	}
}

// A guard that a killed run left is found by its mark, and removed.
func TestRemoveGuard(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		// The guard is taken as it is in the middle of an installation.
		h.Program("apt-get", "cp /usr/sbin/policy-rc.d /run/copy")
		if err := apt(h).Install(t.Context(), remote.Pin{Name: "x"}); err != nil {
			t.Fatal(err)
		}
		ours := read(t, h.Path("/run/copy"))
		if !remote.Guarded(remote.Path{Content: []byte(ours)}) || remote.Guarded(remote.Path{Content: []byte("#!/bin/sh\nexit 101\n")}) {
			t.Errorf("the guard is not told from another one:\n%s", ours)
		}
		write(t, h.Path("/usr/sbin/policy-rc.d"), ours)
		if err := apt(h).RemoveGuard(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := entries(t, h.Path("/usr/sbin")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

// One run of ours at a time on a host.
func TestAptLock(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		write(t, h.Path("/run/lock/pgha-apt.lock"), "")
		f, err := os.Open(h.Path("/run/lock/pgha-apt.lock"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		// Not the five minutes that users are given.
		err = impatient(h).Hold(t.Context(), "x")
		var p *problem.Error
		if !errors.As(err, &p) || !strings.Contains(p.Error(), "has held the package lock for 1ms: another apply of pgha") || p.Do == "" {
			t.Errorf("the error is %v", err)
		}
		if calls := h.Calls(); len(calls) > 0 {
			t.Errorf("without the lock it called %q", calls)
		}
	})
}

// Somebody else's apt is waited for, and named, in the log and in the error.
func TestAptHeld(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		path := h.Path("/var/lib/dpkg/lock-frontend")
		write(t, path, "")
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: syscall.F_WRLCK}); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		a := impatient(h)
		a.Log = slog.New(slog.NewTextHandler(&said, nil))
		err = a.Install(t.Context(), remote.Pin{Name: "x"})
		var p *problem.Error
		who := fmt.Sprintf("(process %d: ", os.Getpid())
		if !errors.As(err, &p) || !strings.Contains(p.Error(), who) || !strings.Contains(p.Error(), ".test") || p.Do == "" || p.Left == "" {
			t.Errorf("the error is %v", err)
		}
		if calls := h.Calls(); len(calls) > 0 {
			t.Errorf("without the lock it called %q", calls)
		}
		// It ends, and we go on.
		done := make(chan error)
		a.Wait = time.Minute
		a.Log = slog.New(slog.NewTextHandler(&said, nil))
		released := &releasing{Host: h, release: func() { _ = f.Close() }}
		a.Host = released
		go func() { done <- a.Hold(t.Context(), "x") }()
		if err := <-done; err != nil {
			t.Errorf("after it has ended: %v", err)
		}
		if !strings.Contains(said.String(), "the package lock of") || !strings.Contains(said.String(), who) {
			t.Errorf("the log does not say for whom:\n%s", &said)
		}
	})
}

// releasing gives the lock back when somebody has waited for it in vain, and has
// the host itself wait for no lock.
type releasing struct {
	*shellhost.Host
	release func()
	runs    int
}

func (h *releasing) Run(ctx context.Context, cmd host.Cmd) (host.Result, error) {
	cmd.Args = append([]string{"0"}, cmd.Args[1:]...)
	if h.runs++; h.runs == 2 {
		h.release()
	}
	return h.Host.Run(ctx, cmd)
}

// apt is a host's package manager.
func apt(h host.Host) remote.Apt {
	return remote.Apt{Host: h, Log: slog.New(slog.DiscardHandler)}
}

// impatient is one that hardly waits for a lock.
func impatient(h host.Host) remote.Apt {
	a := apt(h)
	a.Wait = time.Millisecond
	return a
}

// What apt and dpkg are told beside installing.
func TestHoldAndRemove(t *testing.T) {
	each(t, func(t *testing.T, h *shellhost.Host) {
		h.Program("dpkg-query", `for last; do :; done; case $last in chrony) printf 'hi ' ;; gone) printf 'rc ' ;; *) exit 1 ;; esac`)
		h.Program("dpkg", seesGuard)
		for _, do := range []func() error{
			func() error { return apt(h).Hold(t.Context(), "a", "b") },
			func() error { return apt(h).Unhold(t.Context(), "a") },
			func() error { return apt(h).Remove(t.Context(), "chrony", "gone", "never") },
			func() error { return apt(h).Remove(t.Context(), "gone") },
		} {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
		calls := slices.DeleteFunc(h.Calls(), func(c string) bool { return strings.HasPrefix(c, "dpkg-query") })
		if d := cmp.Diff([]string{"apt-mark [hold] [a] [b]", "apt-mark [unhold] [a]", "apt-mark [unhold] [chrony]", "dpkg [--remove] [chrony]"}, calls); d != "" {
			t.Errorf("calls (-want +got):\n%s", d)
		}
		if got := read(t, h.Path("/run/seen")); got != "guard 101\n" {
			t.Errorf("dpkg saw %q", got)
		}
	})
}

// A repository that fails is an error, and told in words that help.
func TestAptProblems(t *testing.T) {
	for said, want := range map[string]string{
		"E: Release file for http://x/InRelease is expired (invalid since 3d).":          "out of date",
		"W: GPG error: http://x InRelease: NO_PUBKEY 7FCC7D46ACCC4CF8":                   "signature could not be checked",
		"E: The repository 'http://x ./ Release' is not signed.":                         "signature could not be checked",
		"E: Packages need to be removed but remove is disabled.":                         "would remove other packages",
		"E: You don't have enough free space in /var/cache/apt/archives/.":               "disk is full",
		"E: Failed to fetch http://x/Packages  Temporary failure resolving 'x'":          "repository could not be read",
		"E: Failed to fetch http://x/Packages  Hash Sum mismatch":                        "do not have the checksums",
		"W: OpenPGP signature verification failed: http://x InRelease: Missing key 1234": "signature could not be checked",
		"E: Sub-process /usr/bin/dpkg returned an error code (1)":                        "apt.update ended with status 1",
	} {
		h := shellhost.New(t, []string{"sh"})
		h.Program("apt-get", "echo 'Reading package lists...'\necho \""+said+"\"\nexit 100")
		err := apt(h).UpdateLists(t.Context())
		var p *problem.Error
		if !errors.As(err, &p) || !strings.Contains(p.Cause.Error(), want) || p.Do == "" || !slices.Contains(p.Log, said) {
			t.Errorf("%s\n-> %+v", said, p)
		}
		if p != nil && slices.Contains(p.Log, "Reading package lists...") {
			t.Errorf("the log has what does not matter: %q", p.Log)
		}
	}
}

func TestResolve(t *testing.T) {
	have := []string{"17.11-0+deb13u1", "17.12-0+deb13u1", "17.2-1"}
	for pin, want := range map[string]string{"17.11": "17.11-0+deb13u1", "17.12-0+deb13u1": "17.12-0+deb13u1", "17.2": "17.2-1"} {
		if got, err := remote.Resolve("postgresql-17", pin, have); err != nil || got.String() != "postgresql-17="+want {
			t.Errorf("%s: %s, %v", pin, got, err)
		}
	}
	if _, err := remote.Resolve("postgresql-17", "17.1", have); err == nil || !strings.Contains(err.Error(), "there are: 17.11-0+deb13u1, 17.12") {
		t.Errorf("the error is %v", err)
	}
	if _, err := remote.Resolve("postgresql-17", "17.1", nil); err == nil || !strings.Contains(err.Error(), "no repository of this host has the package postgresql-17") {
		t.Errorf("the error is %v", err)
	}
}

// The lock is held for as long as it is fed, its holder is named to others, and
// it is free when its holder is gone.
func TestFlock(t *testing.T) {
	if _, err := exec.LookPath("flock"); err != nil {
		t.Fatal("hosts have flock, and this test needs it, too: ", err)
	}
	each(t, func(t *testing.T, h *shellhost.Host) {
		path := h.Path("/run/lock/pgha/a lock's name")
		take := func(holder string) (host.Process, string) {
			p, err := h.Start(t.Context(), host.Cmd{Name: "flock.hold", Script: remote.LockScript(), Args: []string{path, holder, "0", "30"}})
			if err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(p.Stdout()).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			return p, strings.TrimSuffix(line, "\n")
		}
		first, said := take("alice's $(touch pwned) apply")
		if said != "locked" {
			t.Fatalf("the first is told %q", said)
		}
		if _, err := first.Stdin().Write([]byte("beat\n")); err != nil {
			t.Fatal(err)
		}
		second, said := take("bob")
		if said != "busy alice's $(touch pwned) apply" {
			t.Errorf("the second is told %q", said)
		}
		if err := second.Wait(); host.ExitCode(err) != 75 {
			t.Errorf("the second ends with %v", err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		if err := first.Wait(); err != nil {
			t.Errorf("the first ends with %v", err)
		}
		third, said := take("carol")
		if said != "locked" {
			t.Errorf("the third is told %q", said)
		}
		_ = third.Close()
		_ = third.Wait()
		unharmed(t, h)
	})
}
