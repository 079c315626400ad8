package dns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/follow"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// Manager brings DNS records to what their specs say.
type Manager struct {
	follow.Manager
}

// New makes one of a manager of Patroni clusters.
func New(m *patroni.Manager) Manager { return Manager{follow.Manager{Manager: m}} }

// Noted is the spec as etcd has it, for whoever takes it up without a state: without the
// key's secret.
type Noted struct {
	Zone, Name, Type string
	TTL, Generation  int64
	Follow           string
	Servers          []string
	KeyName          string
	Algorithm        string
	Targets          map[string][]string
	Replication      string `json:",omitempty"`
}

// Find is the spec of a record that etcd has noted.
func (m Manager) Find(ctx context.Context, c patroni.Cluster, name string) (Spec, error) {
	s := Spec{Cluster: c, Name: name}
	n, err := m.Note(ctx, s.agent())
	if err != nil {
		return s, err
	}
	if n == nil {
		return s, &problem.Error{
			Step: "look the record up in etcd", Cause: fmt.Errorf("%s has no DNS record %s that this provider has set up", c.Name(), strings.TrimSuffix(name, ".")), Left: "everything.",
			Do: "to have it, create the resource: there is nothing to import.",
		}
	}
	var was Noted
	if err := json.Unmarshal(n.Spec, &was); err != nil {
		return s, err
	}
	return Spec{
		Cluster: c, Zone: was.Zone, Name: was.Name, Type: was.Type, TTL: was.TTL, Generation: was.Generation, Follow: was.Follow, Servers: was.Servers,
		Key: Key{Name: was.KeyName, Algorithm: was.Algorithm}, Targets: was.Targets, Nodes: follow.Sorted(n.Nodes),
		Replication: was.Replication,
	}, nil
}

func (s Spec) noted() Noted {
	return Noted{s.Zone, s.Name, s.Type, s.TTL, s.Generation, s.Follow, s.Servers, s.Key.Name, s.Key.Algorithm, s.Targets, s.Replication}
}

// view is what there is of a record on all hosts.
type view struct {
	follow.Seen
	targets map[string][]string
}

// see looks at all hosts. A spec without a secret gets the one that they have.
func (m Manager) see(ctx context.Context, s *Spec, purpose follow.Purpose) (v view, err error) {
	m.Redact.Add(s.Key.Secret)
	if v.Seen, err = m.See(ctx, s.agent(), s.Nodes, purpose); err != nil {
		return v, err
	}
	if v.targets, err = s.targets(v.Nodes); err != nil {
		return v, err
	}
	for _, name := range follow.Sorted(v.Facts) {
		var r record
		if at := v.Facts[name].Path(s.agent().ConfigPath()); at.Type == remote.Regular && s.Key.Secret == "" && json.Unmarshal(at.Content, &r) == nil {
			s.Key.Secret = r.Key.Secret
			m.Redact.Add(s.Key.Secret)
		}
	}
	return v, nil
}

func (m Manager) plan(s Spec, v view) (engine.Plan, error) {
	files := map[string]follow.Files{}
	for name := range v.Nodes {
		files[name] = s.files(v.Known, name, v.targets)
	}
	return m.Plan(v.Seen, files, func(name string) bool { return name == v.Known.Leader })
}

// Apply brings a record to what the spec says: the same for a new one, one whose creation
// was cut off, and one that drifted.
func (m Manager) Apply(ctx context.Context, s Spec) (warnings []string, err error) {
	ctx, done, err := m.Lock(ctx, s.agent(), "setting up")
	if err != nil {
		return nil, err
	}
	defer done()
	v, err := m.see(ctx, &s, follow.ToApply)
	if err != nil {
		return nil, err
	}
	if s.Key.Secret == "" {
		return nil, &problem.Error{
			Step: "look for the key's secret", Cause: errors.New("neither is it given, nor does a host have it"), Left: "everything.",
			Do: "give it in key.secret_wo, with another key.secret_wo_version.",
		}
	}
	plan, err := m.plan(s, v)
	if err != nil {
		return nil, err
	}
	if len(plan.Steps()) > 0 {
		if err := m.try(ctx, s, v); err != nil {
			return nil, err
		}
	}
	err = m.Run(ctx, v.Seen, s.noted(), plan, engine.Step{ID: "dns.verify", Title: "see that " + s.agent().Subject + " leads where it should", Do: func(ctx context.Context) error {
		warnings, err = m.verify(ctx, s, v)
		return err
	}})
	return warnings, err
}

// try has the leader's host write the record before anything is changed on the hosts: what
// the server refuses is refused without a trace, and updaters that work go on.
func (m Manager) try(ctx context.Context, s Spec, v view) error {
	n, ours := v.Nodes[v.Known.Leader]
	if !ours || !v.Facts[n.Name].Package(Package).Installed {
		return nil // it will be found out
	}
	step := engine.Step{ID: "dns.try", Host: n.Target.Name, Title: "try to write " + s.agent().Subject + " with what is wanted", Do: func(ctx context.Context) (err error) {
		h := m.Fleet.Host(n.Target)
		dir := s.agent().ScratchDir()
		files := s.files(v.Known, n.Name, v.targets)
		defer func() {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
			defer cancel()
			err = errors.Join(err, s.agent().DropScratch(end, h))
		}()
		for name, f := range map[string]remote.File{"record.json": files.Config, "updater.py": files.Program} {
			f.Path = dir + "/" + name
			if err := remote.WriteFile(ctx, h, f); err != nil {
				return err
			}
		}
		list, err := ask[Outcome](ctx, m, n, "once", dir)
		if err != nil {
			return err
		}
		return s.explain(n, list[0])
	}}
	return engine.Run(ctx, engine.Sequence(step), m.Manager.Observe)
}

// Outcome is what came of an attempt of an updater's.
type Outcome struct {
	Outcome string   `json:"outcome"`
	Rcode   string   `json:"rcode"`
	TSIG    string   `json:"tsig"`
	Detail  string   `json:"detail"`
	Values  []string `json:"values"`
	Mark    string   `json:"mark"`
	Server  string   `json:"server"`
}

// Said is what a server says of the record.
type Said struct {
	Server        string   `json:"server"`
	Rcode         string   `json:"rcode"`
	Authoritative bool     `json:"authoritative"`
	Serial        int64    `json:"serial"`
	Values        []string `json:"values"`
	TTL           int64    `json:"ttl"`
	Mark          string   `json:"mark"`
	Error         string   `json:"error"`
}

// ask runs the updater that is in a folder on a host, and returns the lines that it prints.
func ask[T any](ctx context.Context, m Manager, n follow.Node, mode, dir string) (list []T, err error) {
	h := m.Fleet.Host(n.Target)
	res, err := h.Run(ctx, host.Cmd{Name: "dns." + mode, Script: "cd /\nexec python3 -I \"$1\" \"$2\" \"$3\"\n", Args: []string{dir + "/updater.py", mode, dir}})
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(res.Stdout)) {
		var v T
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("host %s: what dns.%s printed cannot be read: %w", h.Name(), mode, err)
		}
		list = append(list, v)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("host %s: dns.%s printed nothing", h.Name(), mode)
	}
	return list, nil
}

// How long the record may take to be right: a failover that is under way; and how long the
// secondary servers, which are told by the primary.
const (
	settling = 90 * time.Second
	lagging  = 10 * time.Second
)

// verify has the leader's updater write at once, and looks whether all servers have it.
func (m Manager) verify(ctx context.Context, s Spec, v view) (warnings []string, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, settling, fmt.Errorf("%s does not lead where it should after %s", s.agent().Subject, settling))
	defer cancel()
	err = wait.Until(bounded, m.Log, s.Title()+" to lead where it should", time.Second, func(ctx context.Context) (bool, string, error) {
		k, err := m.Known(ctx, s.Cluster)
		if err != nil {
			return false, "", err
		}
		if k.Standby() != nil {
			return true, "", nil // who writes it is in another site
		}
		n, ours := v.Nodes[k.Leader]
		if !ours {
			if k.Leader != "" {
				return false, "", wait.Never(fmt.Errorf("%s leads, and is not among the nodes", k.Leader))
			}
			return false, "the cluster has no leader", nil
		}
		list, err := ask[Outcome](ctx, m, n, "once", s.agent().Dir())
		if err != nil {
			return false, "", err
		}
		o := list[0]
		if o.Outcome != "written" && o.Outcome != "unchanged" {
			// It was tried before, so that what is refused now may be passing.
			return false, o.Outcome + ": " + o.Detail, s.explain(n, o)
		}
		warnings, err = m.look(ctx, s, n, o.Values)
		return err == nil, "", err
	})
	if err != nil {
		return nil, problem.Fill(err, problem.Error{
			Step: "see that " + s.agent().Subject + " leads where it should", Left: "what was set up, on all nodes.",
			Do: "see what the updaters say (journalctl -u " + s.agent().Unit() + " on each node), mend it, and apply again.",
		})
	}
	return warnings, nil
}

// look asks all servers. That the primary one has another answer than the updater has
// written is an error; that a secondary one still has, after a while, is a warning.
func (m Manager) look(ctx context.Context, s Spec, from follow.Node, want []string) (warnings []string, err error) {
	want = slices.Clone(want)
	slices.Sort(want)
	for end := time.Now().Add(lagging); ; {
		warnings = nil
		said, err := ask[Said](ctx, m, from, "look", s.agent().Dir())
		if err != nil {
			return nil, err
		}
		if !s.same(said[0], want) {
			return nil, fmt.Errorf("%s; it should have %s", said[0], strings.Join(want, ", "))
		}
		for _, other := range said[1:] {
			if !s.same(other, want) {
				warnings = append(warnings, fmt.Sprintf("The secondary server %s; the primary one has %s (serial %d and %d).", other, strings.Join(want, ", "), other.Serial, said[0].Serial))
			}
		}
		if len(warnings) == 0 || time.Now().After(end) {
			return warnings, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// explain says what to change where the server refuses; nil for what is no refusal.
func (s Spec) explain(n follow.Node, o Outcome) error {
	server, zone := o.Server, strings.TrimSuffix(s.Zone, ".")
	refuse := func(do string) error {
		cause := server + ": " + o.Detail
		if o.TSIG != "" {
			cause += " (" + o.Rcode + ", " + o.TSIG + ")"
		} else if o.Rcode != "" && o.Rcode != "NOERROR" {
			cause += " (" + o.Rcode + ")"
		}
		return &problem.Error{Host: n.Target.Name, Step: "write the DNS record", Cause: errors.New(cause), Left: "the record, as it is.", Do: do}
	}
	kinds := "A AAAA TXT"
	if s.Type == CNAME {
		kinds = "CNAME"
	}
	switch {
	case o.Outcome == "foreign":
		return refuse(fmt.Sprintf("if nobody needs it, delete it on the server (nsupdate: update delete %s), or choose another name.", s.Name))
	case o.Outcome == "unreachable":
		return refuse("make sure that the server runs and that the nodes reach it on UDP and TCP.")
	case o.Outcome == "newer":
		return refuse(fmt.Sprintf("see who wrote it (%q), and that it does not lead any more. If the cluster's timeline has gone back, by a restore or a new database, raise generation to more than the first number of epoch there.", o.Mark))
	case o.Outcome != "refused":
		return nil
	}
	switch {
	case o.TSIG == "BADKEY":
		return refuse(fmt.Sprintf("the server has no key %q of %s: correct key.name and key.algorithm, or add the key there (tsig-keygen).", s.Key.Name, s.Key.Algorithm))
	case o.TSIG == "BADSIG":
		return refuse(fmt.Sprintf("the secret of the key %q is another one on the server: correct key.secret_wo, with another key.secret_wo_version.", s.Key.Name))
	case o.TSIG == "BADTIME":
		return refuse("set the clock of the host or of the server: TSIG allows 300 s between them. See time_sync of pgha_host.")
	case o.Rcode == "REFUSED":
		return refuse(fmt.Sprintf("let the key change the name, in the zone's update-policy: grant %s name %s %s;%s", s.Key.Name, s.Name, kinds, map[bool]string{true: fmt.Sprintf(" grant %s name _pgha.%s TXT;", s.Key.Name, s.Name)}[s.Type == CNAME]))
	case o.Rcode == "NOTAUTH", o.Rcode == "NOTZONE":
		return refuse(fmt.Sprintf("the first of servers has to be the primary server of the zone %s, and zone the name of the zone as it is there.", zone))
	case o.Rcode == "NXDOMAIN":
		return refuse(fmt.Sprintf("the server does not know the zone %s: correct zone, or make it there.", zone))
	}
	return refuse("see the server's own log for the reason.")
}

// Observed is what Read found.
type Observed struct {
	Absent   bool
	Drift    []string
	Warnings []string
}

// Observe looks at a record and changes nothing.
func (m Manager) Observe(ctx context.Context, s Spec) (o Observed, err error) {
	v, err := m.see(ctx, &s, follow.ToRead)
	if err != nil {
		o.Absent, o.Drift, err = follow.Observable(err)
		return o, err
	}
	if o.Absent = v.Absent(); o.Absent {
		return o, nil
	}
	plan, err := m.plan(s, v)
	if err != nil {
		return o, err
	}
	if o.Drift = plan.Describe(engine.Safe); len(o.Drift) > 0 {
		return o, nil // what the servers have is the business of those who are to run
	}
	return o, m.settled(ctx, s, v, &o)
}

// moving is how long what has just changed is given to be written, before a read says that
// it is not.
const moving = 10 * time.Second

// settled compares what the servers have with what the leader's updater would write.
func (m Manager) settled(ctx context.Context, s Spec, v view, o *Observed) error {
	for end := time.Now().Add(moving); ; {
		k, err := m.Known(ctx, s.Cluster)
		if err != nil {
			return err
		}
		wrong := ""
		n, ours := v.Nodes[k.Leader]
		switch {
		case k.Leader == "", k.Standby() != nil:
			return nil // nobody is to write, or somebody in another site
		case !ours:
			wrong = k.Leader + " leads, and is not among the nodes"
		default:
			said, err := ask[Said](ctx, m, n, "look", s.agent().Dir())
			if err != nil {
				return err
			}
			// The values are the updater's business, which knows the replicas; here it
			// counts who has written them, and that nobody has changed them since.
			switch have := said[0]; {
			case have.Error != "":
				o.Warnings = []string{"The primary server " + have.String() + "."}
				return nil
			case len(have.Values) == 0, have.TTL != s.TTL, !have.Authoritative:
				wrong = have.String()
			case !strings.HasSuffix(have.Mark, " node="+k.Leader):
				wrong = fmt.Sprintf("%s has a record that is not of %s, which leads: %q", have.Server, k.Leader, have.Mark)
			case s.Follow == Leader && !s.same(have, v.targets[k.Leader]):
				wrong = fmt.Sprintf("%s; it should have %s", have, strings.Join(v.targets[k.Leader], ", "))
			default:
				o.Warnings, err = m.look(ctx, s, n, have.Values)
				return err
			}
		}
		if time.Now().After(end) {
			o.Drift = append(o.Drift, wrong)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// Destroy removes the record, if it is still the one that was made here, and its updaters.
func (m Manager) Destroy(ctx context.Context, s Spec) error {
	k, err := m.Known(ctx, s.Cluster)
	if err != nil && !errors.Is(err, patroni.ErrNoCluster) {
		return err
	}
	elsewhere := s.Replication != "" && k.Standby() != nil // it leads to another site, which goes on having it
	return m.Manager.Destroy(ctx, s.agent(), s.Nodes, func(on []follow.Node) []engine.Step {
		if len(on) == 0 || elsewhere {
			return nil
		}
		return []engine.Step{{ID: "dns.remove", Title: "remove " + s.agent().Subject + " from DNS, if it is ours", Risk: engine.Reload, Do: func(ctx context.Context) error {
			var errs []error
			for _, n := range on {
				list, err := ask[Outcome](ctx, m, n, "remove", s.agent().Dir())
				if err == nil {
					o := list[0]
					switch o.Outcome {
					case "removed", "absent":
						return nil
					case "foreign", "newer":
						m.Log.WarnContext(ctx, "the DNS record stays: it is not the one that was made here", "name", s.agent().Subject, "because", o.Detail)
						return nil
					}
					if err = s.explain(n, o); err == nil {
						err = fmt.Errorf("host %s: %s: %s", n.Name, o.Outcome, o.Detail)
					}
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}}}
	})
}
