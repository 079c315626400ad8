package patroni

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // zones must not depend on the machine that runs this

	"github.com/pgha/terraform-provider-pgha/internal/problem"
)

// Rollout is how what takes a node out of service goes over a cluster: one node
// at a time, the leader last.
type Rollout struct {
	// MaxLag is how far replicas may be behind, in bytes, when a node has its turn,
	// and when its turn is over.
	MaxLag int64 `json:"max_lag"`
	// Soak is how long a node has to stay well before the next one's turn.
	Soak time.Duration `json:"soak,omitempty"`
	// Patience is how long a turn waits for the other members to be well.
	Patience time.Duration `json:"patience"`
	// Manual: the leader's role is not moved; whoever wants that does it by hand.
	Manual bool `json:"manual_switchover,omitempty"`
	// AllowDowntime: where nobody can take over, the node is restarted all the same.
	AllowDowntime bool `json:"allow_downtime,omitempty"`
	// Window is when turns may begin; nil is always.
	Window *Window `json:"window,omitempty"`
}

// DefaultRollout is what counts where nothing is said: 16 MiB is a segment of WAL,
// and more than Patroni is ever late in saying where the leader is.
func DefaultRollout() Rollout { return Rollout{MaxLag: 16 << 20, Patience: 2 * time.Minute} }

// rollout is what counts for a cluster.
func (k Known) rollout() Rollout {
	if k.Record == nil || k.Record.Rollout == nil {
		return DefaultRollout()
	}
	return *k.Record.Rollout
}

// Window is a stretch of time on some days of the week.
type Window struct {
	Days []time.Weekday `json:"days"` // on which it begins; none is every day
	// From and To are minutes after midnight. A window that ends before it begins
	// ends on the next day.
	From int    `json:"from"`
	To   int    `json:"to"`
	Zone string `json:"time_zone"` // IANA, such as "Europe/Berlin"
}

// ParseWindow reads a window. Days are names of weekdays in English, whole or their
// first three letters; from and to are "22:00".
func ParseWindow(days []string, from, to, zone string) (Window, error) {
	w := Window{Zone: zone}
	for _, name := range days {
		day := time.Weekday(-1)
		for d := time.Sunday; d <= time.Saturday; d++ {
			if strings.EqualFold(name, d.String()) || strings.EqualFold(name, d.String()[:3]) {
				day = d
			}
		}
		if day < 0 {
			return w, fmt.Errorf("%q is not a day of the week, such as Sat or Saturday", name)
		}
		w.Days = append(w.Days, day)
	}
	for _, at := range []struct {
		text string
		to   *int
	}{{from, &w.From}, {to, &w.To}} {
		t, err := time.Parse("15:04", at.text)
		if err != nil {
			return w, fmt.Errorf("%q is not a time of day, such as 22:30", at.text)
		}
		*at.to = t.Hour()*60 + t.Minute()
	}
	if w.From == w.To {
		return w, errors.New("the window ends when it begins; leave it out if it is to be open always")
	}
	if _, err := time.LoadLocation(zone); err != nil || zone == "Local" {
		return w, fmt.Errorf("%q is not a time zone, such as Europe/Berlin or UTC", zone)
	}
	return w, nil
}

func (w Window) String() string {
	var days []string
	for _, d := range w.Days {
		days = append(days, d.String()[:3])
	}
	if len(days) == 0 {
		days = []string{"every day"}
	}
	clock := func(m int) string { return fmt.Sprintf("%02d:%02d", m/60, m%60) }
	return fmt.Sprintf("%s from %s to %s (%s)", strings.Join(days, ", "), clock(w.From), clock(w.To), w.Zone)
}

// Open reports whether the window is open at a moment.
func (w Window) Open(now time.Time) bool {
	zone, err := time.LoadLocation(w.Zone)
	if err != nil {
		return false
	}
	now = now.In(zone)
	at := now.Hour()*60 + now.Minute()
	on := func(d time.Weekday) bool { return len(w.Days) == 0 || slices.Contains(w.Days, d) }
	if w.From < w.To {
		return on(now.Weekday()) && at >= w.From && at < w.To
	}
	// It goes over midnight: the second part belongs to the day before.
	return on(now.Weekday()) && at >= w.From || on((now.Weekday()+6)%7) && at < w.To
}

// check refuses a turn outside the window.
func (r Rollout) check(now time.Time, what string) error {
	if r.Window == nil || r.Window.Open(now) {
		return nil
	}
	return &problem.Error{
		Step: "look whether the maintenance window is open", Cause: fmt.Errorf("it is open %s", r.Window),
		Left: "the node, running as it was; " + what + ".",
		Do:   "apply again while the window is open, or change rollout.window of the pgha_patroni_cluster.",
	}
}
