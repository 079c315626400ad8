package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// stageTurn is what changes about a member in such a turn.
type stageTurn struct {
	to     tlsStage
	files  []remote.File
	others []string
}

// title says what is restarted for.
func (t stageTurn) title() string {
	switch t.to {
	case tlsOpen:
		return "restart " + Unit + " so that it takes https beside http"
	case tlsPeers:
		return "restart " + Unit + " so that the other members come to it with https"
	}
	return "restart " + Unit + " so that it takes https alone, from who has a certificate"
}

// take puts the stage's files in place of a member that is restarted next. The other
// members are told first that they have to come with https: until it is back they
// cannot reach it, as while it restarts.
func (d *Doer) take(ctx context.Context, s Spec, t turn) error {
	h := d.host(s, t.name)
	if t.stage.to == tlsPeers {
		if err := d.announcePeer(ctx, s, t.name); err != nil {
			return err
		}
	}
	due := t.marker
	due.RestartDue = true
	if err := remote.WriteFile(ctx, h, due.file()); err != nil {
		return err
	}
	var p remote.Probe
	for _, f := range t.stage.files {
		p.Path(f.Path)
	}
	facts, err := p.Run(ctx, h)
	if err != nil {
		return err
	}
	reload := false
	for _, f := range t.stage.files {
		if f.Same(facts.Path(f.Path)) {
			continue
		}
		if err := remote.WriteFile(ctx, h, f); err != nil {
			return err
		}
		reload = reload || f.Path == dropInPath
	}
	if reload {
		return remote.DaemonReload(ctx, h)
	}
	return nil
}

// announcePeer has the cluster know a member by its peer URLs with https.
func (d *Doer) announcePeer(ctx context.Context, s Spec, name string) error {
	live, err := d.live(ctx, s)
	if err != nil {
		return err
	}
	m := live.at(s.PeerURL(name))
	if m == nil {
		return fmt.Errorf("the cluster has no member at %s", s.PeerURL(name))
	}
	if !m.OtherScheme {
		return nil
	}
	return d.patiently(ctx, s, func(ctx context.Context, c Client) error { return c.UpdateMember(ctx, m.ID, m.PeerURLs) })
}

// taken makes sure that a member is reached as its stage says, by who has to reach
// it: with its own word alone the next one would be taken out of service, too.
func (d *Doer) taken(ctx context.Context, s Spec, t turn) error {
	address := s.Members[t.name].Address
	ask := func(from, certificate string, port int) error {
		return d.reaches(ctx, s, from, certificate, address, port)
	}
	if t.stage.to != tlsClosed {
		if err := d.reachesPlain(ctx, s, t.name); err != nil {
			return err
		}
	}
	if t.stage.to != tlsPeers {
		return ask(t.name, "server", s.ClientPort)
	}
	for _, from := range t.stage.others {
		if err := ask(from, "peer", s.PeerPort); err != nil {
			return problem.In(from, "reach "+t.name+" with https", err)
		}
	}
	return nil
}

// reachTimeout is how long it is tried to reach a member that has just come back.
const reachTimeout = 30 * time.Second

// reaches makes sure that a member is reached with https at a port, from a host, with
// a certificate that is there.
func (d *Doer) reaches(ctx context.Context, s Spec, from, certificate, address string, port int) error {
	name := "-verify_hostname"
	if _, err := netip.ParseAddr(address); err == nil {
		name = "-verify_ip"
	}
	return d.asked(ctx, s, from, host.Cmd{
		Name: "etcd.reach", Script: remote.Script(scripts, "scripts/reach.sh"),
		Args: []string{Dir(s.Name), certificate, net.JoinHostPort(address, strconv.Itoa(port)), name, address},
	})
}

// reachesPlain makes sure that who comes to a member with http is still let in.
func (d *Doer) reachesPlain(ctx context.Context, s Spec, name string) error {
	return d.asked(ctx, s, name, host.Cmd{
		Name: "etcd.reach.plain", Script: remote.Script(scripts, "scripts/reach_plain.sh"),
		Args: []string{s.Members[name].Address, strconv.Itoa(s.ClientPort)},
	})
}

// asked runs a script on a member's host that asks a member, until that answers.
func (d *Doer) asked(ctx context.Context, s Spec, from string, cmd host.Cmd) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reachTimeout, fmt.Errorf("it did not within %s", reachTimeout))
	defer cancel()
	return wait.Until(ctx, d.Log, "a member of the etcd cluster "+s.Name+" to answer", 500*time.Millisecond, func(ctx context.Context) (bool, string, error) {
		_, err := d.host(s, from).Run(ctx, cmd)
		var e *host.Error
		if err != nil && errors.As(err, &e) && host.ExitCode(err) == 1 {
			return false, strings.TrimSpace(e.Stderr), nil
		}
		return err == nil, "", err
	})
}
