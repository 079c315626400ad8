package fakefleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
	"github.com/pgha/terraform-provider-pgha/internal/patroni"
)

// Whenever the provider is killed in an action, the cluster is whole afterwards, no
// acknowledged write is lost, and the next apply finishes what it has to: a restart
// that was noted.
func TestActionsKilled(t *testing.T) {
	const seed = 1
	cluster := func(f *fakefleet.Fleet, uid string) patroni.Cluster { return f.Node(f.Host(1), uid).Cluster }
	for _, action := range []struct {
		name string
		do   func(ctx context.Context, f *fakefleet.Fleet, m *patroni.Manager, uid string) error
	}{
		{"restart", func(ctx context.Context, f *fakefleet.Fleet, m *patroni.Manager, uid string) error {
			_, err := m.RestartNodes(ctx, cluster(f, uid), "")
			return err
		}},
		{"switchover", func(ctx context.Context, f *fakefleet.Fleet, m *patroni.Manager, uid string) error {
			_, _, err := m.Switchover(ctx, cluster(f, uid), "")
			return err
		}},
		{"reinitialize", func(ctx context.Context, f *fakefleet.Fleet, m *patroni.Manager, uid string) error {
			return m.Reinitialize(ctx, cluster(f, uid), replicas(f)[0].Name, func(string) {})
		}},
	} {
		total := 0
		created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
			p := f.Start("undisturbed")
			if err := action.do(patient(t), f, p.PatroniManager(), uid); err != nil {
				t.Fatal(err)
			}
			total = p.Mutations()
		})
		if total < 1 {
			t.Fatalf("%s changes nothing", action.name)
		}
		for k := 1; k <= total; k += stride(3, 1) {
			for _, after := range []bool{true, false} {
				if testing.Short() && !after {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s change %d", action.name, map[bool]string{true: "after", false: "before"}[after], k), func(t *testing.T) {
					t.Parallel()
					fault := fakehost.CrashBefore(k)
					if after {
						fault = fakehost.CrashAfter(k)
					}
					created(t, seed, func(t *testing.T, f *fakefleet.Fleet, uid string) {
						f.Do(func() { f.Patroni.Write(fakefleet.Scope, 4096) })
						p := f.Start("killed", fault)
						switch err := action.do(patient(t), f, p.PatroniManager(), uid); {
						case err == nil && !p.Crashed() && action.name == "switchover" && after:
							// The answer to the request, with which it would have been killed, comes
							// when all is done.
						case err == nil || !p.Crashed():
							t.Fatalf("the run was not killed: %v", err)
						}
						f.Settle()
						f.WaitHealthy(2)
						if err := f.Start("next").ApplyNodes(patient(t), uid, f.Machines()...); err != nil {
							t.Fatal(err)
						}
						f.WaitHealthy(2)
						f.Do(func() {
							if len(f.Patroni.Lost) > 0 || len(f.Patroni.Reinitialized) > 1 {
								t.Errorf("lost %v, cloned %v", f.Patroni.Lost, f.Patroni.Reinitialized)
							}
							for _, m := range f.Machines() {
								if text := string(m.Files.Read(patroni.MarkerPath)); strings.Contains(text, "restart_due") {
									t.Errorf("%s still has to be restarted: %s", m.Name, text)
								}
							}
						})
						again := f.Start("again")
						if err := again.ApplyNodes(patient(t), uid, f.Machines()...); err != nil || len(again.Steps()) > 0 {
							t.Errorf("there is still something to do: %v %v", again.Steps(), err)
						}
					})
				})
			}
		}
	}
}
