package fakefleet_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/pgha/terraform-provider-pgha/internal/fakefleet"
	"github.com/pgha/terraform-provider-pgha/internal/host/fakehost"
)

// Hosts that are far away, or that take their time, take longer and nothing else:
// no question is given up before its answer can have come.
func TestCreateFarAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fakefleet.New(t, fakefleet.Config{Config: fakehost.Config{Seed: 1, Distance: 500 * time.Millisecond}})
		p := f.Start("creator")
		if err := p.Create(patient(t)); err != nil {
			t.Log(p.Output())
			t.Fatal(err)
		}
		checkComplete(t, f)
		checkNothingLeft(t, f)
	})
}
