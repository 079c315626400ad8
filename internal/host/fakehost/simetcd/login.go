package simetcd

import (
	"errors"

	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/pki"
)

// Login lets a service on a machine, which comes as somebody, use the cluster that a member at an address
// is of. Without a member there the store is nil; with one, the error is the
// cluster's own.
func (s *Sim) Login(from *fakehost.Machine, id Identity, address, user, password string) (*Store, error) {
	for _, st := range s.stores {
		for _, m := range st.served() {
			if m.learner || m.machine.Address != address || m.unit.Active != "active" || !from.Reaches(m.machine) || !st.Quorum() {
				continue
			}
			if s.connect(id, m) != nil {
				continue
			}
			if c, err := pki.Parse(id.Certificate); err == nil && st.auth && c.Subject.CommonName != "" {
				// etcd, server/embed/serve.go, accessController.ServeHTTP
				return st, errors.New("CommonName of client sending a request against gateway will be ignored and not used as expected")
			}
			name, err := st.login(user, password)
			if err == nil && st.auth && name == "" {
				err = errUserEmpty
			}
			return st, err
		}
	}
	return nil, errors.New("connection refused")
}
