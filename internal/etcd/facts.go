package etcd

import (
	"context"
	"errors"
	"sync"

	"github.com/pgha/terraform-provider-pgha/internal/host"
	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Facts is what a probe found on the members' hosts. A host that could not be
// asked is in Errors and not in Hosts.
type Facts struct {
	Hosts  map[string]*HostFacts
	Errors map[string]error
}

// HostFacts is what was found on one member's host.
type HostFacts struct {
	Name   string
	Facts  *remote.Facts
	Marker *Marker
	// Credentials are secrets, nil if they are not on this host.
	Credentials *Credentials
	// Authority is the certificate of the cluster's authority, if this host
	// holds it.
	Authority []byte
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
	f := Facts{Hosts: map[string]*HostFacts{}, Errors: map[string]error{}}
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
	wg.Wait()
	return f
}

func probeHost(ctx context.Context, h host.Host, s Spec, name string) (*HostFacts, error) {
	var p remote.Probe
	p.OS().Clock().Content(MarkerPath).Secret(s.credentialsPath()).
		Package(serverPackage, clientPackage, "openssl").Available(serverPackage, clientPackage).
		Unit(Unit).Path(s.DataDir()).Path(s.DataDir() + "/member").Path(DefaultDataDir).
		Port(s.ClientPort).Port(s.PeerPort).Disk(s.DataDir())
	for _, file := range s.files(name, "") {
		p.Path(file.Path)
	}
	if s.TLS {
		p.Content(Authority(s.Name).CertificatePath()).Path(Authority(s.Name).Path() + "/ca.key").Path(s.authorityPath())
		for _, l := range s.leaves(name) {
			p.Path(l.Key).Content(l.Certificate)
		}
	}
	facts, err := p.Run(ctx, h)
	if err != nil {
		return nil, err
	}
	hf := &HostFacts{Name: name, Facts: facts, Credentials: readCredentials(facts, s.Name)}
	if hf.Marker, err = readMarker(facts); err != nil {
		return nil, err
	}
	if s.TLS && facts.Path(Authority(s.Name).Path()+"/ca.key").Exists() {
		hf.Authority = facts.Path(Authority(s.Name).CertificatePath()).Content
	}
	return hf, nil
}

// Absent reports whether there is definitely nothing of this cluster on the
// host: it answered, and neither a marker nor data of ours is there.
func (h *HostFacts) Absent(s Spec) bool {
	return (h.Marker == nil || h.Marker.Cluster != s.Name) && !h.Facts.Path(s.DataDir()+"/member").Exists()
}
