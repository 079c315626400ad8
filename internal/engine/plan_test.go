package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func step(id, host string, risk Risk) Step {
	return Step{ID: id, Host: host, Title: "do " + id, Risk: risk}
}

// A plan reads in the order in which it is put together; lanes without steps
// are no lanes.
func TestPlan(t *testing.T) {
	a, b, c := step("a", "h1", Safe), step("b", "", Restart), step("c", "h2", Reload)
	one := Sequence(a)
	for name, p := range map[string]struct {
		plan Plan
		text string
		risk Risk
	}{
		"empty":                  {Plan{}, "", Safe},
		"one after the other":    {Sequence(a, b).Then(c), "a@h1, b, c@h2", Restart},
		"plan after plan":        {one.ThenPlan(Sequence(c)), "a@h1, c@h2", Reload},
		"side by side":           {one.ThenParallel(Sequence(b), Sequence(c, a)).Then(b), "a@h1, {b | c@h2, a@h1}, b", Restart},
		"one lane is a sequence": {one.ThenParallel(Plan{}, Sequence(c)), "a@h1, c@h2", Reload},
		"no lane is nothing":     {one.ThenParallel(Plan{}), "a@h1", Safe},
		"lanes in lanes":         {Plan{}.ThenParallel(one.ThenParallel(one, one), one), "{a@h1, {a@h1 | a@h1} | a@h1}", Safe},
	} {
		if got := p.plan.String(); got != p.text {
			t.Errorf("%s: %q, want %q", name, got, p.text)
		}
		if got := p.plan.Risk(); got != p.risk {
			t.Errorf("%s: risk %s, want %s", name, got, p.risk)
		}
		if p.plan.Empty() != (p.text == "") {
			t.Errorf("%s: empty is %v", name, p.plan.Empty())
		}
	}
}

// Plans are values: adding to one does not change another that began the same.
func TestPlansDoNotShare(t *testing.T) {
	base := Sequence(step("1", "", 0), step("2", "", 0), step("3", "", 0))
	x, y := base.Then(step("x", "", 0)), base.Then(step("y", "", 0))
	z := base.ThenParallel(Sequence(step("p", "", 0)), Sequence(step("q", "", 0)))
	for want, p := range map[string]Plan{"1, 2, 3": base, "1, 2, 3, x": x, "1, 2, 3, y": y, "1, 2, 3, {p | q}": z} {
		if p.String() != want {
			t.Errorf("%q, want %q", p.String(), want)
		}
	}
}

func TestDescribe(t *testing.T) {
	p := Sequence(step("a", "h1", Safe), step("b", "", Restart)).
		ThenParallel(Sequence(step("c", "h1", Reload)), Sequence(step("d", "h2", Destructive)))
	for least, want := range map[Risk][]string{
		Safe:        {"h1: do a (safe)", "cluster: do b (restart)", "h1: do c (reload)", "h2: do d (destructive)"},
		Restart:     {"cluster: do b (restart)", "h2: do d (destructive)"},
		Switchover:  {"h2: do d (destructive)"},
		Destructive: {"h2: do d (destructive)"},
	} {
		if d := cmp.Diff(want, p.Describe(least)); d != "" {
			t.Errorf("at least %s (-want +got):\n%s", least, d)
		}
	}
}
