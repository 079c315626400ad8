package etcd

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/engine"
	"github.com/pgha/terraform-provider-pgha/internal/wait"
)

// What a snapshot must not bring back. Patroni trusts what is in etcd: one that finds
// its own name in the leader's key takes the lock, and promotes itself, whoever
// else is the primary (Patroni, dcs/etcd3.py, _update_leader, and ha.py,
// process_healthy_cluster). So everything goes that was true of a moment only:
//
//   - all keys that are bound to a lease: leaders, members, locks, claims. A lease
//     is some process's word that it is there;
//   - of each Patroni cluster and each of its Citus groups: failover, sync, status,
//     failsafe. The leader writes them anew.
//
// What stays: initialize, config, history, and our own records. Patroni is told to
// pause in the same stroke, which is in its config. Paused, a node that runs as the
// primary takes the leader's lock, and no other may. So whoever has been the
// primary all the time leads on.

// fitted are the changes to what is in a snapshot.
type fitted struct {
	drop []string
	put  map[string]string
}

// momentary are Patroni's keys without a lease that are true of a moment only
// (Patroni, dcs/__init__.py).
var momentary = []string{"leader", "failover", "sync", "status", "failsafe", "optime/leader"}

// RestoredKey is where it is noted that what etcd knows of a Patroni cluster is from
// a snapshot, so that it is compared with the nodes before anybody goes by it. Own is
// where the provider keeps what it knows of the cluster, and ends in "/".
func RestoredKey(own string) string { return own + "restored" }

// pausedPrefix is where it is noted which of Patroni's clusters a restore has paused.
func pausedPrefix(s Spec) string { return "/pgha/etcd/" + s.Name + "/paused" }

// fitting finds out what has to change.
func fitting(s Spec, keys []KeyValue) fitted {
	f := fitted{put: map[string]string{}}
	have := map[string]KeyValue{}
	var dirs []string
	for _, kv := range keys {
		have[kv.Key] = kv
		if strings.HasPrefix(kv.Key, "/pgha/") {
			if own, ok := strings.CutSuffix(kv.Key, "/record"); ok && strings.HasPrefix(kv.Key, "/pgha/patroni/") {
				f.put[RestoredKey(own+"/")] = s.Restore.From()
			}
			continue
		}
		if dir, name := path.Split(kv.Key); name == "initialize" || name == "config" {
			dirs = append(dirs, dir)
		}
	}
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	for _, kv := range keys {
		stale := kv.Lease != 0 || strings.HasPrefix(kv.Key, joiningPrefix(s)) || strings.HasPrefix(kv.Key, sinceKey(s, ""))
		for _, dir := range dirs {
			rest, within := strings.CutPrefix(kv.Key, dir)
			stale = stale || within && (slices.Contains(momentary, rest) || strings.HasPrefix(rest, "members/"))
		}
		if stale {
			f.drop = append(f.drop, kv.Key)
		}
	}
	for _, dir := range dirs {
		if config, changed := setPause(have[dir+"config"].Value, true); changed {
			f.put[dir+"config"] = config
			f.put[pausedPrefix(s)+dir] = "by a restore"
		}
	}
	return f
}

// setPause sets or removes pause in Patroni's dynamic configuration. It reports
// false if that changes nothing. A configuration that is not there is not made: the
// leader makes it, with all settings, only where there is none.
func setPause(config string, pause bool) (string, bool) {
	var doc map[string]json.RawMessage
	if json.Unmarshal([]byte(config), &doc) != nil || doc == nil {
		return config, false
	}
	is := string(doc["pause"]) == "true"
	if is == pause {
		return config, false
	}
	if pause {
		doc["pause"] = json.RawMessage("true")
	} else {
		delete(doc, "pause")
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return config, false
	}
	return string(b), true
}

// resumeTimeout is for how long it is waited for Patroni's nodes to come back: they
// look for etcd in every turn, and one that gave up starts again after seconds.
const resumeTimeout = 90 * time.Second

// resume lets Patroni's clusters go on that the restore has paused, each as soon as
// that can lose nothing. Those that cannot resume yet stay paused, which is told.
func (d *Doer) resume(s Spec) engine.Step {
	return d.step(s, "", "etcd.restore.resume", "let Patroni resume, each cluster once a node leads or all its nodes are back", engine.Safe, func(ctx context.Context) error {
		waiting, cancel := context.WithTimeout(ctx, resumeTimeout)
		defer cancel()
		var last []string
		err := wait.Until(waiting, d.Log, "the Patroni clusters on etcd cluster "+s.Name+" to come back", time.Second, func(ctx context.Context) (bool, string, error) {
			c, err := d.client(ctx, s)
			if err != nil {
				return false, "", err
			}
			waiting, err := Resume(ctx, c, s.Name)
			if err != nil {
				return false, "", err // also where only time is up
			}
			last = waiting
			return len(last) == 0, strings.Join(last, "; "), nil
		})
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		if len(last) == 0 {
			return err
		}
		for _, why := range last {
			d.Log.WarnContext(ctx, "a Patroni cluster stays paused, and read-only if it has no primary: apply its pgha_patroni_cluster, or start its nodes and resume it (patronictl resume)", "cluster", why)
		}
		return nil
	})
}

// Resume resumes those of Patroni's clusters that a restore of an etcd cluster has
// paused and that are ready for it, and says what the others lack. Ready is one that
// has a leader: in pause only a node that ran as the primary could become that. Or one
// without, whose nodes are all there with PostgreSQL running: then each knows of all
// others, and none leads that is behind another one (Patroni, ha.py,
// is_healthiest_node).
func Resume(ctx context.Context, c Client, name string) (waiting []string, err error) {
	notes, err := c.List(ctx, pausedPrefix(Spec{Name: name})+"/")
	if err != nil {
		return nil, err
	}
	for _, note := range notes {
		dir := strings.TrimPrefix(note.Key, pausedPrefix(Spec{Name: name}))
		why, err := unready(ctx, c, dir)
		if err != nil {
			return nil, err
		}
		if why != "" {
			waiting = append(waiting, strings.Trim(dir, "/")+": "+why)
			continue
		}
		if err := Unpause(ctx, c, name, dir); err != nil {
			return nil, err
		}
	}
	return waiting, nil
}

// Unpause lets one cluster resume, whatever is there of it, and forgets that a
// restore has paused it. Dir is where Patroni keeps its keys, and ends in "/".
func Unpause(ctx context.Context, c Client, name, dir string) error {
	for {
		kv, there, err := c.Get(ctx, dir+"config")
		if err != nil {
			return err
		}
		config, changed := setPause(kv.Value, false)
		if !there || !changed {
			break
		}
		if swapped, err := c.Swap(ctx, dir+"config", config, kv.Revision); err != nil {
			return err
		} else if swapped {
			break
		}
	}
	return c.Delete(ctx, pausedPrefix(Spec{Name: name})+dir)
}

// Pause has a configuration say that Patroni pauses, and notes that. It is for one
// that is not in etcd yet.
func Pause(ctx context.Context, c Client, name, dir, config string) (string, error) {
	paused, changed := setPause(config, true)
	if !changed {
		return config, nil
	}
	return paused, c.Put(ctx, pausedPrefix(Spec{Name: name})+dir, "by a restore")
}

// unready says what a cluster lacks before it may resume.
func unready(ctx context.Context, c Client, dir string) (string, error) {
	if _, led, err := c.Get(ctx, dir+"leader"); err != nil || led {
		return "", err
	}
	members, err := c.List(ctx, dir+"members/")
	if err != nil {
		return "", err
	}
	state := map[string]string{}
	for _, kv := range members {
		var m struct{ State string }
		_ = json.Unmarshal([]byte(kv.Value), &m)
		state[strings.TrimPrefix(kv.Key, dir+"members/")] = m.State
	}
	nodes, err := c.List(ctx, "/pgha/patroni"+dir+"nodes/")
	if err != nil {
		return "", err
	}
	var missing []string
	for _, kv := range nodes {
		name := strings.TrimPrefix(kv.Key, "/pgha/patroni"+dir+"nodes/")
		if _, there := state[name]; !there {
			missing = append(missing, name+" is not there")
		}
	}
	for _, name := range sortedKeys(state) {
		if state[name] != "running" {
			missing = append(missing, fmt.Sprintf("PostgreSQL on %s is %s", name, state[name]))
		}
	}
	switch {
	case len(missing) > 0:
		return "nobody leads, and " + strings.Join(missing, ", "), nil
	case len(nodes) == 0:
		// Not ours: nobody knows how many there are.
		return "nobody leads", nil
	}
	return "", nil
}
