package etcd

import (
	"encoding/json"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Marker is the file on a host that says which cluster its etcd belongs to. It
// is written before anything else is, so that a create that was cut off is
// recognised and continued, and it holds no secrets.
type Marker struct {
	Cluster string `json:"cluster"`
	// UID tells this cluster from another one of the same name.
	UID       string `json:"uid"`
	Member    string `json:"member"`
	MachineID string `json:"machine_id"`
	// Bootstrapped is set once the whole cluster was healthy. From then on
	// a member without data is a member that lost it, not a new one.
	Bootstrapped bool `json:"bootstrapped"`
	// RestartDue: the member's files are changed while it runs. It is restarted
	// for that even if the run that changed them was killed before.
	RestartDue bool `json:"restart_due,omitempty"`
	// Purging: the data is being deleted, on purpose. Where that was cut off,
	// only finishing it is possible.
	Purging bool `json:"purging,omitempty"`
	// Adopted are the settings with which a member ran that somebody else had
	// made. What the cluster's spec does not speak of stays so.
	Adopted settings `json:"adopted,omitempty"`
	// Launch is how that one was started, nil if as Debian's package does it.
	Launch *Launch `json:"launch,omitempty"`
	// Trusts are the authorities that a member's process trusts which has files of
	// somebody else's, by their fingerprints with spaces between: it has read them when
	// it started.
	Trusts string `json:"trusts,omitempty"`
	// TLS is how far turning TLS on has come for this member's files (open, peers,
	// closed); empty where the cluster is as it was made.
	TLS string `json:"tls,omitempty"`
	// Restored is the restore that was done last, so that it is done once.
	Restored string `json:"restored,omitempty"`
	// Restoring: the cluster is being built anew from a snapshot. Where that was
	// cut off, only finishing it is possible.
	Restoring *Restoring `json:"restoring,omitempty"`
}

func (m Marker) file() remote.File {
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		panic(err)
	}
	return remote.File{Path: MarkerPath, Content: append(b, '\n'), Mode: "0600"}
}

// readMarker returns the marker that a probe found, or nil.
func readMarker(f *remote.Facts) (*Marker, error) {
	p := f.Path(MarkerPath)
	if p.Type != remote.Regular {
		return nil, nil
	}
	var m Marker
	if err := json.Unmarshal(p.Content, &m); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w", MarkerPath, err)
	}
	return &m, nil
}
