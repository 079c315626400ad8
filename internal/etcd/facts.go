package etcd

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Facts is what a probe found on the members' hosts. A host that could not be
// asked is in Errors and not in Hosts.
type Facts struct {
	Hosts  map[string]*HostFacts
	Errors map[string]error

	// Space is what the cluster says of its space, nil if it does not.
	Space *SpaceFacts

	// Leaving are the hosts of members that are to leave, as far as they can be
	// asked.
	Leaving map[string]*HostFacts

	// Live is what the cluster itself says, nil if it was not asked or has no
	// quorum. Joining are the peer URLs of members that were being added.
	Live    Live
	Joining map[string]bool

	// Upgrade is that which was begun, nil if none was. Nodes are the versions of
	// the Patroni nodes on the cluster, by "SCOPE/MEMBER", where that matters.
	Upgrade *Upgrade
	Nodes   map[string]string

	// AuthOn says that authentication is on, ShutOut that we cannot log in. NotLoggingIn are the Patroni nodes that
	// would be shut out if it were turned on, where that matters.
	AuthOn       bool
	ShutOut      bool
	NotLoggingIn []string

	// NodeFiles are the certificates of somebody else's with which Patroni's nodes come,
	// looked at where an authority is to be trusted no more.
	NodeFiles []nodeFile

	// Clients are the nodes of Patroni on the cluster, nil if it was not asked.
	Clients []ClientFacts
}

// HostFacts is what was found on one member's host.
type HostFacts struct {
	Name   string
	Facts  *remote.Facts
	Marker *Marker
	// Credentials are secrets, nil if they are not on this host.
	Credentials *Credentials
	// Authority is the certificate of the cluster's authority, if this host
	// holds it. While it is being replaced, Next is the one that comes and Old the
	// one that goes. Trusted are those that the member trusts, or will once it is
	// started again.
	Authority, Next, Old []byte
	Trusted              []byte

	// Looked is what was found of files that somebody else makes, by path.
	Looked map[string]pki.Looked
	// Plain: the member's own settings have clients come with http.
	Plain bool

	// Kept are the authorities of Patroni clusters that are on the host.
	Kept []string

	// DataDir is the member's data directory, and Data what is in it.
	DataDir string
	Data    remote.Path

	// Running are the settings that a member runs with that somebody else made,
	// and Recognised says that it is one of this cluster's.
	Running    settings
	Recognised bool
	// Launch is how what runs was started, nil if by Debian's package.
	Launch *Launch
}

// adopted are the settings of a member that somebody else made, as they were
// found: by the marker, or before there is one in the running process.
func (h *HostFacts) adopted() settings {
	if h.Marker != nil {
		return h.Marker.Adopted
	}
	if h.Recognised {
		return h.Running
	}
	return nil
}

// Err joins the errors of all hosts that could not be asked.
func (f Facts) Err() error {
	var errs []error
	for _, n := range sortedKeys(f.Errors) {
		errs = append(errs, f.Errors[n])
	}
	return errors.Join(errs...)
}

// Probe asks all members' hosts at once, in one session each.
func Probe(ctx context.Context, fleet host.Fleet, s Spec) Facts {
	f := Facts{Hosts: map[string]*HostFacts{}, Errors: map[string]error{}, Leaving: map[string]*HostFacts{}}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, m := range s.Members {
		wg.Go(func() {
			hf, err := probeHost(ctx, fleet.Host(m.Target), s, name)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				f.Errors[name] = err
				return
			}
			f.Hosts[name] = hf
		})
	}
	left := s
	left.Members = s.Leaving
	for name, m := range s.Leaving {
		wg.Go(func() {
			hf, err := probeHost(ctx, fleet.Host(m.Target), left, name)
			if err != nil {
				return // dead, perhaps; that is why it leaves
			}
			mu.Lock()
			defer mu.Unlock()
			f.Leaving[name] = hf
		})
	}
	wg.Wait()
	return f
}

func probeHost(ctx context.Context, h host.Host, s Spec, name string) (*HostFacts, error) {
	var p remote.Probe
	p.OS().List(pki.Dir).Content(MarkerPath).Secret(s.credentialsPath()).
		Package(serverPackage, clientPackage, "openssl").Available(serverPackage, clientPackage).
		Unit(Unit).Path(s.initialPath()).Path(s.DataDir()).Path(s.DataDir() + "/member").Path(DefaultDataDir).
		Port(s.ClientPort).Port(s.PeerPort).Disk(s.DataDir())
	for _, file := range s.files(name) {
		p.Content(file.Path)
	}
	p.Content(s.stagePath())
	s.probeSnapshots(&p)
	p.Process(Unit).Tool("etcdctl").Path(previousDropIn).Path(previousDir).Path(previousPath)
	if s.TLS && s.Files == nil {
		for _, a := range s.authorities() {
			p.Content(a.CertificatePath()).Path(a.Path() + "/ca.key")
		}
		p.Content(s.authorityPath())
		for _, l := range s.leaves(name) {
			p.Path(l.Key).Content(l.Certificate)
		}
	}
	facts, err := p.Run(ctx, h)
	if err != nil {
		return nil, err
	}
	hf := &HostFacts{Name: name, Facts: facts, Credentials: readCredentials(facts, s.Name), Kept: kept(facts)}
	if hf.Marker, err = readMarker(facts); err != nil {
		return nil, err
	}
	if s.TLS && s.Files == nil {
		hf.Trusted = facts.Path(s.authorityPath()).Content
		for i, into := range []*[]byte{&hf.Authority, &hf.Next, &hf.Old} {
			if a := s.authorities()[i]; facts.Path(a.Path() + "/ca.key").Exists() {
				*into = facts.Path(a.CertificatePath()).Content
			}
		}
	}
	if s.Files != nil {
		if hf.Looked, err = s.look(ctx, h, name); err != nil {
			return nil, err
		}
		hf.Trusted = hf.Looked[s.Files.on(name).Trusted].Text
	}
	hf.DataDir, hf.Data = s.DataDir(), facts.Path(s.DataDir()+"/member")
	hf.Plain = bytes.Contains(facts.Path(s.envPath()).Content, []byte("\nETCD_ADVERTISE_CLIENT_URLS=\"http://"))
	if !s.Adopted() {
		return hf, nil
	}
	if hf.Running, _, err = runningSettings(ctx, h, facts.Process(Unit)); err != nil && hf.Marker == nil {
		return nil, err
	}
	hf.Launch = launchOf(facts.Process(Unit), facts.Package(serverPackage).Installed)
	found := hf.Running
	if hf.Marker != nil {
		found = hf.Marker.Adopted
	}
	if found == nil {
		return hf, nil
	}
	hf.DataDir = found["DATA_DIR"]
	var data remote.Probe
	data.Path(hf.DataDir + "/member")
	if facts, err = data.Run(ctx, h); err != nil {
		return nil, err
	}
	hf.Data = facts.Path(hf.DataDir + "/member")
	return hf, nil
}

// Absent reports whether there is definitely nothing of this cluster on the
// host: it answered, and neither a marker nor data of ours is there.
func (h *HostFacts) Absent(s Spec) bool {
	if s.Adopted() && h.Marker == nil {
		// Without a mark only a running member can be recognised; a stopped one
		// is not gone.
		return !h.Facts.Package(serverPackage).Installed && !h.Facts.Unit(Unit).Loaded
	}
	return (h.Marker == nil || h.Marker.Cluster != s.Name) && !h.Data.Exists()
}
