package patroni

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Table renders the plan for people.
func (p UpgradePlan) Table() string {
	var b strings.Builder
	if len(p.Turns) == 0 {
		fmt.Fprintf(&b, "No node of %s has to be taken out of service.\n", p.Scope)
	} else {
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TURN\tNODE\tROLE\tWHY\tHANDS OVER TO")
		for _, t := range p.Turns {
			role := "replica"
			if t.Leads {
				role = "leader"
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", t.Order, t.Node, role, t.Reason, dash(t.HandsOverTo))
		}
		_ = w.Flush()
	}
	if len(p.Steps) > 0 {
		b.WriteByte('\n')
		w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "STEP\tHOST\tRISK\tWHAT")
		for _, s := range p.Steps {
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", s.Order, dash(s.Host), s.Risk, s.Title)
		}
		_ = w.Flush()
	}
	fmt.Fprintf(&b, "\nSwitchovers: %d, moments without writes: %d\n", p.Switchovers, p.WriteGaps)
	for _, list := range []struct {
		title string
		lines []string
	}{{"Why it would not go through", p.Problems}, {"What the versions ask for", p.Hazards}} {
		if len(list.lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n", list.title)
		for _, l := range list.lines {
			fmt.Fprintf(&b, "- %s\n", l)
		}
	}
	return b.String()
}
