package simetcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/etcd"
)

// entry is a key with its value.
type entry struct {
	value             string
	revision, created int64
	lease             *Lease
}

// user is a user with the prefixes it may read and write; root may all.
type user struct {
	password string
	root     bool
	prefixes []string
}

// Lease is what a key dies with. It does not run out while its owner lives:
// what counts is when the owner was lost.
type Lease struct {
	ID      int64
	expired bool
}

func (st *Store) keyValue(key string) etcd.KeyValue {
	e := st.keys[key]
	kv := etcd.KeyValue{Key: key, Value: e.value, Revision: e.revision, Created: e.created}
	if e.lease != nil {
		kv.Lease = e.lease.ID
	}
	return kv
}

// Get returns a key's value.
func (st *Store) Get(key string) (string, bool) {
	if e := st.keys[key]; e != nil {
		return e.value, true
	}
	return "", false
}

// Revision is that of a key's last change, 0 if it is not there.
func (st *Store) Revision(key string) int64 {
	if e := st.keys[key]; e != nil {
		return e.revision
	}
	return 0
}

// LeaseOf is the lease that a key dies with, nil if it has none.
func (st *Store) LeaseOf(key string) *Lease {
	if e := st.keys[key]; e != nil {
		return e.lease
	}
	return nil
}

// Put sets a key, with a lease unless it is nil.
func (st *Store) Put(key, value string, l *Lease) {
	st.revision++
	e := st.keys[key]
	if e == nil {
		e = &entry{created: st.revision}
		st.keys[key] = e
	}
	changed := e.value != value || e.created == st.revision
	e.value, e.revision, e.lease = value, st.revision, l
	if changed {
		st.wake(key)
	}
}

// Delete removes a key.
func (st *Store) Delete(key string) {
	if st.keys[key] != nil {
		st.revision++
		delete(st.keys, key)
		st.wake(key)
	}
}

// Keys lists the keys with a prefix, in order.
func (st *Store) Keys(prefix string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(st.keys)) {
		if strings.HasPrefix(k, prefix) {
			list = append(list, k)
		}
	}
	return list
}

// NewLease grants a lease.
func (st *Store) NewLease() *Lease {
	st.revision++
	return &Lease{ID: st.revision}
}

// Expire ends a lease, and with it its keys.
func (st *Store) Expire(l *Lease) {
	if l == nil || l.expired {
		return
	}
	l.expired = true
	for k, e := range st.keys {
		if e.lease == l {
			st.Delete(k)
		}
	}
}

// Watch has f told of every key that changes, as in World.Do. Who watches again
// replaces what it watched with.
func (st *Store) Watch(who string, f func(key string)) { st.watchers[who] = f }

func (st *Store) wake(key string) {
	for _, f := range st.watchers {
		f(key)
	}
}

// Errors of a server.
var (
	errNoQuorum   = errors.New("etcdserver: request timed out")
	errUserEmpty  = fmt.Errorf("%w: etcdserver: user name is empty", etcd.ErrAuth)
	errPermission = fmt.Errorf("%w: etcdserver: permission denied", etcd.ErrAuth)
	errAuthFailed = fmt.Errorf("%w: etcdserver: authentication failed, invalid user ID or password", etcd.ErrAuth)
)

// login checks a name and password, and returns whom the client is from now on:
// nobody while authentication is off.
func (st *Store) login(name, password string) (string, error) {
	if !st.auth || name == "" {
		return "", nil
	}
	if u := st.users[name]; u == nil || u.password != password {
		return "", errAuthFailed
	}
	return name, nil
}

// may says whether a user may read and write a key or prefix.
func (st *Store) may(name, key string) error {
	if !st.auth {
		return nil
	}
	u := st.users[name]
	switch {
	case name == "":
		return errUserEmpty
	case u == nil:
		return errAuthFailed
	case u.root:
		return nil
	}
	for _, p := range u.prefixes {
		if strings.HasPrefix(key, p) {
			return nil
		}
	}
	return errPermission
}

// Users lists the users, and whether authentication is on.
func (st *Store) Users() (names []string, auth bool) {
	return slices.Sorted(maps.Keys(st.users)), st.auth
}
