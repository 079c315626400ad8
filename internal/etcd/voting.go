package etcd

// A member that does not vote yet refuses nearly all requests, and a client that
// knows of it sends it some. So requests go to members that vote. Which these are is
// known from the hosts' marks before the cluster can be asked, and kept up to date
// with each change.

// votes takes note of the members that vote, by the marks on their hosts. Those that
// leave did so far; one whose host cannot be reached is not asked. In a cluster that
// was never complete all members vote.
func (d *Doer) votes(s Spec, f Facts) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.voting, d.login = nil, nil
	if !f.formed() {
		return
	}
	// Whoever has a password gives it: where authentication is off, etcd takes no
	// notice. So it can be turned on and off.
	login := false
	for _, hosts := range []map[string]*HostFacts{f.Hosts, f.Leaving} {
		for _, h := range hosts {
			login = login || h.Credentials != nil
		}
	}
	d.login = &login
	d.voting = map[string]bool{}
	for n, h := range f.Hosts {
		if h.Recognised || h.Marker != nil && h.Marker.Bootstrapped {
			d.voting[s.PeerURL(n)] = true
		}
	}
	for n := range f.Leaving {
		d.voting[s.url(s.Leaving[n].Address, s.PeerPort)] = true
	}
}

// vote notes that a member votes from now on, or not any more.
func (d *Doer) vote(peer string, votes bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.voting != nil {
		d.voting[peer] = votes
	}
}

// passive are those members of an access that take no requests.
func (d *Doer) passive(s Spec, a Access) map[string]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	all := map[string]bool{}
	for n, m := range a.Members {
		if d.voting != nil && !d.voting[s.url(m.Address, s.PeerPort)] {
			all[n] = true
		}
	}
	if len(all) == len(a.Members) {
		return nil
	}
	return all
}

// logsIn reports whether to log in with a password.
func (d *Doer) logsIn(s Spec) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.login == nil {
		return s.Auth
	}
	return *d.login
}

// logIn has clients log in from now on.
func (d *Doer) logIn() {
	d.mu.Lock()
	defer d.mu.Unlock()
	yes := true
	d.login = &yes
}

// all has requests go to all members: in a cluster that begins, all vote.
func (d *Doer) all() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.voting, d.login = nil, nil
}
