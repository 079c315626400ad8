package etcd

import (
	"fmt"
	"regexp"
	"strings"
)

// Words that stand for a whole schedule (systemd.time(7), "Calendar Events").
var calendarWords = map[string]bool{
	"minutely": true, "hourly": true, "daily": true, "weekly": true, "monthly": true, "quarterly": true, "semiannually": true, "yearly": true, "annually": true,
}

const (
	calendarDay  = `(mon|monday|tue|tuesday|wed|wednesday|thu|thursday|fri|friday|sat|saturday|sun|sunday)`
	calendarPart = `(\*|[0-9]+(\.\.[0-9]+)?)(/[0-9]+)?`
	calendarList = calendarPart + `(,` + calendarPart + `)*`
)

var (
	calendarDays = regexp.MustCompile(`^(?i)` + calendarDay + `(\.\.` + calendarDay + `)?(,` + calendarDay + `(\.\.` + calendarDay + `)?)*$`)
	calendarDate = regexp.MustCompile(`^(` + calendarList + `-)?` + calendarList + `[-~]` + calendarList + `$`)
	calendarTime = regexp.MustCompile(`^` + calendarList + `:` + calendarList + `(:` + calendarList + `)?$`)
	calendarZone = regexp.MustCompile(`^(UTC|[A-Z][A-Za-z_]+(/[A-Z][A-Za-z_+0-9-]+)+)$`)
)

// CheckSchedule says what is wrong with a schedule in the form of systemd's
// OnCalendar=. It knows the form, not the calendar: only systemd itself finds
// out that a date such as the 31st of February never comes.
func CheckSchedule(s string) error {
	if calendarWords[strings.ToLower(s)] {
		return nil
	}
	wrong := fmt.Errorf("%q is not a schedule that systemd understands, such as \"hourly\", \"*-*-* 00/6:00\" or \"Mon..Fri 22:30\" (see systemd.time(7))", s)
	if strings.ContainsAny(s, "\n\r\t") || s != strings.TrimSpace(s) {
		return wrong
	}
	rest := strings.Split(s, " ")
	take := func(form *regexp.Regexp) bool {
		if len(rest) > 0 && form.MatchString(rest[0]) {
			rest = rest[1:]
			return true
		}
		return false
	}
	days, date, clock := take(calendarDays), take(calendarDate), take(calendarTime)
	if days || date || clock {
		take(calendarZone)
	}
	if len(rest) > 0 || !days && !date && !clock {
		return wrong
	}
	return nil
}
