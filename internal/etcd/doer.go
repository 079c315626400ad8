package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Doer has what the steps of a plan need when they run.
type Doer struct {
	Fleet host.Fleet
	Log   *slog.Logger
	// Open opens a client; it is Access.Open but for tests.
	Open func(ctx context.Context, a Access) (Client, error)

	mu     sync.Mutex
	fresh  *Credentials    // made in this run
	login  *bool           // there is a password to log in with; as the spec says if nil
	voting map[string]bool // peer URLs of the members that take requests; all if nil
	cached map[string]Client
}

// NewDoer returns a Doer for a fleet of real hosts.
func NewDoer(fleet host.Fleet, log *slog.Logger) *Doer {
	return &Doer{Fleet: fleet, Log: log, Open: func(ctx context.Context, a Access) (Client, error) {
		return a.Open(ctx, fleet)
	}}
}

// Close closes the clients that steps have opened.
func (d *Doer) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.cached {
		_ = c.Close()
	}
	d.cached = nil
}

func (d *Doer) client(ctx context.Context, s Spec) (Client, error) {
	a := s.reach()
	a.Passive, a.Auth = d.passive(s, a), d.logsIn(s)
	return d.open(ctx, a)
}

// open opens a client, or takes one that is open.
func (d *Doer) open(ctx context.Context, a Access) (Client, error) {
	key := a.Key()
	d.mu.Lock()
	c := d.cached[key]
	d.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, err := d.Open(ctx, a)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cached == nil {
		d.cached = map[string]Client{}
	}
	d.cached[key] = c
	return c, nil
}

func (d *Doer) host(s Spec, name string) host.Host { return d.Fleet.Host(s.Members[name].Target) }

func (d *Doer) step(_ Spec, name, id, title string, risk engine.Risk, do func(context.Context) error) engine.Step {
	return engine.Step{ID: id, Host: name, Title: title, Risk: risk, Do: do}
}

func (d *Doer) install(s Spec, name string, pins []remote.Pin) engine.Step {
	var list []string
	for _, p := range pins {
		list = append(list, p.String())
	}
	return d.step(s, name, "etcd.packages", "install "+strings.Join(list, ", "), engine.Safe, func(ctx context.Context) error {
		return remote.Apt{Host: d.host(s, name), Log: d.Log}.Install(ctx, pins...)
	})
}

func (d *Doer) hold(s Spec, name string, packages []string) engine.Step {
	return d.step(s, name, "etcd.hold", "hold "+strings.Join(packages, ", "), engine.Safe, func(ctx context.Context) error {
		return remote.Apt{Host: d.host(s, name), Log: d.Log}.Hold(ctx, packages...)
	})
}

func (d *Doer) createAuthority(s Spec, name string) engine.Step {
	return d.step(s, name, "etcd.authority", "make the certificate authority of the etcd cluster", engine.Safe, func(ctx context.Context) error {
		a := Authority(s.Name)
		a.Subject = s.subject()
		_, err := a.Create(ctx, d.host(s, name))
		return err
	})
}

func (d *Doer) copyAuthority(s Spec, from string, holder host.Host, to string) engine.Step {
	return d.step(s, to, "etcd.authority.copy", "copy the certificate authority from "+from+", encrypted to this host", engine.Safe, func(ctx context.Context) error {
		certificate, err := Authority(s.Name).Create(ctx, holder) // reads it: it is there
		if err != nil {
			return err
		}
		return Authority(s.Name).CopyTo(ctx, holder, d.host(s, to), certificate)
	})
}

func (d *Doer) writeAuthority(s Spec, name string) engine.Step {
	return d.step(s, name, "etcd.authority.trust", "write "+s.authorityPath(), engine.Safe, func(ctx context.Context) error {
		h := d.host(s, name)
		certificate, err := Authority(s.Name).Create(ctx, h) // reads it: every member holds it
		if err != nil {
			return err
		}
		return remote.WriteFile(ctx, h, remote.File{Path: s.authorityPath(), Content: certificate})
	})
}

func (d *Doer) issue(s Spec, name string, by pki.Authority, l pki.Leaf, why string) engine.Step {
	return d.step(s, name, "etcd.certificate", "issue "+l.Certificate+" ("+why+")", engine.Safe, func(ctx context.Context) error {
		h := d.host(s, name)
		return by.Issue(ctx, h, h, l)
	})
}

// writeCredentials copies the credentials that there are; if there are none,
// the first step to run makes them and all others write the same.
func (d *Doer) writeCredentials(s Spec, name string, have *Credentials) engine.Step {
	return d.step(s, name, "etcd.credentials", "write "+s.credentialsPath(), engine.Safe, func(ctx context.Context) error {
		c := have
		if c == nil {
			d.mu.Lock()
			if d.fresh == nil {
				d.fresh = &Credentials{Root: NewPassword(), Provider: NewPassword()}
			}
			c = d.fresh
			d.mu.Unlock()
		}
		return remote.WriteFile(ctx, d.host(s, name), c.file(s.Name))
	})
}

func (d *Doer) makeDataDir(s Spec, name string) engine.Step {
	return d.step(s, name, "etcd.data", "make "+s.DataDir(), engine.Safe, func(ctx context.Context) error {
		return remote.MakeDir(ctx, d.host(s, name), s.DataDir(), account, account, "0700")
	})
}

func (d *Doer) write(s Spec, name string, f remote.File) engine.Step {
	return d.step(s, name, "etcd.file", "write "+f.Path, engine.Safe, func(ctx context.Context) error {
		return remote.WriteFile(ctx, d.host(s, name), f)
	})
}

func (d *Doer) reload(s Spec, name string) engine.Step {
	return d.step(s, name, "etcd.unit.reload", "make systemd read its unit files again", engine.Safe, func(ctx context.Context) error {
		return remote.DaemonReload(ctx, d.host(s, name))
	})
}

func (d *Doer) enable(s Spec, name string) engine.Step {
	return d.step(s, name, "etcd.unit.enable", "make "+Unit+" start at boot", engine.Safe, func(ctx context.Context) error {
		return remote.EnableUnit(ctx, d.host(s, name), Unit)
	})
}

func (d *Doer) start(s Spec, name string) engine.Step {
	return d.step(s, name, "etcd.start", "start "+Unit, engine.Safe, d.checkStep(s, name, func(ctx context.Context) error {
		return remote.StartUnit(ctx, d.host(s, name), Unit)
	}))
}

func (d *Doer) healthy(s Spec, full bool) engine.Step {
	return d.step(s, "", "etcd.healthy", "wait until every member is healthy", engine.Safe, func(ctx context.Context) error {
		// An alarm is told of when all members are back; of a full cluster it is
		// known, and mended next.
		if err := d.waitSteady(ctx, s); err != nil || full {
			return err
		}
		return d.waitHealthy(ctx, s)
	})
}

func (d *Doer) enableAuth(s Spec) engine.Step {
	return d.step(s, "", "etcd.auth", "turn authentication on", engine.Safe, func(ctx context.Context) error {
		var p remote.Probe
		p.Secret(s.credentialsPath())
		facts, err := p.Run(ctx, d.host(s, s.Names()[0]))
		if err != nil {
			return err
		}
		have := readCredentials(facts, s.Name)
		if have == nil {
			return fmt.Errorf("%s is missing or cannot be read", s.credentialsPath())
		}
		c, err := d.client(ctx, s)
		if err != nil {
			return err
		}
		if err := c.EnableAuth(ctx, *have); err != nil {
			return err
		}
		// The client logged in to nothing so far. Without a token etcd would
		// take its certificate's name for a user.
		d.Close()
		d.logIn()
		if c, err = d.client(ctx, s); err != nil {
			return err
		}
		// Proof: a request that needs the login to be right.
		_, _, err = c.Get(ctx, "/pgha/")
		return err
	})
}

func without(names []string, name string) []string {
	var rest []string
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

// notLeader picks a member that is not the leader, or the leader if it is the
// only one left.
func (d *Doer) notLeader(ctx context.Context, s Spec, names []string) (string, error) {
	c, err := d.client(ctx, s)
	if err != nil {
		return "", err
	}
	for _, n := range names {
		st, err := c.Status(ctx, s.ClientURL(n))
		if err != nil {
			return "", problem.In(n, "ask for its status", err)
		}
		if st.Leader != st.MemberID {
			return n, nil
		}
	}
	return names[0], nil
}

// lookAgain is how often it is looked whether a member's unit dies again and
// again, while waiting for it.
const lookAgain = 3 * time.Second

// waitHealthy waits until every member answers, knows the same leader, has
// applied what was committed and reports no alarm.
func (d *Doer) waitHealthy(ctx context.Context, s Spec) error { return d.waitFor(ctx, s, ill) }

// ill says which member is not healthy. An alarm does not go by waiting.
func ill(list []MemberHealth) (string, error) {
	for _, h := range list {
		if h.Err == nil && len(h.Status.Errors) > 0 {
			return "", alarming(h.Member, h.Status)
		}
		if h.Problem != "" {
			return h.Member + ": " + h.Problem, nil
		}
	}
	return "", nil
}

// waitFor waits until no member is what ill says. Its error is one that waiting
// does not mend.
func (d *Doer) waitFor(ctx context.Context, s Spec, ill func([]MemberHealth) (string, error)) error {
	restarts := map[string]int{}
	looked, patience := time.Now(), lookAgain
	return wait.Until(ctx, d.Log, "every member of the etcd cluster "+s.Name+" to be healthy", 100*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		begin := time.Now()
		sick, err := d.sick(ctx, s, patience, ill)
		if err == nil && sick == "" {
			return true, "", nil
		}
		if err != nil || time.Since(begin) >= patience {
			// A slow host is given more time each time.
			patience = min(2*patience, 10*lookAgain)
		}
		if err != nil && host.Unreachable(err) { // nobody to log in to
			return false, "", wait.Never(err)
		}
		if errors.As(err, new(*alarmError)) {
			return false, "", wait.Never(err)
		}
		if time.Since(looked) >= lookAgain {
			looked = time.Now()
			if err := d.crashed(ctx, s, restarts); err != nil {
				return false, "", wait.Never(err)
			}
		}
		return false, sick, err
	})
}

// sick says which member is not healthy, and why. It logs in, for which it takes
// its time but no more, if that was not done yet. What will not get better by
// waiting is an error that says that a host is unreachable.
func (d *Doer) sick(ctx context.Context, s Spec, patience time.Duration, ill func([]MemberHealth) (string, error)) (string, error) {
	login, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := d.client(login, s)
	if err != nil {
		return "", err
	}
	list := Health(ctx, c, s, max(patience, 5*time.Second))
	for _, h := range list {
		if host.KindOf(h.Err) == host.KindForward {
			return "", problem.In(h.Member, "", h.Err)
		}
	}
	return ill(list)
}

// laggingBy is how many entries of the log a member may be behind, and count as
// one that keeps up.
const laggingBy = 100

// MemberHealth is what is wrong with a member, if anything.
type MemberHealth struct {
	Member  string
	Status  Status
	Problem string // empty if it is healthy
	Err     error  // if it does not answer
}

// Health asks every member at once. One that has not answered in that time is not
// healthy.
func Health(ctx context.Context, c Client, s Spec, patience time.Duration) []MemberHealth {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	names := s.Names()
	list := make([]MemberHealth, len(names))
	var wg sync.WaitGroup
	for i, n := range names {
		wg.Go(func() {
			h := MemberHealth{Member: n}
			st, err := c.Status(ctx, s.ClientURL(n))
			switch {
			case err != nil:
				h.Problem, h.Err = "does not answer: "+err.Error(), err
			case st.Leader == 0:
				h.Problem = "knows no leader"
			case len(st.Errors) > 0:
				h.Problem = strings.Join(st.Errors, ", ")
			case st.RaftIndex > st.Applied+laggingBy:
				h.Problem = fmt.Sprintf("is %d entries behind", st.RaftIndex-st.Applied)
			}
			h.Status = st
			list[i] = h
		})
	}
	wg.Wait()
	for i := range list {
		if list[i].Problem == "" && list[i].Status.Leader != list[0].Status.Leader && list[0].Problem == "" {
			list[i].Problem = "knows another leader than " + list[0].Member
		}
	}
	return list
}

// crashed looks whether a member's unit has given up or dies again and again,
// and quotes its log if so. Restarts holds how often each had been restarted when
// it was first looked at: what was before is about what has been mended since.
func (d *Doer) crashed(ctx context.Context, s Spec, restarts map[string]int) error {
	var errs []error
	for _, n := range s.Names() {
		var p remote.Probe
		p.Unit(Unit)
		facts, err := p.Run(ctx, d.host(s, n))
		if err != nil {
			if host.Unreachable(err) {
				errs = append(errs, err)
			}
			continue
		}
		u := facts.Unit(Unit)
		if first, seen := restarts[n]; !seen || u.Restarts < first {
			restarts[n] = u.Restarts
		}
		again := u.Restarts - restarts[n]
		switch {
		case u.Active == "failed":
			errs = append(errs, problem.In(n, "start "+Unit, d.withLog(ctx, s, n, fmt.Errorf("%s has failed (%s)", Unit, u.Result))))
		case again >= 3:
			errs = append(errs, problem.In(n, "start "+Unit, d.withLog(ctx, s, n, fmt.Errorf("%s ends again and again (%d times so far)", Unit, again))))
		case u.Active == "inactive":
			errs = append(errs, problem.In(n, "start "+Unit, d.withLog(ctx, s, n, fmt.Errorf("%s is not running", Unit))))
		}
	}
	return errors.Join(errs...)
}

// withLog adds the last lines of etcd's log to an error, unless that is of our own end.
func (d *Doer) withLog(ctx context.Context, s Spec, name string, err error) error {
	if err == nil || host.Unreachable(err) || ctx.Err() != nil {
		return err
	}
	lines, _ := remote.Journal(context.WithoutCancel(ctx), d.host(s, name), Unit, logLines, "")
	return &problem.Error{Host: name, Cause: err, Log: telling(lines), Do: "mend what the log names, then apply again."}
}
