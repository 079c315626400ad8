package patroni

import (
	"encoding/json"
	"fmt"

	"github.com/pgha/terraform-provider-pgha/internal/remote"
)

// Marker is the file on a host that says which cluster its Patroni belongs to.
// It is written before anything else and holds no secrets.
type Marker struct {
	Scope     string `json:"scope"`
	Namespace string `json:"namespace"`
	// Group is that of a Citus formation.
	Group     *int   `json:"group,omitempty"`
	UID       string `json:"uid"`
	Node      string `json:"node"`
	MachineID string `json:"machine_id"`
	DataDir   string `json:"data_dir"`
	// Joined is set once the node ran as a member.
	Joined bool `json:"joined"`
	// Released: the resource was destroyed and the data kept.
	Released bool `json:"released,omitempty"`
	// ReloadDue: the files of a running node are changed. It is reloaded for
	// that even if the run that changed them was killed before.
	ReloadDue bool `json:"reload_due,omitempty"`
	// RestartDue: other packages are installed, or about to be, than those of which
	// what runs was started: "postgresql" (with Patroni), or "patroni" alone.
	RestartDue string `json:"restart_due,omitempty"`
	// Files are the digests of the files that we wrote and cannot render
	// without secrets, so that Read sees when somebody changed them.
	Files map[string]string `json:"files,omitempty"`
}

// of reports whether a host belongs to a cluster.
func (m Marker) of(c Cluster) bool {
	if (m.Group == nil) != (c.Citus == nil) || m.Group != nil && *m.Group != c.Citus.Group {
		return false
	}
	return m.Scope == c.Scope && m.Namespace == c.Namespace
}

// cluster is the name of the cluster that the host belongs to.
func (m Marker) cluster() string {
	c := Cluster{Scope: m.Scope}
	if m.Group != nil {
		c.Citus = &Citus{Group: *m.Group}
	}
	return c.Name()
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
