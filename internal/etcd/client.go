package etcd

import (
	"context"
	"errors"
	"time"
)

// Client is what the provider asks of a running etcd cluster. Errors are those
// of the connection or of etcd; a key that is not there is no error.
type Client interface {
	// Get returns the value of a key.
	Get(ctx context.Context, key string) (KeyValue, bool, error)
	// List returns the keys with a prefix, in order.
	List(ctx context.Context, prefix string) ([]KeyValue, error)
	// Put sets a key whatever it was.
	Put(ctx context.Context, key, value string) error
	// Create sets a key unless it exists, and reports whether it did.
	Create(ctx context.Context, key, value string) (bool, error)
	// Swap sets a key if it is still at the given revision.
	Swap(ctx context.Context, key, value string, revision int64) (bool, error)
	// Delete removes a key; one that is not there is fine.
	Delete(ctx context.Context, key string) error
	// DeletePrefix removes all keys with a prefix, which must end in "/":
	// without it, "/service/a" would also remove "/service/ab/...".
	DeletePrefix(ctx context.Context, prefix string) error

	// Lock takes a lock that is kept alive until it is released or this
	// process is gone for ttl. If somebody else has it, Lock waits for it
	// until ctx ends and then returns a *HeldError.
	Lock(ctx context.Context, key, holder string, ttl time.Duration) (Lock, error)
	// TryLock is Lock without waiting for somebody else.
	TryLock(ctx context.Context, key, holder string, ttl time.Duration) (Lock, error)

	// EnableAuth makes the users root and pgha with these passwords and
	// turns authentication on. It is idempotent.
	EnableAuth(ctx context.Context, c Credentials) error
	// DisableAuth turns authentication off. Users and passwords stay, for when it is
	// turned on again. It is idempotent.
	DisableAuth(ctx context.Context) error
	// AuthEnabled reports whether authentication is on.
	AuthEnabled(ctx context.Context) (bool, error)
	// GrantUser makes or updates a user that may read and write the given
	// prefixes and nothing else.
	GrantUser(ctx context.Context, user, password string, prefixes ...string) error
	// DropUser removes a user and its role; one that is not there is fine.
	DropUser(ctx context.Context, user string) error

	// Status asks one member, by the URL of its client port.
	Status(ctx context.Context, endpoint string) (Status, error)
	// Members lists the members as the cluster knows them.
	Members(ctx context.Context) ([]MemberInfo, error)

	// AddLearner adds a member that does not vote yet, by its peer URL, and
	// returns its id. One that is there already is fine. It and RemoveMember are
	// ErrUnsettled right after another change.
	AddLearner(ctx context.Context, peerURL string) (uint64, error)
	// Promote makes a learner vote. It is ErrNotReady while the learner has not
	// caught up. With authentication on, etcd before 3.5.28 does it only where
	// the client talks to the leader.
	Promote(ctx context.Context, id uint64) error
	// UpdateMember has the cluster know a member by other peer URLs. It may be asked
	// twice.
	UpdateMember(ctx context.Context, id uint64, peerURLs []string) error
	// RemoveMember takes a member out; one that is not there is fine.
	RemoveMember(ctx context.Context, id uint64) error
	// MoveLeader makes a follower lead. The client must talk to the leader.
	MoveLeader(ctx context.Context, id uint64) error

	Space

	// Authority are the certificates of the authorities that the members trust, in
	// PEM, empty without TLS. The first signs; another one is on its way in or out.
	Authority() []byte

	Close() error
}

// KeyValue is a key with its value.
type KeyValue struct {
	Key, Value string
	// Revision is of the last change (etcd's mod_revision), Created of the
	// first (create_revision).
	Revision, Created int64
	// Lease is the id of the lease that the key dies with, or zero.
	Lease int64
}

// Lock is a lock that is held.
type Lock interface {
	// Revision rises with every holder: a fencing token.
	Revision() int64
	// Lost is closed when the lock could not be kept alive.
	Lost() <-chan struct{}
	// Release frees the lock, in bounded time even if ctx has ended.
	Release(ctx context.Context)
}

// HeldError says who holds a lock.
type HeldError struct {
	Key    string
	Holder string // who holds it, in its own words
}

func (e *HeldError) Error() string {
	return "the lock " + e.Key + " is held by " + e.Holder
}

// Status is what a member says about itself.
type Status struct {
	MemberID  uint64
	Leader    uint64 // member id of the leader it knows, 0 if none
	Version   string
	DBSize    int64 // bytes
	DBInUse   int64 // bytes
	RaftIndex uint64
	Applied   uint64
	Learner   bool
	Errors    []string // alarms among them
	ClusterID uint64
}

// MemberInfo is a member as the cluster knows it.
type MemberInfo struct {
	ID         uint64
	Name       string // empty: it has never started
	PeerURLs   []string
	ClientURLs []string
	Learner    bool
}

// ErrUnsettled is a change of the members that etcd itself refuses because the
// members have not all been connected for its health interval of five seconds
// (--strict-reconfig-check).
var ErrUnsettled = errors.New("etcd does not take changes of its members until all have been connected for 5 s")

// ErrUnreachable is a member, or all of them, that does not take requests: it may
// be on its way out, or in.
var ErrUnreachable = errors.New("etcd cannot be reached")

// ErrNotReady is a learner that has not caught up with the leader yet.
var ErrNotReady = errors.New("the learner has not caught up with the leader yet")

// ErrAuth is a login that etcd rejected.
var ErrAuth = errors.New("etcd rejected the user or the password")
