package etcd

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// partSize is how much of a snapshot travels from host to host at once, in bytes:
// in base64 it fits into what is kept of a script's output.
const partSize = 2 << 20

// fields reads lines of the form "name=value".
func fields(text []byte) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			all[name] = value
		}
	}
	return all
}

func number(text string) int64 {
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// lookSnapshot looks at the snapshot that is to be restored.
func (d *Doer) lookSnapshot(ctx context.Context, s Spec) (SnapshotInfo, error) {
	res, err := d.host(s, s.Restore.Member).Run(ctx, host.Cmd{
		Name: "etcd.restore.look", Script: remote.Script(scripts, "scripts/restore_look.sh"), Args: []string{s.Restore.Path}, Timeout: snapshotTimeout,
	})
	if err != nil {
		return SnapshotInfo{}, err
	}
	f := fields(res.Stdout)
	return SnapshotInfo{Size: number(f["size"]), SHA256: f["sha256"], Revision: number(f["revision"]), Keys: number(f["keys"]), Version: f["version"]}, nil
}

// fit makes the file from which all members begin: on one host an etcd that nobody
// knows of is started from the snapshot, or from nothing; what must not come back
// is taken out, and a snapshot is taken of the rest. Nobody ever sees what was
// taken out, and with nothing in it the file has the users already, so that
// nobody gets in without a password either.
func (p *restorePlanner) fit() engine.Step {
	title := "make a snapshot fit, in a place of its own: without leases, leaders and members, and with Patroni paused"
	if p.s.Restore.Path == "" {
		title = "make an etcd with nothing in it but its own users, in a place of its own"
	}
	s, n, d := p.s, p.source, p.do
	return d.step(s, n, "etcd.restore.fit", title, engine.Safe, func(ctx context.Context) error {
		begin := SnapshotInfo{}
		if s.Restore.Path != "" {
			var err error
			if begin, err = d.lookSnapshot(ctx, s); err != nil {
				return err
			}
		}
		res, err := d.host(s, n).Run(ctx, host.Cmd{
			Name: "etcd.restore.scratch", Script: remote.Script(scripts, "scripts/restore_scratch.sh"), Timeout: snapshotTimeout,
			Args: []string{s.Restore.Path, begin.SHA256, s.scratchDir(), s.envPath(), s.scheme()},
		})
		if err != nil {
			return err
		}
		port := fields(res.Stdout)["port"]
		a := s.Access()
		a.ServerName = s.serverName(n)
		a.Members = map[string]Member{n: {Address: "127.0.0.1", Target: s.Members[n].Target}}
		if a.ClientPort, err = strconv.Atoi(port); err != nil {
			return fmt.Errorf("unexpected answer: %q", res.Stdout)
		}
		if err := d.makeFit(ctx, s, a); err != nil {
			return err
		}
		certificates, credentials := "", ""
		if s.TLS {
			certificates = Dir(s.Name)
		}
		if s.Files != nil {
			f := s.Files.on(n)
			certificates = theirFiles{Authority: f.Trusted, Client: f.Client.Certificate, ClientKey: f.Client.Key}.argument()
		}
		if s.Auth {
			credentials = s.credentialsPath()
		}
		res, err = d.host(s, n).Run(ctx, host.Cmd{
			Name: "etcd.restore.pack", Script: remote.Script(scripts, "scripts/restore_pack.sh"), Timeout: snapshotTimeout,
			Args: []string{a.URL(n), s.scratchDir(), certificates, credentials, s.restorePath()},
		})
		if err != nil {
			return err
		}
		sum := fields(res.Stdout)["sha256"]
		if len(sum) != 64 {
			return fmt.Errorf("unexpected answer: %q", res.Stdout)
		}
		*p.file = Restoring{Key: s.Restore.key(), UID: p.next, SHA256: sum}
		return nil
	})
}

// makeFit changes what is in the etcd that nobody knows of.
func (d *Doer) makeFit(ctx context.Context, s Spec, a Access) error {
	if s.Restore.Path == "" && s.Auth {
		var p remote.Probe
		member := a.Members[a.Names()[0]]
		facts, err := p.Secret(s.credentialsPath()).Run(ctx, d.Fleet.Host(member.Target))
		if err != nil {
			return err
		}
		have := readCredentials(facts, s.Name)
		if have == nil {
			return fmt.Errorf("%s is missing or cannot be read", s.credentialsPath())
		}
		c, err := d.Open(ctx, a)
		if err != nil {
			return err
		}
		err = c.EnableAuth(ctx, *have)
		_ = c.Close()
		if err != nil {
			return err
		}
	}
	// Logging in is the proof that it is a snapshot of this cluster: another one has
	// another password.
	c, err := d.Open(ctx, a)
	if err == nil {
		defer func() { _ = c.Close() }()
		_, _, err = c.Get(ctx, "/pgha/")
	}
	if errors.Is(err, ErrAuth) {
		return &problem.Error{
			Step: "log in to what is in the snapshot", Cause: fmt.Errorf("%s is not of this cluster, or of a time when it had another password: %w", s.Restore.From(), err),
			Left: "the etcd cluster, as it was: no member was touched.", Do: "choose a snapshot of this cluster.",
		}
	}
	if err != nil {
		return err
	}
	alarms, err := c.Alarms(ctx)
	if err != nil {
		return err
	}
	for _, alarm := range alarms { // of members that are no more
		if err := c.Disarm(ctx, alarm); err != nil {
			return err
		}
	}
	keys, err := c.List(ctx, "/")
	if err != nil {
		return err
	}
	change := fitting(s, keys)
	for _, key := range change.drop {
		if err := c.Delete(ctx, key); err != nil {
			return err
		}
	}
	for _, key := range sortedKeys(change.put) {
		if err := c.Put(ctx, key, change.put[key]); err != nil {
			return err
		}
	}
	return nil
}

// markRestoring notes on a host that it begins anew, and from which file.
func (p *restorePlanner) markRestoring(name string) engine.Step {
	m := p.marker(name, false)
	if have := p.f.Hosts[name].Marker; have != nil {
		m = *have
	}
	return p.do.step(p.s, name, "etcd.restore.mark", "note that the member begins anew", engine.Safe, func(ctx context.Context) error {
		m := m
		m.Restoring = p.file
		if p.s.TLS && p.ownScheme(name) == schemeHTTP {
			// Nobody comes with http to what is made anew.
			if err := remote.WriteFile(ctx, p.do.host(p.s, name), p.s.schemeFile(schemeHTTPS)); err != nil {
				return err
			}
		}
		return remote.WriteFile(ctx, p.do.host(p.s, name), m.file())
	})
}

// markRestored notes that it is done.
func (p *restorePlanner) markRestored(name string) engine.Step {
	m := p.marker(name, true)
	m.UID, m.Restored = p.next, p.s.Restore.key()
	if m.TLS != "" {
		m.TLS = stageNames[tlsClosed]
	}
	m.RestartDue = p.s.Auth // back to etcd's own tokens
	return p.do.step(p.s, name, "etcd.restore.done", "note that the cluster was restored", engine.Safe, func(ctx context.Context) error {
		return remote.WriteFile(ctx, p.do.host(p.s, name), m.file())
	})
}

// copy brings the file to a host, through us, in parts.
func (p *restorePlanner) copy(name string) engine.Step {
	s, d := p.s, p.do
	return d.step(s, name, "etcd.restore.copy", "copy the snapshot from "+p.source, engine.Safe, func(ctx context.Context) error {
		from := d.host(s, p.source)
		size, err := sizeOf(ctx, from, s.restorePath())
		if err != nil {
			return problem.In(p.source, "", err)
		}
		for offset := int64(0); offset < size; offset += partSize {
			res, err := from.Run(ctx, host.Cmd{
				Name: "etcd.restore.read", Script: remote.Script(scripts, "scripts/restore_read.sh"), Sensitive: true,
				Args: []string{s.restorePath(), strconv.FormatInt(offset, 10), strconv.Itoa(partSize)},
			})
			if err != nil {
				return problem.In(p.source, "", err)
			}
			part, err := base64.StdEncoding.DecodeString(string(res.Stdout))
			if err != nil {
				return problem.In(p.source, "", err)
			}
			_, err = d.host(s, name).Run(ctx, host.Cmd{
				Name: "etcd.restore.write", Script: remote.Script(scripts, "scripts/restore_write.sh"), Stdin: part,
				Args: []string{s.restorePath(), strconv.FormatInt(offset, 10), strconv.FormatInt(size, 10), p.file.SHA256},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// sizeOf is a snapshot's size.
func sizeOf(ctx context.Context, h host.Host, path string) (int64, error) {
	res, err := h.Run(ctx, host.Cmd{Name: "etcd.restore.look", Script: remote.Script(scripts, "scripts/restore_look.sh"), Args: []string{path}, Timeout: snapshotTimeout})
	if err != nil {
		return 0, err
	}
	return number(fields(res.Stdout)["size"]), nil
}

// stop ends an old member, also for the next boot where it leaves.
func (p *restorePlanner) stop(name string, m Member) engine.Step {
	_, stays := p.s.Members[name]
	stays = stays && p.s.Members[name] == m
	return p.do.step(p.s, name, "etcd.restore.stop", "stop "+Unit, engine.Destructive, func(ctx context.Context) error {
		h := p.do.Fleet.Host(m.Target)
		if !stays {
			if err := remote.DisableUnit(ctx, h, Unit); err != nil {
				return err
			}
		}
		return remote.StopUnit(ctx, h, Unit, stopTimeout)
	})
}

// begin puts the new data in place.
func (p *restorePlanner) begin(name string) engine.Step {
	s, d := p.s, p.do
	return d.step(s, name, "etcd.restore.begin", "put the old data of "+s.DataDir()+" aside, and the new one in its place", engine.Destructive, func(ctx context.Context) error {
		h := d.host(s, name)
		var others, cluster []string
		for _, n := range s.Names() {
			cluster = append(cluster, n+"="+s.PeerURL(n))
			if n != name {
				others = append(others, s.PeerURL(n))
			}
		}
		slices.Sort(others)
		// Should the data be lost again, the member joins the others; it never makes
		// a cluster with nothing in it by itself.
		if err := remote.WriteFile(ctx, h, s.initialFile(name, p.next, others)); err != nil {
			return err
		}
		_, err := h.Run(ctx, host.Cmd{
			Name: "etcd.restore.member", Script: remote.Script(scripts, "scripts/restore_member.sh"), Timeout: snapshotTimeout,
			Args: []string{s.restorePath(), p.file.SHA256, s.DataDir(), p.next, name, strings.Join(cluster, ","), s.PeerURL(name), s.Name + "-" + p.next, s.tokenKeyPath()},
		})
		return err
	})
}

// Etcd's own tokens have the index of its log in them at which they were given out, and
// a member that has not come so far waits until it has, without an answer
// (etcd, server/auth/simple_token.go). In a new cluster the log begins anew: whoever has
// a token of the old one would wait for ever, and Patroni takes that for a member that
// is down, not for a token that is none. With tokens of another kind the old ones are
// refused at once, and so are these when the members go back to etcd's own.

// tokenKeyPath is the key of those tokens.
func (s Spec) tokenKeyPath() string { return Dir(s.Name) + "/restore.key" }

// startRestored starts a member that begins anew, with tokens of the other kind.
func (p *restorePlanner) startRestored(name string) engine.Step {
	s, d := p.s, p.do
	start := d.start(s, name)
	do := start.Do
	start.Do = func(ctx context.Context) error {
		if s.Auth {
			f := remote.File{Path: s.envPath(), Content: s.env(name), Group: account, Mode: "0640"}
			f.Content = fmt.Appendf(f.Content, "ETCD_AUTH_TOKEN=%q\n", "jwt,sign-method=HS256,ttl=10m,priv-key="+s.tokenKeyPath())
			if err := remote.WriteFile(ctx, d.host(s, name), f); err != nil {
				return err
			}
		}
		return do(ctx)
	}
	return start
}

// noticed is for how long the members have tokens of the other kind at least: until
// every client has asked for something, and was told to log in again. Patroni asks in
// each turn, of up to ten seconds and what it waits for etcd.
const noticed = 45 * time.Second

// refuseOld lets that time pass.
func (p *restorePlanner) refuseOld() engine.Step {
	return p.do.step(p.s, "", "etcd.restore.tokens", "wait until clients have logged in again", engine.Safe, func(ctx context.Context) error {
		select {
		case <-time.After(noticed):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// clean removes the file from a host.
func (p *restorePlanner) clean(name string) engine.Step {
	return p.do.step(p.s, name, "etcd.restore.clean", "remove "+p.s.restorePath(), engine.Safe, func(ctx context.Context) error {
		return remote.RemoveFiles(ctx, p.do.host(p.s, name), p.s.restorePath(), p.s.restorePath()+".part")
	})
}
