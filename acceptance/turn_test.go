package acceptance

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/acceptance/cli"
)

// order is in which order tests begin: where time is limited, the last ones may not. What
// everything rests on comes first, and with it the longest; then each promise once, and
// then what is a variant of one before. A test that is not here fails.
var order = []string{
	"TestCitus", "TestLife", "TestCrossDC", "TestVIP", "TestDNS", "TestDrift", "TestDemo", "TestHost", "TestNodes", "TestParameters", "TestImport", "TestSudoAndBastion",
	"TestInterrupted", "TestBookworm", "TestHostileValues", "TestTakeOver", "TestBadGround", "TestEtcdCertificates", "TestUpgradePlan",
	"TestUpgrade", "TestCrossDCCitus", "TestStretched", "TestEtcdMembers", "TestCitusUpgrade", "TestRotation", "TestEtcdRestore", "TestEtcdUpgrade", "TestExtensions",

	"TestBareAndSecrets", "TestNodesLeave", "TestVanished", "TestEtcdTLSOn", "TestEtcdFull", "TestCitusImport", "TestUpgradeFaults",
	"TestEtcdSnapshots", "TestAdopt", "TestEtcdLostWithoutSnapshot", "TestUpgradeFive", "TestEtcdBroughtCertificates",
	"TestEtcdAdoptLayouts", "TestEtcdUpgradeLine", "TestInterruptedSwapped", "TestIPv6Only", "TestDualStack",
	"TestEtcdAcrossDatacenters", "TestFiveByName", "TestWatchdog", "TestEtcdSnapshotsBookworm", "TestCrossDCOldPatroni", "TestCrossDCAround",
}

// turns lets tests begin in their order, as many at a time as "go test -parallel" says.
type turns struct {
	begun   time.Time
	slots   int
	patient time.Duration // how long tests may begin; for ever if zero

	mu      sync.Mutex
	running int
	waiting []waiting
}

type waiting struct {
	rank  int
	begin chan error
}

var queue = turns{begun: time.Now()}

func TestMain(m *testing.M) {
	flag.Parse()
	parallel := flag.Lookup("test.parallel")
	queue.slots, _ = strconv.Atoi(parallel.Value.String())
	if text := os.Getenv("PGHA_LAB_TIME"); text != "" {
		var err error
		if queue.patient, err = time.ParseDuration(text); err != nil {
			fmt.Fprintln(os.Stderr, "PGHA_LAB_TIME:", err)
			os.Exit(2)
		}
	}
	// All of them wait here, and none outside.
	_ = parallel.Value.Set("1000")
	os.Exit(cli.Main(m))
}

// turn waits until it is the turn of a test, or of a part of one that waits for no
// turn itself. Where tests may begin for a while only, which
// PGHA_LAB_TIME says for machines whose time is limited, those that come too late are
// skipped.
func turn(t *testing.T) {
	t.Helper()
	name, _, _ := strings.Cut(t.Name(), "/")
	rank := slices.Index(order, name)
	if rank < 0 {
		t.Fatalf("%s is not in the order of tests", name)
	}
	t.Parallel()
	if testing.Short() {
		return // it is skipped anyway
	}
	if err := queue.wait(rank); err != nil {
		t.Skip(err)
	}
	t.Cleanup(queue.done)
}

func (q *turns) wait(rank int) error {
	w := waiting{rank, make(chan error, 1)}
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	// All tests that wait are let go at once; the first of them is not first in order.
	time.AfterFunc(time.Second, q.next)
	return <-w.begin
}

func (q *turns) done() {
	q.mu.Lock()
	q.running--
	q.mu.Unlock()
	q.next()
}

// next lets those begin that there is room for.
func (q *turns) next() {
	q.mu.Lock()
	defer q.mu.Unlock()
	slices.SortStableFunc(q.waiting, func(a, b waiting) int { return cmp.Compare(a.rank, b.rank) })
	for len(q.waiting) > 0 && q.running < q.slots {
		w := q.waiting[0]
		q.waiting = q.waiting[1:]
		if over := time.Since(q.begun); q.patient > 0 && over > q.patient {
			w.begin <- fmt.Errorf("NOT RUN: tests of the lab may begin for %s, and it is %s: run it by itself, or with more time", q.patient, over.Round(time.Second))
			continue
		}
		q.running++
		w.begin <- nil
	}
}

// Tests begin in their order, so many at a time, and none after the time.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := turns{begun: time.Now(), slots: 2, patient: 10 * time.Minute}
		var mu sync.Mutex
		var begun []int
		running, most, late := 0, 0, 0
		var wg sync.WaitGroup
		for _, rank := range []int{5, 3, 4, 0, 2, 1} {
			wg.Go(func() {
				err := q.wait(rank)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					late++
					return
				}
				begun = append(begun, rank)
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(6 * time.Minute)
				mu.Lock()
				running--
				q.done()
			})
		}
		wg.Wait()
		slices.Sort(begun[:2])
		slices.Sort(begun[2:])
		if !slices.Equal(begun, []int{0, 1, 2, 3}) || most != 2 || late != 2 {
			t.Errorf("begun: %v, %d at a time, %d too late", begun, most, late)
		}
	})
}
