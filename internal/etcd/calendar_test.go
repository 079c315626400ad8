package etcd

import "testing"

func TestCheckSchedule(t *testing.T) {
	for _, good := range []string{
		"hourly", "Daily", "*-*-* 00/6:00", "Mon..Fri 22:30", "sat,sun 03:00:00", "*:0/15", "2027-01-01", "*-*-01 04:00", "*-02~01 00:00", "00:00 UTC",
		"*-*-* 02:30 Europe/Berlin", "Mon", "*-*-1..7 18:00:00",
	} {
		if err := CheckSchedule(good); err != nil {
			t.Errorf("%v", err)
		}
	}
	for _, bad := range []string{
		"", "every hour", "1h", "0 * * * *", "25", "hourly\nExecStart=/bin/false", " daily", "daily ", "@daily", "Mon..", "Funday 10:00", "*-*-*T00:00", "12:", "*-*-* 10:00 nowhere",
	} {
		if CheckSchedule(bad) == nil {
			t.Errorf("%q was taken for a schedule", bad)
		}
	}
}
