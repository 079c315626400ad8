package etcd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pgha/terraform-provider-pgha/internal/debver"
	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// release is a version's line, in which members can be upgraded and back: 3.5 of
// "3.5.16-4".
type release struct{ major, minor int }

func releaseOf(version string) (r release, patch int, ok bool) {
	parts := strings.Split(debver.Upstream(version), ".")
	if len(parts) < 3 {
		return r, 0, false
	}
	var numbers [3]int
	for i := range numbers {
		digits := parts[i]
		if end := strings.IndexFunc(digits, func(c rune) bool { return c < '0' || c > '9' }); i == 2 && end > 0 {
			digits = digits[:end] // of "0~rc1"
		}
		n, err := strconv.Atoi(digits)
		if err != nil {
			return r, 0, false
		}
		numbers[i] = n
	}
	return release{numbers[0], numbers[1]}, numbers[2], true
}

func (r release) String() string { return fmt.Sprintf("%d.%d", r.major, r.minor) }

func (r release) compare(o release) int {
	if r.major != o.major {
		return r.major - o.major
	}
	return r.minor - o.minor
}

// Lines of versions that were tried with this release.
var (
	oldestRelease = release{3, 4}
	newestRelease = release{3, 5}
)

// CheckVersion says why a version cannot be wanted, whatever there is.
func CheckVersion(version string) error {
	r, patch, ok := releaseOf(version)
	switch {
	case !ok:
		return fmt.Errorf("%q is not a version of etcd, such as 3.5.16", version)
	case r.compare(oldestRelease) < 0 || r.compare(newestRelease) > 0:
		return fmt.Errorf("etcd %s was never tried with this release, which knows %s and %s", r, oldestRelease, newestRelease)
	case r == release{3, 5} && patch <= 2:
		return fmt.Errorf("etcd %s can corrupt its data when it is killed under load (fixed in 3.5.3): choose a later one", version)
	}
	return nil
}

// RefusesOldPatroni reports whether an etcd of that version, with authentication
// on, refuses the first request of a Patroni before 4.1.1, which that sends
// without having logged in. Patroni then never starts.
func RefusesOldPatroni(version string) bool {
	for _, line := range []struct{ from, since string }{{"3.6", "3.6.9"}, {"3.5", "3.5.28"}, {"3.4", "3.4.42"}} {
		if debver.Compare(version, line.from) >= 0 {
			return debver.Compare(version, line.since) >= 0
		}
	}
	return false
}

// VersionError is a version that the cluster cannot be brought to.
type VersionError struct{ text string }

func (e *VersionError) Error() string { return e.text }

func refuseVersion(cause, do string) error {
	return &problem.Error{Step: "check the way to the wanted version", Cause: &VersionError{cause}, Left: "the etcd cluster, as it was.", Do: do}
}

// authentication is whether a cluster has it on, and stays so, and whether it is
// wanted in the end.
type authentication struct{ on, wanted bool }

// checkUpgrade says why running members cannot be brought to a version, one after
// the other. Nodes are the versions of the Patroni nodes on top, by
// "SCOPE/MEMBER". The cluster's own version, which decides what its data looks like, is
// that of its oldest member.
func checkUpgrade(running []string, to string, auth authentication, changing bool, nodes map[string]string) error {
	target, _, ok := releaseOf(to)
	if !ok {
		return refuseVersion(fmt.Sprintf("%q is not a version of etcd", to), "choose one such as 3.5.16.")
	}
	running = slices.SortedFunc(slices.Values(running), debver.Compare)
	oldest, _, ok := releaseOf(running[0])
	if !ok {
		return refuseVersion(fmt.Sprintf("a member runs version %q, which cannot be told", running[0]), "see what runs there (etcdctl endpoint status).")
	}
	next := release{oldest.major, oldest.minor + 1}
	switch d := target.compare(oldest); {
	case d < 0:
		return refuseVersion(fmt.Sprintf("the cluster runs %s and %s is wanted: once all members run %s, etcd's data is in its format, and no older line starts with it", running[0], to, oldest),
			fmt.Sprintf("stay with %s; within it every version can be chosen. The way back is a snapshot from before, restored into a new cluster.", oldest))
	case target != oldest && target != next:
		return refuseVersion(fmt.Sprintf("the cluster runs %s and %s is wanted: etcd goes one minor version at a time, and %s comes first", running[0], to, next),
			fmt.Sprintf("set version to one of %s, apply, and go on from there.", next))
	case target == next && auth.on && oldest == release{3, 4}:
		return refuseVersion(fmt.Sprintf("the cluster runs %s with authentication: members of 3.4 and 3.5 do not understand each other's log then, and it cannot be rolled to %s", running[0], to),
			fmt.Sprintf("the order that works, with Patroni 4.1 or later on every node: set auth = false and apply; set version = %q and apply; set auth = true and apply. Until then TLS is what keeps others out. With an older Patroni there is none: make a second etcd cluster.", to))
	case target == next && changing:
		return refuseVersion(fmt.Sprintf("the cluster is to go from %s to %s, and its members are to change as well", oldest, target),
			"apply the one first, then the other.")
	}
	if !auth.wanted || !RefusesOldPatroni(debver.Upstream(to)) {
		return nil
	}
	var old []string
	for _, name := range sortedKeys(nodes) {
		if debver.Compare(nodes[name], "4.1.1") < 0 {
			old = append(old, name+" runs "+nodes[name])
		}
	}
	if len(old) > 0 {
		return refuseVersion(fmt.Sprintf("etcd %s, with authentication on, refuses what Patroni before 4.1.1 asks first: %s, and would be without etcd", to, strings.Join(old, ", ")),
			"bring Patroni to 4.1.1 or later on all of these nodes and apply that; then etcd. Or choose a version of etcd below 3.4.42 or 3.5.28.")
	}
	return nil
}
